"""foolbox's gradient descent attacks: subclasses that run fairtat's attack.

Source: Rauber et al. 2020, Foolbox Native, JOSS 5(53); its version 3.3.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.integrations.peer import TakesOptions, attack, obstacle, peer_loop, require

foolbox = require("foolbox")
base = require("foolbox.attacks.gradient_descent_base", "foolbox")
ep = require("eagerpy", "foolbox")

__all__ = ["L2PGD", "L2FastGradientAttack", "LinfFastGradientAttack", "LinfPGD"]

_STEP = ("get_loss_fn", "get_optimizer", "value_and_grad", "normalize", "project")


class _Fast(TakesOptions):
    """What the attacks share: a mixin before the peer's class, whose ``run`` it replaces.

    The peer's ``__call__`` stays: criteria, a radius or a list of radii, and (raw, clipped, success).
    """

    @property
    def _norm(self) -> str:
        return "linf" if isinstance(self, base.LinfBaseGradientDescent) else "l2"

    def run(self: Any, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **keywords: Any) -> Any:
        """Images moved by at most ``epsilon``; arguments as the peer's ``run``."""
        images, restore = ep.astensor_(inputs)
        wanted = base.get_criterion(criterion)
        reason = _obstacle(self, model, images.raw, wanted, epsilon)
        if reason is not None or keywords:
            peer_loop("foolbox", reason or f"it gets {', '.join(keywords)}")
            return super().run(model, inputs, criterion, epsilon=epsilon, **keywords)  # type: ignore[misc]
        targeted = hasattr(wanted, "target_classes")
        network, normalize = _network(model, images.raw)
        x_adv = attack(
            network,
            images.raw,
            (wanted.target_classes if targeted else wanted.labels).raw,
            targeted=targeted,
            start=ep.clip(self.get_random_start(images, epsilon), *model.bounds).raw if self.random_start else None,
            eps=epsilon,
            step_size=self.rel_stepsize * epsilon if self.abs_stepsize is None else self.abs_stepsize,
            steps=self.steps,
            norm=self._norm,
            bounds=tuple(model.bounds),
            normalize=normalize,
            **self._options,
        )
        return restore(ep.astensor(x_adv))


def _obstacle(peer: Any, model: Any, images: object, criterion: Any, eps: float) -> str | None:
    changed = [name for name in _STEP if not getattr(type(peer), name).__module__.startswith("foolbox.")]
    if changed:
        return f"{type(peer).__name__} overrides {', '.join(changed)}"
    if not isinstance(images, Tensor) or not isinstance(model, foolbox.PyTorchModel):
        return "the model is not a foolbox.PyTorchModel"
    if not isinstance(criterion, (foolbox.criteria.Misclassification, foolbox.criteria.TargetedMisclassification)):
        return f"the criterion is {type(criterion).__name__}"
    if isinstance(peer, (LinfFastGradientAttack, L2FastGradientAttack)) and hasattr(criterion, "target_classes"):
        return "the peer refuses targets here"
    return obstacle(_module(model), images, eps=eps, norm=peer._norm, bounds=tuple(model.bounds))


def _module(model: Any) -> nn.Module | None:
    """The module in a PyTorchModel, which keeps it in a closure; None if another version keeps it elsewhere."""
    found = inspect.getclosurevars(model._model).nonlocals.get("model")
    return found if isinstance(found, nn.Module) else None


def _network(model: Any, images: Tensor) -> tuple[Any, tuple[Tensor, Tensor] | None]:
    """What to attack and its (mean, std): the module itself where its preprocessing is a number for each channel."""
    mean, std, flip_axis = model._preprocess_args
    module = _module(model)
    if module is None or flip_axis is not None or not all(_per_channel(value, images) for value in (mean, std)):
        return model, None
    if mean is None and std is None:
        return module, None
    like = (mean if mean is not None else std).raw.flatten()
    return module, (
        torch.zeros_like(like) if mean is None else mean.raw.flatten(),
        torch.ones_like(like) if std is None else std.raw.flatten(),
    )


def _per_channel(value: Any, images: Tensor) -> bool:
    """Whether a mean or std broadcasts along dimension 1 of the images alone."""
    if value is None:
        return True
    shape = (1,) * (images.ndim - value.raw.ndim) + tuple(value.raw.shape)
    return bool(shape[1] == images.shape[1] == value.raw.numel())


class LinfPGD(_Fast, foolbox.attacks.LinfPGD):  # type: ignore[name-defined]
    """`foolbox.attacks.LinfPGD`; its arguments and those of :func:`fairtat.fast_pgd` that it lacks.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """


class L2PGD(_Fast, foolbox.attacks.L2PGD):  # type: ignore[name-defined]
    """`foolbox.attacks.L2PGD`; its arguments and those of :func:`fairtat.fast_pgd` that it lacks.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """


class LinfFastGradientAttack(_Fast, foolbox.attacks.LinfFastGradientAttack):  # type: ignore[name-defined]
    """`foolbox.attacks.LinfFastGradientAttack` (FGSM): one step of length eps.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.
    """


class L2FastGradientAttack(_Fast, foolbox.attacks.L2FastGradientAttack):  # type: ignore[name-defined]
    """`foolbox.attacks.L2FastGradientAttack` (FGM): one step of length eps along the gradient.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.
    """

"""Which parameters are trained, and with which settings: frozen layers, groups, and the optimizer over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairtat.errors import UserError, did_you_mean
from fairtat.optional import optional_import
from fairtat.training.config import OptimConfig
from fairtat.training.config.optimizing import Group, parameter_groups

__all__ = ["freeze", "frozen_norms", "make_optimizer"]

SCALE = "scale"  # of a group's learning rate, in the optimizer's group


def freeze(optim: OptimConfig, model: nn.Module) -> None:
    """Leave the parameters that ``optim.freeze`` names, and ``optim.thaw`` does not, without gradients.

    Raises:
        UserError: a pattern matches no parameter, or nothing would be left to train.
    """
    _check_patterns("optim.freeze", optim.freeze, model)
    _check_patterns("optim.thaw", optim.thaw, model)
    for name, parameter in model.named_parameters():
        if _frozen(optim, name):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"optim.freeze is {optim.freeze}, which leaves no parameter to train; expected fewer, or thaw")


def frozen_norms(optim: OptimConfig, model: nn.Module) -> list[nn.Module]:
    """BatchNorm layers that ``optim.freeze`` names: they stay in eval mode, also those without parameters."""
    return [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and _frozen(optim, f"{name}.weight")
    ]


def make_optimizer(optim: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer over all parameters that have gradients.

    sgd::

        v = momentum v + g + weight_decay w         w = w - lr v        (Nesterov: lr (g + weight_decay w + momentum v))

    adamw and lion, with m and u running means of g and g^2::

        w = w - lr weight_decay w - lr m / (sqrt(u) + 1e-8)                     each mean divided by 1 - beta^t
        w = w - lr weight_decay w - lr sign(beta1 m + (1 - beta1) g)            m = beta2 m + (1 - beta2) g

    Raises:
        UserError: a pattern of ``optim.groups`` matches no trained parameter, or lion without timm.

    Source: AdamW: Loshchilov and Hutter, ICLR 2019 (arXiv:1711.05101); Lion: Chen et al., 2023 (arXiv:2302.06675).
    """
    groups = _groups(optim, model)
    decay = float(optim.weight_decay)
    if optim.name == "lion":
        lion: Callable[..., torch.optim.Optimizer] = optional_import(
            "timm.optim", purpose="optim.name lion", extra="vision"
        ).Lion
        return lion(groups, lr=float(optim.lr), betas=_betas(optim, 0.99), weight_decay=decay)
    # fused: one pass over each parameter; and a float16 step that overflowed is left out on the device
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=float(optim.lr), betas=_betas(optim, 0.999), weight_decay=decay, fused=True)
    return torch.optim.SGD(
        groups,
        lr=float(optim.lr),
        momentum=float(optim.momentum),
        weight_decay=decay,
        nesterov=optim.nesterov,
        fused=True,
    )


def _betas(optim: OptimConfig, second: float) -> tuple[float, float]:
    return (0.9, second) if optim.betas is None else (float(optim.betas[0]), float(optim.betas[1]))


def _groups(optim: OptimConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Parameters by their settings, in the model's order; a group that is left empty is left out."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    asked = parameter_groups(optim)
    for group in asked:
        _check_patterns("optim.groups", group.match, model)
        if not any(_matches(group.match, name) for name, _ in trained):
            raise UserError(
                f"optim.groups: {', '.join(group.match)} matches parameters that optim.freeze leaves out alone"
            )
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in trained:
        number = next((k for k, group in enumerate(asked) if _matches(group.match, name)), -1)
        own_decay = number >= 0 and asked[number].weight_decay is not None
        plain = own_decay or optim.decay == "all" or parameter.ndim > 1
        found.setdefault((number, plain), []).append(parameter)
    made = []
    for (number, plain), parameters in found.items():
        settings = asked[number] if number >= 0 else Group([])
        options: dict[str, Any] = {"params": parameters, SCALE: settings.lr}
        if settings.weight_decay is not None:
            options["weight_decay"] = settings.weight_decay
        elif not plain:
            options["weight_decay"] = 0.0
        made.append(options)
    return made


def _frozen(optim: OptimConfig, name: str) -> bool:
    return _matches(optim.freeze, name) and not _matches(optim.thaw, name)


def _matches(patterns: Iterable[str], name: str) -> bool:
    """Whether one of them is the parameter's name, the name of a layer that it is in, or a pattern of either."""
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)


def _check_patterns(key: str, patterns: Iterable[str], model: nn.Module) -> None:
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(_matches([pattern], name) for name in names):
            layers = dict.fromkeys(name.partition(".")[0] for name in names)
            raise UserError(f"{key}: {pattern!r} matches no parameter of the model{did_you_mean(pattern, layers)}")

"""`torchattacks.PGD`, `PGDL2`, `FGSM` and `MIFGSM`: subclasses that run fairtat's attack.

Source: Kim 2020, Torchattacks, arXiv:2010.01950; its version 3.5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fairtat.integrations.peer import attack, obstacle, peer_loop, require

torchattacks = require("torchattacks")

__all__ = ["FGSM", "MIFGSM", "PGD", "PGDL2"]


class _Fast:
    """What the attacks share: a mixin before the peer's class, whose ``forward`` it replaces.

    The other options of :func:`fairtat.fast_pgd` (``engine``, ``amp``, ``backend``, ``chunk_size``, ...) are keywords
    of each class.
    """

    _norm = "linf"
    _options: dict[str, Any]

    def _perturb(
        self: Any, images: Tensor, labels: Tensor, steps: int, step_size: float, start: bool, **more: Any
    ) -> Tensor:
        """The peer's ``forward``, or its own if fairtat computes something else.

        Args:
            images: (N, C, H, W) in [0, 1].
            labels: (N,), or the targets in mode "targeted(label)".
            start: whether to start at random.
            more: options of this attack alone.
        """
        images, labels = images.detach().to(self.device), labels.detach().to(self.device)
        if (reason := _obstacle(self, images)) is not None:
            peer_loop("torchattacks", reason)
            peers_own: Tensor = super().forward(images, labels)  # type: ignore[misc]
            return peers_own
        # In the peer's order, which the random numbers of targets and starts depend on.
        goal = self.get_target_label(images, labels) if self.targeted else labels
        return attack(
            self.model,
            images,
            goal,
            targeted=self.targeted,
            start=self._start(images) if start else None,
            eps=self.eps,
            step_size=step_size,
            steps=steps,
            norm=self._norm,
            normalize=_normalization(self),
            **{**more, **self._options},
        )

    def _start(self: Any, images: Tensor) -> Tensor:
        """Uniform in the box [-eps, eps], as the peer draws it."""
        start: Tensor = images + torch.empty_like(images).uniform_(-self.eps, self.eps)
        return start.clamp(0, 1)


def _obstacle(peer: Any, images: Tensor) -> str | None:
    if type(peer).get_logits is not torchattacks.attack.Attack.get_logits:
        return f"{type(peer).__name__}.get_logits is overridden"
    return obstacle(peer.model, images)


def _normalization(peer: Any) -> tuple[Tensor, Tensor] | None:
    """(mean, std) where ``set_normalization_used`` was called: inside ``forward`` the images are in [0, 1]."""
    if peer._normalization_applied is not False:
        return None
    used = peer.normalization_used
    return used["mean"].flatten(), used["std"].flatten()


class PGD(_Fast, torchattacks.PGD):  # type: ignore[name-defined]
    """`torchattacks.PGD` (Linf); arguments, modes and methods are its own.

    Equal to it up to rounding: the same start for the same seed, the same steps, projected on ``[x - eps, x + eps]``
    where the peer clamps ``x_adv - x``.

    Args:
        model: As in torchattacks, like ``eps``, ``alpha``, ``steps`` and ``random_start``.
        **options: Other options of :func:`fairtat.fast_pgd`, such as ``engine="compiled"``.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(model, eps, alpha, steps, random_start)
        self._options = options

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """x_adv for images (N, C, H, W) in [0, 1] and labels (N,)."""
        return self._perturb(images, labels, self.steps, self.alpha, self.random_start)


class PGDL2(_Fast, torchattacks.PGDL2):  # type: ignore[name-defined]
    """`torchattacks.PGDL2`; arguments, modes and methods are its own.

    Equal to it up to rounding, and where a gradient's norm is far over ``eps_for_division``, which fairtat's step
    does not take (it divides by ``||g|| + 1e-12``).

    Args:
        model: As in torchattacks, like ``eps``, ``alpha``, ``steps``, ``random_start`` and ``eps_for_division``.
        **options: As :class:`PGD`.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """

    _norm = "l2"

    def __init__(
        self,
        model: nn.Module,
        eps: float = 1.0,
        alpha: float = 0.2,
        steps: int = 10,
        random_start: bool = True,
        eps_for_division: float = 1e-10,
        **options: Any,
    ) -> None:
        super().__init__(model, eps, alpha, steps, random_start, eps_for_division)
        self._options = options

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """x_adv for images (N, C, H, W) in [0, 1] and labels (N,)."""
        return self._perturb(images, labels, self.steps, self.alpha, self.random_start)

    def _start(self, images: Tensor) -> Tensor:
        """A direction from a normal distribution and a radius uniform in [0, eps], as the peer draws them."""
        delta = torch.empty_like(images).normal_()
        norm = delta.flatten(1).norm(p=2, dim=1).view(-1, 1, 1, 1)
        radius = torch.zeros_like(norm).uniform_(0, 1)
        start: Tensor = images + delta * (radius / norm * self.eps)
        return start.clamp(0, 1)


class FGSM(_Fast, torchattacks.FGSM):  # type: ignore[name-defined]
    """`torchattacks.FGSM`: one step of length eps from the image.

    Args:
        model: As in torchattacks, like ``eps``.
        **options: As :class:`PGD`.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.
    """

    def __init__(self, model: nn.Module, eps: float = 8 / 255, **options: Any) -> None:
        super().__init__(model, eps)
        self._options = options

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """x_adv for images (N, C, H, W) in [0, 1] and labels (N,)."""
        return self._perturb(images, labels, 1, self.eps, False)


class MIFGSM(_Fast, torchattacks.MIFGSM):  # type: ignore[name-defined]
    """`torchattacks.MIFGSM`: steps along the sign of a velocity that gathers the gradients.

    torchattacks divides a gradient by its mean magnitude, fairtat by its L1 norm: the same up to a factor, of which a
    sign knows nothing.

    Args:
        model: As in torchattacks, like ``eps``, ``alpha``, ``steps`` and ``decay``.
        **options: As :class:`PGD`.

    Source: Dong et al. 2018, arXiv:1710.06081.
    """

    def __init__(
        self,
        model: nn.Module,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        decay: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(model, eps, alpha, steps, decay)
        self._options = options

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """x_adv for images (N, C, H, W) in [0, 1] and labels (N,)."""
        return self._perturb(images, labels, self.steps, self.alpha, False, momentum=self.decay)

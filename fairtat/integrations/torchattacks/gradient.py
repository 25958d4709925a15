"""`torchattacks.PGD`, `PGDL2`, `FGSM` and `MIFGSM` on :func:`fairtat.fast_pgd`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairtat.integrations.peer import attack
from fairtat.integrations.torchattacks.adapter import Fast, torchattacks

__all__ = ["FGSM", "MIFGSM", "PGD", "PGDL2"]


class _FastSteps(Fast):
    def _perturb(self: Any, images: Tensor, labels: Tensor) -> Tensor:
        # In the peer's order, which the random numbers of targets and starts depend on.
        goal = self.get_target_label(images, labels) if self.targeted else labels
        return attack(
            self.model,
            images,
            goal,
            targeted=self.targeted,
            start=self._start(images) if getattr(self, "random_start", False) else None,
            eps=self.eps,
            norm=self._norm,
            normalize=self._normalization(),
            **{**self._steps(), **self._options},
        )

    def _steps(self: Any) -> dict[str, Any]:
        return {"steps": self.steps, "step_size": self.alpha}

    def _start(self: Any, images: Tensor) -> Tensor:
        """Uniform in the box [-eps, eps], as the peer draws it."""
        start: Tensor = images + torch.empty_like(images).uniform_(-self.eps, self.eps)
        return start.clamp(0, 1)


class PGD(_FastSteps, torchattacks.PGD):
    """`torchattacks.PGD` (Linf); arguments, modes and methods are its own.

    Equal to it up to rounding: the same start for the same seed, the same steps, projected on ``[x - eps, x + eps]``
    where the peer clamps ``x_adv - x``.

    Args:
        model: As in torchattacks, like ``eps``, ``alpha``, ``steps`` and ``random_start``.
        **options: Other options of :func:`fairtat.fast_pgd`, such as ``engine="compiled"``.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """


class PGDL2(_FastSteps, torchattacks.PGDL2):
    """`torchattacks.PGDL2`; arguments, modes and methods are its own.

    Equal to it up to rounding, and where a gradient's norm is far over ``eps_for_division``, which fairtat's step
    does not take (it divides by ``||g|| + 1e-12``).

    Args:
        model: As in torchattacks, like ``eps``, ``alpha``, ``steps``, ``random_start`` and ``eps_for_division``.
        **options: As :class:`PGD`.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """

    _norm = "l2"

    def _start(self, images: Tensor) -> Tensor:
        """A direction from a normal distribution and a radius uniform in [0, eps], as the peer draws them."""
        delta = torch.empty_like(images).normal_()
        norm = delta.flatten(1).norm(p=2, dim=1).view(-1, 1, 1, 1)
        radius = torch.zeros_like(norm).uniform_(0, 1)
        start: Tensor = images + delta * (radius / norm * self.eps)
        return start.clamp(0, 1)


class FGSM(_FastSteps, torchattacks.FGSM):
    """`torchattacks.FGSM`: one step of length eps from the image.

    Args:
        model: As in torchattacks, like ``eps``.
        **options: As :class:`PGD`.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.
    """

    def _steps(self) -> dict[str, Any]:
        return {"steps": 1, "step_size": self.eps}


class MIFGSM(_FastSteps, torchattacks.MIFGSM):
    """`torchattacks.MIFGSM`: steps along the sign of a velocity that gathers the gradients.

    torchattacks divides a gradient by its mean magnitude, fairtat by its L1 norm: the same up to a factor, of which a
    sign knows nothing.

    Args:
        model: As in torchattacks, like ``eps``, ``alpha``, ``steps`` and ``decay``.
        **options: As :class:`PGD`.

    Source: Dong et al. 2018, arXiv:1710.06081.
    """

    def _steps(self) -> dict[str, Any]:
        return {**super()._steps(), "momentum": self.decay}

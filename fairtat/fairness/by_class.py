"""What a sample gets by its class: the radius, the step and the weights that the rules have set."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat import checks
from fairtat.checks import check_labels, check_tensor
from fairtat.fairness.class_stats import blame_labels


class ByClass:
    """Radii, steps and weights of the classes, and those of a batch: the base of `FairTAT`, which sets them."""

    lam: float | tuple[float, ...]
    class_eps: Tensor  # (C,) float32, like the next three
    class_step: Tensor | None
    class_weight: Tensor | None
    class_robust_weight: Tensor | None
    _class_robust: Tensor | None  # (C,) float64, A_k

    def eps_for(self, y: Tensor) -> Tensor:
        """The radius of each sample, by its true class: y (N,) int64 -> (N,) float32, in pixel units.

        Raises:
            TypeError, ValueError: y is not (N,) int64 on the device of these rules; for CPU tensors also when a label
                is out of range. On a GPU, where that would wait for the device, the radius of such a sample is NaN.
        """
        self._check_labels(y)
        return _by_label(self.class_eps, y)

    def step_scale_for(self, y: Tensor) -> Tensor | None:
        """What each sample's step size is multiplied by: y (N,) int64 -> (N,) float32; None means 1.

        Raises:
            TypeError, ValueError: as `eps_for`.
        """
        return self._of_samples(self.class_step, y)

    def weight_for(self, y: Tensor) -> Tensor | None:
        """The weight of each sample's cross-entropy: y (N,) int64 -> (N,) float32; None means 1.

        The weighted losses are to be averaged over the samples, not divided by the sum of their weights.

        Raises:
            TypeError, ValueError: as `eps_for`.
        """
        return self._of_samples(self.class_weight, y)

    def robust_weight_for(self, y: Tensor) -> Tensor | None:
        """The weight of each sample's divergence (TRADES, MART): y (N,) int64 -> (N,) float32; None means 1.

        Raises:
            TypeError, ValueError: as `eps_for`.
        """
        return self._of_samples(self.class_robust_weight, y)

    def beta_for(self, y: Tensor, beta: float, *, lam: float | None = None) -> Tensor | None:
        """CFA's class-wise beta (CCR), ``(lam + A_k) * beta``: y (N,) int64 -> (N,) float32.

        A_k is the robust training accuracy of the last epoch; a class without samples keeps beta. The loss of CCR is
        ``(1 - b) * CE + b * KL`` with ``b = beta_k / (1 + beta_k)``.

        Args:
            y: (N,) int64 labels.
            beta: weight of the divergence, >= 0.
            lam: lambda >= 0 of the equation; None for that of the radii, where they have one. CFA's for TRADES are 0.5
                here, 0.3 there.

        Returns:
            None until `begin` epochs have finished: the plain beta then holds for all.

        Raises:
            TypeError, ValueError: beta or lam is not a number >= 0, lam is None and the radii have several, or as
                `eps_for`.

        Source: Wei et al., CVPR 2023 (arXiv:2303.14460).
        """
        beta = checks.real("beta", beta, low=0.0)
        if lam is None and isinstance(self.lam, tuple):
            raise ValueError(f"lam must be given: each of the margins has its own, {list(self.lam)}, got None")
        lam = checks.real("lam", self.lam if lam is None else lam, low=0.0)
        robust = self._class_robust
        class_beta = None if robust is None else torch.where(robust.isnan(), beta, (lam + robust) * beta).float()
        return self._of_samples(class_beta, y)

    def _check_labels(self, y: Tensor) -> None:
        check_tensor("y", y)
        check_labels("y", y, y.shape[0] if y.ndim else 0, "class_eps", self.class_eps)

    def _of_samples(self, by_class: Tensor | None, y: Tensor) -> Tensor | None:
        self._check_labels(y)
        return None if by_class is None else _by_label(by_class, y)


def _by_label(by_class: Tensor, y: Tensor) -> Tensor:
    """by_class[y] (N,); a label out of range is a ValueError on a CPU and NaN on a GPU, which would not survive it."""
    classes = by_class.shape[0]
    if y.device.type != "cpu":
        inside = (y >= 0) & (y < classes)
        return torch.where(inside, by_class.index_select(0, y.clamp(0, classes - 1)), torch.nan)
    try:
        return by_class.index_select(0, y)
    except IndexError:
        blame_labels("y", y, classes)
        raise

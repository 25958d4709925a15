"""DAFA: class weights from how alike the classes look to the network under attack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairtat import checks
from fairtat.fairness.class_stats import ClassStats
from fairtat.fairness.weights.rule import ClassFactors, WeightRule

_SCALE = 2.0**32  # a probability of 1; a class may have 2**31 samples before its sum wraps


def dafa_weight(similarity: Tensor, lam: float = 1.0) -> Tensor:
    """Weight of each class, w_k, from the class means of the adversarial softmax, before any clamp.

    With ``p_ij`` the mean probability that adversarial examples of class i give to class j, every pair i, j with
    ``p_ii < p_jj`` moves ``lam * p_ij * p_jj`` of weight from the easier class j to the harder class i:

        w_i = 1 + sum_{j: p_jj > p_ii} lam * p_ij * p_jj - sum_{j: p_jj < p_ii} lam * p_ji * p_ii

    The weights sum to C. A tie moves nothing (the published code takes from both), nor does a class without samples,
    whose row is NaN.

    Args:
        similarity: p, (C, C) float64.
        lam: lambda >= 0.

    Returns:
        (C,) float64.
    """
    confidence = similarity.diagonal()
    harder = confidence[:, None] < confidence[None, :]  # false where either is NaN
    moved = torch.where(harder, lam * similarity * confidence[None, :], 0.0)  # [i, j]: from j to i
    return 1 + moved.sum(dim=1) - moved.sum(dim=0)


class DAFA(WeightRule):
    """Distance-aware fair adversarial training: `dafa_weight`, measured once, in the last epoch of the warm-up.

    From then on ``w_y`` multiplies the radius, the step and the cross-entropy of a sample; the divergence of TRADES is
    left alone. Harder classes get larger radii, the opposite of CFA's margins, so combine with margins="fixed".

    The sums of probabilities are kept in fixed point of 2**-32, so the weights depend on neither batches nor processes.
    Samples whose logits are not finite are left out.

    Three points in which the published code falls short are not copied. Its weights may become zero or negative, where
    a negative one trains the class away: here they are clamped. They are not saved, so a resumed run has none: here
    they are part of the state. And its loss without TRADES takes a second, unweighted step after each weighted one and
    clips that to the plain eps, which undoes the class's radius: here there is one step and one radius.

    Args:
        num_classes: C >= 2.
        warmup: epochs before the weights apply, >= 1; 70 of 110 in the paper.
        lam: lambda >= 0: 1 for CIFAR-10, 1.5 for CIFAR-100 and STL-10 in the paper.
        clamp: (low, high) bounds of the weights, 0 < low <= high.
        device: where the tensors live.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.

    Source: Lee et al., ICLR 2024 (arXiv:2401.12532).
    """

    name = "dafa"
    memory = ("softmax_sum",)
    fixed = ("num_classes", "warmup")  # the sums are those of one epoch

    softmax_sum: Tensor  # (C, C + 1) int64: row i sums what samples of class i give each class; last, how many they are

    def __init__(
        self,
        num_classes: int,
        *,
        warmup: int = 70,
        lam: float = 1.0,
        clamp: Sequence[float] = (0.1, 10.0),
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_classes, warmup=warmup, device=device)
        self.lam = checks.real("lam", lam, low=0.0)
        self.clamp = checks.positive_interval("clamp", clamp)
        self.softmax_sum = self._zeros(num_classes, num_classes + 1, dtype=torch.int64)

    @property
    def similarity(self) -> Tensor:
        """(C, C) float64: class means of the adversarial softmax; NaN rows for classes without samples."""
        total, count = self.softmax_sum[:, :-1], self.softmax_sum[:, -1:]
        return total.double() / _SCALE / count

    @property
    def sums(self) -> tuple[Tensor, ...]:
        return (self.softmax_sum,) if self._measures else ()

    def update(self, logits: Tensor, y: Tensor) -> None:
        if not self._measures:
            return
        # float64, so that the rounding to fixed point sees the same value whatever the batch that a row is part of.
        probability = torch.softmax(logits.detach().double(), dim=1)
        # On a GPU, labels out of range would be a fatal assertion; they are left out, as `class_stats_` does.
        counts = probability.isfinite().all(dim=1) & (y >= 0) & (y < self.num_classes)
        fixed = torch.where(counts[:, None], probability * _SCALE, 0.0).round().long()
        row = torch.cat([fixed, counts[:, None].long()], dim=1)
        self.softmax_sum.index_add_(0, y.clamp(0, self.num_classes - 1), row)

    @property
    def _measures(self) -> bool:
        return self.epoch + 1 == self.warmup

    def learn(self, train: ClassStats) -> None:
        """Nothing: the sums are all there is."""

    def make_factors(self) -> ClassFactors:
        weight = dafa_weight(self.similarity, self.lam).clamp(*self.clamp)
        return ClassFactors(weight=weight, eps=weight, step=weight)

"""CFOL: exponential weights on the training errors of each class, mixed with the uniform distribution."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from fairtat import checks
from fairtat.fairness.class_stats import ClassStats
from fairtat.fairness.weights.rule import ClassFactors, RuleKeywords, WeightRule, shows_rule_options


class CFOL(WeightRule):
    """Class focused online learning: an adversary that picks classes, EXP3 on the 0-1 loss under the training attack.

    With ``A_k`` the robust training accuracy of class k in the epoch that ends,

        s_k += eta * (1 - A_k)        q = softmax(s)        p_k = gamma / C + (1 - gamma) * q_k        w_k = C * p_k

    The weights average to 1 and multiply cross-entropy and divergence alike; none is below gamma. A class without
    samples counts as free of errors.

    The paper draws the class of each sample from p, and adds ``eta' / p_k`` to s_k at every error: that is
    sampling=True, where `class_shares` is p, the trainer draws by it, and nothing is weighted. Otherwise, as in the
    reweighting variant of the published code, samples come as they are, ``C * p_k`` weights their loss, and the
    estimator divides by the share of class k in the data. In both, over an epoch of N samples the increments add up to
    ``eta' * N * (1 - A_k)``: eta is eta' * N. The published 5e-6 is 0.25 for an epoch of 50,000. s changes once per
    epoch, so that processes need not agree at every step; within an epoch the published p moves by little.

    In a loop of one's own, give ``rule.class_shares / class_counts`` of the samples' classes to a
    torch.utils.data.WeightedRandomSampler.

    Args:
        num_classes: C >= 2.
        eta: rate >= 0 per epoch.
        gamma: share of the uniform distribution, 0 < gamma <= 1.
        sampling: draw classes by p in place of weighting them.
        warmup: epochs before the first update applies, >= 1.
        device: where the tensors live.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.

    Source: Pethick, Chrysos and Cevher, TMLR 2023 (arXiv:2302.08872).
    """

    name = "cfol"
    memory = ("score",)

    score: Tensor  # (C,) float64: s

    @shows_rule_options
    def __init__(
        self,
        num_classes: int,
        *,
        eta: float = 0.25,
        gamma: float = 0.5,
        sampling: bool = False,
        **common: Unpack[RuleKeywords],
    ) -> None:
        super().__init__(num_classes, **common)
        self.eta = checks.real("eta", eta, low=0.0)
        self.gamma = checks.real("gamma", gamma, low=0.0, high=1.0)
        if self.gamma == 0.0:
            raise ValueError(f"gamma must be above 0, or a class could be left out, got {gamma!r}")
        self.sampling = checks.boolean("sampling", sampling)
        self.score = self._zeros(num_classes)

    @property
    def class_shares(self) -> Tensor | None:
        return self.distribution if self.sampling and self.epoch >= self.warmup else None

    @property
    def distribution(self) -> Tensor:
        """(C,) float64: p, which sums to 1."""
        return self.gamma / self.num_classes + (1 - self.gamma) * torch.softmax(self.score, dim=0)

    def learn(self, train: ClassStats) -> None:
        self.score = self.score + self.eta * (1 - train.accuracy).nan_to_num(0.0)

    def make_factors(self) -> ClassFactors:
        if self.sampling:
            return ClassFactors()
        weight = self.num_classes * self.distribution
        return ClassFactors(weight=weight, robust_weight=weight)

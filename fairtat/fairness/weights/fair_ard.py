"""Fair-ARD: class weights from how many steps of the attack the samples resist."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from fairtat import checks
from fairtat.fairness.class_stats import ClassStats
from fairtat.fairness.weights.rule import ClassFactors, RuleKeywords, WeightRule, shows_rule_options

_TINY = 1e-5  # under kappa, as in the published code: a class that resists no step


class FairARD(WeightRule):
    """The class weights of fair adversarial robustness distillation: more for classes that give way sooner.

    With ``kappa_c`` the mean, over the samples of class c in the epoch that ends, of the number of images on the way of
    the training attack (its start, and all that its steps make except the last) that the model still gets right::

        w_c = clamp(C kappa_c^-beta / sum_k kappa_k^-beta, low, high)

    The weights multiply cross-entropy and divergence alike. A class without samples has the weight 1. The published
    code divides the sum of a class by N / C, which assumes that all classes are of one size; here by its own count.

    A loop of one's own calls ``rule.observe_steps(resisted, y)`` for every batch, with what ``watch`` of
    `fairtat.fast_pgd` has counted. So does the trainer, whose attack then runs on the eager engine.

    Args:
        num_classes: C >= 2.
        beta: exponent >= 0; 2 in the published code.
        clamp: (low, high) bounds of the weights, 0 < low <= high.
        warmup: epochs before the first weights apply, >= 1.
        device: where the tensors live.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.

    Source: Yue et al., NeurIPS 2023, by its code.
    """

    name = "fair_ard"
    memory = ("steps", "weight")
    counts_steps = True

    steps: Tensor  # (2, C) int64: steps that the samples of each class resisted in the running epoch, and how many
    weight: Tensor  # (C,) float64

    @shows_rule_options
    def __init__(
        self,
        num_classes: int,
        *,
        beta: float = 2.0,
        clamp: Sequence[float] = (5 / 6, 5 / 2),
        **common: Unpack[RuleKeywords],
    ) -> None:
        super().__init__(num_classes, **common)
        self.beta = checks.real("beta", beta, low=0.0)
        self.clamp = checks.positive_interval("clamp", clamp)
        self.steps = self._zeros(2, num_classes, dtype=torch.int64)
        self.weight = self._zeros(num_classes) + 1

    @property
    def sums(self) -> tuple[Tensor, ...]:
        return (self.steps,)

    def observe_steps(self, resisted: Tensor, y: Tensor) -> None:
        if self._counts:
            self.steps.index_add_(1, y, torch.stack([resisted, torch.ones_like(resisted)]))

    def learn(self, train: ClassStats) -> None:
        total, count = self.steps.double()
        present = count > 0
        inverse = torch.where(present, (total / count + _TINY) ** -self.beta, 0.0)
        weight = present.sum() * inverse / inverse.sum()
        self.weight = torch.where(present, weight.clamp(*self.clamp), 1.0)
        self.steps = torch.zeros_like(self.steps)

    def make_factors(self) -> ClassFactors:
        return ClassFactors(weight=self.weight, robust_weight=self.weight)

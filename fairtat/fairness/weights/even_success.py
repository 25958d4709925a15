"""Even success: attack strengths that even out how often the attack on each class succeeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from typing_extensions import Unpack

from fairtat import checks
from fairtat.fairness.class_stats import ClassStats
from fairtat.fairness.weights.rule import ClassFactors, RuleKeywords, WeightRule, shows_rule_options


class EvenSuccess(WeightRule):
    """A class-wise strength of the attack that lets it succeed equally often on all classes: a rule of this package.

    One strength of attack carries some classes far beyond the decision boundary and leaves others far inside. With
    ``A_k`` the robust training accuracy of class k in the epoch that ends:

        log m_k += alpha * (A_k - mean(A))        radius and step are multiplied by m_k

    A class that the attack breaks less often than the average gets a stronger one, and the other way round, until the
    attack succeeds equally often on all; there the rule is at rest.

    The aim is one of those of BAT (Sun et al., AAAI 2023, arXiv:2209.07534), and the rule had that name once. BAT
    itself has no weights of classes: it is the objective ``bat`` of the trainer.

    Args:
        num_classes: C >= 2.
        alpha: rate >= 0 per epoch.
        eps_range: (low, high) bounds of m, 0 < low <= high.
        warmup: epochs before the first update applies, >= 1.
        device: where the tensors live.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.
    """

    name = "even_success"
    memory = ("log_eps",)

    log_eps: Tensor  # (C,) float64: log m

    @shows_rule_options
    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.1,
        eps_range: Sequence[float] = (0.5, 1.5),
        **common: Unpack[RuleKeywords],
    ) -> None:
        super().__init__(num_classes, **common)
        self.alpha = checks.real("alpha", alpha, low=0.0)
        self.eps_range = checks.positive_interval("eps_range", eps_range)
        self.log_eps = self._zeros(num_classes)

    def learn(self, train: ClassStats) -> None:
        # The state is bounded, not only the factor, or a class that sat at a bound for long could not come back soon.
        low, high = map(math.log, self.eps_range)
        excess = (train.accuracy - train.mean_accuracy).nan_to_num(0.0)
        self.log_eps = (self.log_eps + self.alpha * excess).clamp(low, high)

    def make_factors(self) -> ClassFactors:
        # exp(log(high)) may be a rounding above high.
        radius = self.log_eps.exp().clamp(*self.eps_range)
        return ClassFactors(eps=radius, step=radius)

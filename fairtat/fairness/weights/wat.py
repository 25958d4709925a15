"""WAT: exponential weights on the validation loss of each class under attack."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from fairtat import checks
from fairtat.fairness.class_stats import ClassStats
from fairtat.fairness.weights.rule import ClassFactors, RuleKeywords, ValidationRule, shows_rule_options


class WAT(ValidationRule):
    """Worst-class adversarial training: a no-regret player that puts weight where the robust validation loss is high.

    With ``L_k`` the sum, over the epochs so far, of the mean robust validation loss of class k, and ``L_avg`` the mean
    of the L_k, the player's distribution over the C classes and the average, and the weight of a sample are

        (p_1, ..., p_C, p_avg) = softmax(eta * (L_1, ..., L_C, L_avg))        w_k = C * p_k + p_avg

    so the training loss is the player's mix of class losses and average loss (on balanced data), and the weights
    average to 1. They multiply cross-entropy and divergence alike. A class without validation samples is taken to have
    the average loss.

    The loss here is the cross-entropy on the validation attack; the published code adds up CE + 6 KL of TRADES, so its
    eta = 0.1 weighs somewhat larger losses. That code also gives the average the weight C * p_avg, with which the
    loss, and so the effective learning rate, grows with p_avg; and it forgets L when a run is resumed.

    Args:
        num_classes: C >= 2.
        eta: rate >= 0 per epoch.
        average: whether the average loss is one of the player's choices, which holds average robustness up.
        warmup: epochs before the first update applies, >= 1.
        device: where the tensors live.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.

    Source: Li and Liu, AAAI 2023 (arXiv:2302.04025).
    """

    name = "wat"
    memory = ("loss_sum",)

    loss_sum: Tensor  # (C,) float64: L_k

    @shows_rule_options
    def __init__(
        self,
        num_classes: int,
        *,
        eta: float = 0.1,
        average: bool = True,
        **common: Unpack[RuleKeywords],
    ) -> None:
        super().__init__(num_classes, **common)
        self.eta = checks.real("eta", eta, low=0.0)
        self.average = checks.boolean("average", average)
        self.loss_sum = self._zeros(num_classes)

    def learn_from(self, clean: ClassStats, robust: ClassStats) -> None:
        loss = robust.loss_mean
        self.loss_sum = self.loss_sum + torch.where(loss.isfinite(), loss, loss.nanmean().nan_to_num(0.0))

    def make_factors(self) -> ClassFactors:
        losses = self.loss_sum
        if self.average:
            losses = torch.cat([losses, losses.mean(dim=0, keepdim=True)])
        share = torch.softmax(self.eta * losses, dim=0)
        weight = self.num_classes * share[: self.num_classes]
        if self.average:
            weight = weight + share[-1]
        return ClassFactors(weight=weight, robust_weight=weight)

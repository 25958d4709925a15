"""FRL: weights and radii that grow for the classes which violate a fairness constraint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from fairtat import checks
from fairtat.checks import check_choice
from fairtat.fairness.class_stats import ClassStats
from fairtat.fairness.weights.rule import ClassFactors, RuleKeywords, ValidationRule, shows_rule_options

MODES = ("reweight", "remargin", "both")


class FRL(ValidationRule):
    """Fair robust learning: no class's validation error may exceed the average by more than a tolerance.

    Of the clean and the attacked validation images, with R the share of errors, ``R_nat = R_clean`` and
    ``R_bndy = R_robust - R_clean`` (boundary errors: right until attacked), over all samples and of each class. After
    every epoch

        g_nat,k  = R_nat,k - R_nat - tau1        phi_nat,k  += alpha1 * g_nat,k
        g_bndy,k = R_bndy,k - R_bndy - tau2      phi_bndy,k += alpha2 * g_bndy,k      log m_k += alpha_eps * g_bndy,k

    where each phi is then set to at least 0 and, if its sum exceeds `limit`, scaled down to it. Then

        reweight: w_k = 1 + C * phi_k - sum(phi), for the cross-entropy by phi_nat, for the divergence by phi_bndy
        remargin: radius and step are multiplied by m_k

    The weights are positive and average to 1. Mode "remargin" meets boundary errors by radii alone, "reweight" by
    weights alone, "both" by both; natural errors are reweighted in all of them, as no radius mends those. It is meant
    for an objective with both terms (trades, mart): with one cross-entropy on adversarial examples only phi_nat acts.

    In three points this is not the published code. That code divides by the sum of the weights in each batch; these
    weights average to 1, so the loss is divided by the number of samples. Its log m has no bounds, only m, so a class
    that was fair for long cannot react; here log m stays within bounds. And it takes a quarter of the batch's largest
    radius as the step of every sample; here a step is to its radius as it would be without FRL.

    Args:
        num_classes: C >= 2.
        mode: "reweight", "remargin" or "both".
        tau1, tau2: tolerated excess of natural and boundary error, >= 0; 0.07 in the published code for "both", 0.1 for
            "reweight".
        alpha1, alpha2, alpha_eps: rates >= 0 of the multipliers per epoch; 0.05, 0.1 and 0.4 in the published code.
        limit: largest sum of a phi, 0 <= limit < 1.
        eps_range: (low, high) bounds of m, 0 < low <= high.
        warmup: epochs before the first update applies, >= 1. The published code starts from a trained robust model.
        device: where the tensors live.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.

    Source: Xu et al., ICML 2021 (arXiv:2010.06121).
    """

    name = "frl"
    memory = ("multipliers", "log_eps")

    multipliers: Tensor  # (2, C) float64: phi_nat, phi_bndy
    log_eps: Tensor  # (C,) float64: log m

    @shows_rule_options
    def __init__(
        self,
        num_classes: int,
        *,
        mode: str = "both",
        tau1: float = 0.07,
        tau2: float = 0.07,
        alpha1: float = 0.05,
        alpha2: float = 0.1,
        alpha_eps: float = 0.4,
        limit: float = 0.5,
        eps_range: Sequence[float] = (0.98, 3.0),
        **common: Unpack[RuleKeywords],
    ) -> None:
        super().__init__(num_classes, **common)
        check_choice("mode", mode, MODES)
        self.mode = mode
        self.tau1 = checks.real("tau1", tau1, low=0.0)
        self.tau2 = checks.real("tau2", tau2, low=0.0)
        self.alpha1 = checks.real("alpha1", alpha1, low=0.0)
        self.alpha2 = checks.real("alpha2", alpha2, low=0.0)
        self.alpha_eps = checks.real("alpha_eps", alpha_eps, low=0.0)
        self.limit = checks.real("limit", limit, low=0.0, high=1.0)
        if self.limit == 1.0:
            raise ValueError(f"limit must be below 1, or a weight could be 0, got {limit!r}")
        self.eps_range = checks.positive_interval("eps_range", eps_range)
        self.multipliers = self._zeros(2, num_classes)
        self.log_eps = self._zeros(num_classes)

    def violation(self, clean: ClassStats, robust: ClassStats) -> Tensor:
        """(2, C) float64: g_nat and g_bndy; 0 for a class without validation samples."""
        natural = (1 - clean.accuracy) - (1 - clean.overall_accuracy) - self.tau1
        boundary = clean.accuracy - robust.accuracy
        boundary = boundary - (clean.overall_accuracy - robust.overall_accuracy) - self.tau2
        return torch.stack([natural, boundary]).nan_to_num(0.0)

    def learn_from(self, clean: ClassStats, robust: ClassStats) -> None:
        violation = self.violation(clean, robust)
        rate = torch.tensor([[self.alpha1], [self.alpha2]], dtype=torch.float64, device=self.device)
        raised = (self.multipliers + rate * violation).clamp(min=0.0)
        total = raised.sum(dim=1, keepdim=True)
        self.multipliers = torch.where(total > self.limit, raised * (self.limit / total), raised)
        low, high = map(math.log, self.eps_range)
        self.log_eps = (self.log_eps + self.alpha_eps * violation[1]).clamp(low, high)

    def make_factors(self) -> ClassFactors:
        weight, robust_weight = 1 + self.num_classes * self.multipliers - self.multipliers.sum(dim=1, keepdim=True)
        # exp(log(high)) may be a rounding above high.
        radius = self.log_eps.exp().clamp(*self.eps_range)
        if self.mode == "reweight":
            return ClassFactors(weight=weight, robust_weight=robust_weight)
        return ClassFactors(
            weight=weight, robust_weight=None if self.mode == "remargin" else robust_weight, eps=radius, step=radius
        )

"""TRADES, with CFA's class-wise regularisation."""

from __future__ import annotations

from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.fairness import FairTAT
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.base import Examples, ObjectiveValue
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.losses import cross_entropy, divergence, weighted_mean

__all__ = ["Trades"]


class Trades(PGDObjective):
    """``mean_i w_i CE(f(x_i), y_i) + beta v_i KL(f(x_i) || f(x_adv_i))``.

    The weights are w = `FairTAT.weight_for` and v = `FairTAT.robust_weight_for`. With ``ccr`` (class-wise calibrated
    regularisation) of CFA, by ``beta_k = (lam + A_k) beta`` of `FairTAT.beta_for`::

        (1 - b_k) w_i CE + b_k v_i KL,        b_k = beta_k / (1 + beta_k)

    and before the rules apply the same with beta for all classes: plain TRADES, divided by 1 + beta.

    The attack ascends the divergence from the clean prediction, in the attack's BatchNorm mode, from a little Gaussian
    noise; targeted, it descends the target's cross-entropy. The loss makes two passes, first of the clean images, then
    of the adversarial ones: in train mode each has its own batch statistics, and running statistics take them in that
    order, as in the authors' code.

    Source: Zhang et al., ICML 2019 (arXiv:1901.08573); ccr: Wei et al., CVPR 2023 (arXiv:2303.14460).
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, init="normal", divergence=True)
        self._ccr = config.objective.ccr
        self._ccr_lam = None if config.objective.ccr_lam is None else float(config.objective.ccr_lam)

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        clean_logits = logits_of(model(batch.x))
        logits = logits_of(model(examples.x_adv))
        labels = batch.y if examples.labels is None else examples.labels
        natural = cross_entropy(clean_logits, labels, self._label_smoothing)
        robust = divergence(logits, clean_logits)
        natural_share, robust_share = self._shares(batch.y, fair)
        worst_case = self._worst_case(logits, batch.y)
        loss = weighted_mean(natural_share * natural, fair.weight_for(batch.y), worst_case) + weighted_mean(
            robust_share * robust, fair.robust_weight_for(batch.y), worst_case
        )
        return ObjectiveValue(loss, logits.detach())

    def _shares(self, y: Tensor, fair: FairTAT) -> tuple[Tensor | float, Tensor | float]:
        """What the cross-entropy and the divergence are multiplied by, (N,) or a number."""
        if not self._ccr:
            return 1.0, self._beta
        class_beta = fair.beta_for(y, self._beta, lam=self._ccr_lam)
        beta = self._beta if class_beta is None else class_beta
        share = beta / (1 + beta)
        return 1 - share, share

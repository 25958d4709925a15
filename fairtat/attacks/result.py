"""What an attack reports with ``return_info=True``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["AttackResult"]


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Adversarial images and the model's answers to them; per sample, for the restart that was kept.

    The logits are those of the attack's own forward pass: under its ``bn_mode`` and precision, and for a
    sample that stopped early in ``bn_mode="eval"`` those of the pass that stopped it.
    """

    x_adv: Tensor  # (N, ...) like the images
    logits: Tensor  # (N, C) in the model's dtype
    pred: Tensor  # (N,) int64, the class with the largest logit
    reached: Tensor  # (N,) bool: pred == target; of an untargeted sample: pred != y, the model is fooled
    loss: Tensor  # (N,) float32 (float64 for float64 logits): the attack's loss
    zero_grad: Tensor  # (N,) int64: steps in which the gradient was zero everywhere, a sign of gradient masking
    steps: Tensor  # (N,) int64: steps run, fewer than asked for only with early_stop

"""The definition of every op in plain PyTorch.

What the compiled backends are tested against, and what runs where none of them can: any device,
float64, a machine without a compiler. One file per op; each function takes arguments that
:mod:`fairtat.ops` has already validated.
"""

from fairtat.reference.class_stats import class_stats_
from fairtat.reference.logit_loss import logit_loss
from fairtat.reference.pgd_init import pgd_init
from fairtat.reference.pgd_step import pgd_step_
from fairtat.reference.sample_targets import sample_targets

__all__ = ["class_stats_", "logit_loss", "pgd_init", "pgd_step_", "sample_targets"]

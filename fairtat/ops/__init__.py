"""The ops: validated, dispatched to the fastest backend present, usable under torch.compile."""

from fairtat.ops.class_stats import class_stats_
from fairtat.ops.logit_loss import LogitLoss, logit_loss
from fairtat.ops.logit_stats import logit_stats_
from fairtat.ops.pgd_init import pgd_init
from fairtat.ops.pgd_step import pgd_step_
from fairtat.ops.sample_targets import sample_targets, target_table

__all__ = [
    "LogitLoss",
    "class_stats_",
    "logit_loss",
    "logit_stats_",
    "pgd_init",
    "pgd_step_",
    "sample_targets",
    "target_table",
]

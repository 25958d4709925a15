"""The definition of every op in plain PyTorch.

What the compiled backends are tested against, and what runs where none of them can: any device,
float64, a machine without a compiler. One file per op; each function takes arguments that
:mod:`fairtat.ops` has already validated.
"""

from fairtat.reference.class_stats import class_stats_
from fairtat.reference.logit_loss import logit_loss
from fairtat.reference.logit_stats import logit_stats_
from fairtat.reference.pgd_init import pgd_init
from fairtat.reference.pgd_step import pgd_step_
from fairtat.reference.sample_targets import sample_targets

KERNELS = (pgd_init, pgd_step_, logit_loss, sample_targets, class_stats_, logit_stats_)

OPS: dict[str, str] = {kernel.__name__.removesuffix("_"): kernel.__name__ for kernel in KERNELS}
"""Every op, and what its kernel is called in each backend: an underscore ends the name of one that works in place."""

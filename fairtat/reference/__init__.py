"""The definition of every op in plain PyTorch.

What the compiled backends are tested against, and what runs where none of them can: any device,
float64, a machine without a compiler. One file per op, with the arguments of its kernels and the reference; the
functions take arguments that :mod:`fairtat.ops` has already validated.
"""

from fairtat.reference.class_stats import ClassStatsArgs, class_stats_
from fairtat.reference.definition import Definition
from fairtat.reference.logit_loss import LogitLossArgs, empty_result, logit_loss
from fairtat.reference.logit_stats import LogitStatsArgs, logit_stats_
from fairtat.reference.pgd_init import PgdInitArgs, pgd_init, start_like
from fairtat.reference.pgd_step import PgdStepArgs, pgd_step_
from fairtat.reference.sample_targets import SampleTargetsArgs, empty_targets, sample_targets

DEFINITIONS = (
    Definition(pgd_init, PgdInitArgs, makes=start_like),
    Definition(pgd_step_, PgdStepArgs),
    Definition(logit_loss, LogitLossArgs, makes=empty_result),
    Definition(sample_targets, SampleTargetsArgs, makes=empty_targets),
    Definition(class_stats_, ClassStatsArgs),
    Definition(logit_stats_, LogitStatsArgs),
)

OPS: dict[str, Definition] = {definition.name.removesuffix("_"): definition for definition in DEFINITIONS}
"""Every op. Schema, fake, kernels of the backends, what counts as written, and the tests' tables follow from it."""

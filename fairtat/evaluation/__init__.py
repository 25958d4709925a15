"""Class-wise evaluation of a classifier under attack, and the comparison of several."""

from fairtat.evaluation.compare import Change, Comparison
from fairtat.evaluation.corruptions import CORRUPTIONS, corrupt, mce
from fairtat.evaluation.evaluate import evaluate
from fairtat.evaluation.figures import ClassFigures, rho
from fairtat.evaluation.finding import Finding
from fairtat.evaluation.intervals import newcombe, wilson
from fairtat.evaluation.result import Condition, Evaluation, TargetedSweep
from fairtat.evaluation.samples import Outcome, Samples
from fairtat.evaluation.settings import ATTACKS, AttackSettings, CorruptionSettings, Defaults, parse_attack
from fairtat.evaluation.significance import Bootstrap, paired_bootstrap

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "AttackSettings",
    "Bootstrap",
    "Change",
    "ClassFigures",
    "Comparison",
    "Condition",
    "CorruptionSettings",
    "Defaults",
    "Evaluation",
    "Finding",
    "Outcome",
    "Samples",
    "TargetedSweep",
    "corrupt",
    "evaluate",
    "mce",
    "newcombe",
    "paired_bootstrap",
    "parse_attack",
    "rho",
    "wilson",
]

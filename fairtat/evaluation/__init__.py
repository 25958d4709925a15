"""Class-wise evaluation of a classifier under attack, and the comparison of several."""

from fairtat.errors import renamed
from fairtat.evaluation.attacks.asked import named_attacks
from fairtat.evaluation.attacks.kinds import ATTACKS
from fairtat.evaluation.attacks.names import Defaults, parse_attack
from fairtat.evaluation.attacks.settings import AttackSettings
from fairtat.evaluation.checks.finding import Finding
from fairtat.evaluation.compare import Change, Comparison
from fairtat.evaluation.corruptions import SYNTHETIC_CORRUPTIONS, CorruptionSettings, corrupt, mce
from fairtat.evaluation.evaluate import evaluate
from fairtat.evaluation.metrics.bootstrap import Bootstrap, paired_bootstrap
from fairtat.evaluation.metrics.figures import ClassFigures, rho
from fairtat.evaluation.metrics.intervals import newcombe, wilson
from fairtat.evaluation.result import Condition, Evaluation, TargetedSweep
from fairtat.evaluation.samples import Predictions, Samples

__all__ = [
    "ATTACKS",
    "SYNTHETIC_CORRUPTIONS",
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
    "Predictions",
    "Samples",
    "TargetedSweep",
    "corrupt",
    "evaluate",
    "mce",
    "named_attacks",
    "newcombe",
    "paired_bootstrap",
    "parse_attack",
    "rho",
    "wilson",
]

__getattr__ = renamed(__name__, {"CORRUPTIONS": "SYNTHETIC_CORRUPTIONS", "Outcome": "Predictions"})

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
from fairtat.evaluation.groups import GroupFigures, Grouping, group_figures, read_groups
from fairtat.evaluation.metrics.bootstrap import Bootstrap, paired_bootstrap
from fairtat.evaluation.metrics.figures import ClassFigures, rho
from fairtat.evaluation.metrics.intervals import newcombe, wilson
from fairtat.evaluation.metrics.lowest import Lowest, lowest_accuracy
from fairtat.evaluation.result import Condition, Evaluation, TargetedSweep
from fairtat.evaluation.samples import Predictions, Samples
from fairtat.evaluation.text.export import export_classes

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
    "GroupFigures",
    "Grouping",
    "Lowest",
    "Predictions",
    "Samples",
    "TargetedSweep",
    "corrupt",
    "evaluate",
    "export_classes",
    "group_figures",
    "lowest_accuracy",
    "mce",
    "named_attacks",
    "newcombe",
    "paired_bootstrap",
    "parse_attack",
    "read_groups",
    "rho",
    "wilson",
]

__getattr__ = renamed(__name__, {"CORRUPTIONS": "SYNTHETIC_CORRUPTIONS", "Outcome": "Predictions"})

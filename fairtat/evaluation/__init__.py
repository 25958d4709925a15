"""Class-wise evaluation of a classifier under attack, and the comparison of several."""

from fairtat.evaluation.compare import Change, Comparison
from fairtat.evaluation.evaluate import evaluate
from fairtat.evaluation.intervals import newcombe, wilson
from fairtat.evaluation.result import AttackSettings, ClassFigures, Evaluation, Samples

__all__ = [
    "AttackSettings",
    "Change",
    "ClassFigures",
    "Comparison",
    "Evaluation",
    "Samples",
    "evaluate",
    "newcombe",
    "wilson",
]

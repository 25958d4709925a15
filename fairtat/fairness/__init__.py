"""The fairness mathematics: class statistics, targets, radii, weights, and the object that ties them together."""

from fairtat.fairness.class_stats import ClassStats
from fairtat.fairness.easy import in_easy_class
from fairtat.fairness.fair_tat import FairTAT
from fairtat.fairness.margins import MARGIN_RULES, class_radii
from fairtat.fairness.targets import TARGET_RULES, target_weight
from fairtat.fairness.weights import (
    RENAMED_RULES,
    UNWEIGHTED,
    WEIGHT_RULES,
    ClassFactors,
    ValidationRule,
    WeightRule,
    dafa_weight,
    make_weights,
)
from fairtat.fairness.worst_case import worst_class_weight, worst_distribution

__all__ = [
    "MARGIN_RULES",
    "RENAMED_RULES",
    "TARGET_RULES",
    "UNWEIGHTED",
    "WEIGHT_RULES",
    "ClassFactors",
    "ClassStats",
    "FairTAT",
    "ValidationRule",
    "WeightRule",
    "class_radii",
    "dafa_weight",
    "in_easy_class",
    "make_weights",
    "target_weight",
    "worst_class_weight",
    "worst_distribution",
]

"""The fairness mathematics: class statistics, target weights, class radii, and the object that ties them together."""

from fairtat.fairness.class_stats import ClassStats
from fairtat.fairness.fair_tat import FairTAT
from fairtat.fairness.margins import MARGIN_RULES, class_radii
from fairtat.fairness.targets import TARGET_RULES, target_weight

__all__ = ["MARGIN_RULES", "TARGET_RULES", "ClassStats", "FairTAT", "class_radii", "target_weight"]

"""What an experiment is: nested dataclasses, their ranges, and YAML."""

from fairtat.training.config.experiment import TrainConfig, leaves, make_fairness
from fairtat.training.config.io import from_dict, from_run, load_yaml, parse_yaml, to_dict, to_yaml, unknown_key
from fairtat.training.config.sections import (
    AttackConfig,
    AveragingConfig,
    AwpConfig,
    DataConfig,
    DistillConfig,
    EvalConfig,
    FairnessConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
)
from fairtat.training.config.values import Number

__all__ = [
    "AttackConfig",
    "AveragingConfig",
    "AwpConfig",
    "DataConfig",
    "DistillConfig",
    "EvalConfig",
    "FairnessConfig",
    "ModelConfig",
    "Number",
    "ObjectiveConfig",
    "OptimConfig",
    "TrainConfig",
    "from_dict",
    "from_run",
    "leaves",
    "load_yaml",
    "make_fairness",
    "parse_yaml",
    "to_dict",
    "to_yaml",
    "unknown_key",
]

"""Fair adversarial training from a configuration: trainer, run folders, and reading runs back."""

from fairtat.training.api import Outcome, default_output, train
from fairtat.training.config import (
    AttackConfig,
    DataConfig,
    EvalConfig,
    FairnessConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from fairtat.training.events import Observer, RunStart, StepProgress
from fairtat.training.metrics import ClassAccuracy, EpochMetrics
from fairtat.training.number import Number
from fairtat.training.run import Run, load_data, load_run
from fairtat.training.trainer import Trainer, TrainingDiverged

__all__ = [
    "AttackConfig",
    "ClassAccuracy",
    "DataConfig",
    "EpochMetrics",
    "EvalConfig",
    "FairnessConfig",
    "ModelConfig",
    "Number",
    "Observer",
    "OptimConfig",
    "Outcome",
    "Run",
    "RunStart",
    "StepProgress",
    "TrainConfig",
    "Trainer",
    "TrainingDiverged",
    "default_output",
    "load_data",
    "load_run",
    "train",
]

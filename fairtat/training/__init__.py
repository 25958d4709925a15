"""Fair adversarial training from a configuration: trainer, run folders, and reading runs back."""

from fairtat.training.api import Outcome, default_output, resume, train
from fairtat.training.config import (
    AttackConfig,
    AveragingConfig,
    AwpConfig,
    DataConfig,
    EvalConfig,
    FairnessConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from fairtat.training.distributed import LostProcess
from fairtat.training.dry_run import DryRun, dry_run
from fairtat.training.events import Observer, RunStart, StepProgress
from fairtat.training.metrics import AveragedAccuracy, ClassAccuracy, EpochMetrics
from fairtat.training.number import Number
from fairtat.training.run import Run, load_data, load_run
from fairtat.training.trainer import Trainer, TrainingDiverged

__all__ = [
    "AttackConfig",
    "AveragedAccuracy",
    "AveragingConfig",
    "AwpConfig",
    "ClassAccuracy",
    "DataConfig",
    "DryRun",
    "EpochMetrics",
    "EvalConfig",
    "FairnessConfig",
    "LostProcess",
    "ModelConfig",
    "Number",
    "ObjectiveConfig",
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
    "dry_run",
    "load_data",
    "load_run",
    "resume",
    "train",
]

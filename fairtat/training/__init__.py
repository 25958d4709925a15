"""Fair adversarial training from a configuration: trainer, run folders, and reading runs back."""

from fairtat.errors import renamed
from fairtat.training.api import TrainResult, default_output, resume, train
from fairtat.training.build import load_data, require_trust
from fairtat.training.config import (
    AttackConfig,
    AveragingConfig,
    AwpConfig,
    DataConfig,
    DistillConfig,
    EvalConfig,
    FairnessConfig,
    ModelConfig,
    Number,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
    from_dict,
    load_yaml,
)
from fairtat.training.distributed import LostProcess
from fairtat.training.dry_run import DryRun, dry_run
from fairtat.training.events import (
    AveragedAccuracy,
    ClassAccuracy,
    EpochMetrics,
    Observer,
    RunStart,
    StepProgress,
)
from fairtat.training.objectives import Examples, LearningObjective, Objective, ObjectiveValue
from fairtat.training.run import Run, load_run
from fairtat.training.trainer import Trainer, TrainingDiverged

__all__ = [
    "AttackConfig",
    "AveragedAccuracy",
    "AveragingConfig",
    "AwpConfig",
    "ClassAccuracy",
    "DataConfig",
    "DistillConfig",
    "DryRun",
    "EpochMetrics",
    "EvalConfig",
    "Examples",
    "FairnessConfig",
    "LearningObjective",
    "LostProcess",
    "ModelConfig",
    "Number",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveValue",
    "Observer",
    "OptimConfig",
    "Run",
    "RunStart",
    "StepProgress",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "TrainingDiverged",
    "default_output",
    "dry_run",
    "from_dict",
    "load_data",
    "load_run",
    "load_yaml",
    "require_trust",
    "resume",
    "train",
]

__getattr__ = renamed(__name__, {"Outcome": "TrainResult"})  # goes with 0.3

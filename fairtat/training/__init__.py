"""Fair adversarial training from a configuration: trainer, run folders, and reading runs back."""

from fairtat.errors import renamed
from fairtat.training.api import TrainResult, default_output, resume, train
from fairtat.training.build import load_data, require_trust
from fairtat.training.config import TrainConfig, from_dict, load_yaml, optimizing, sections
from fairtat.training.config.optimizing import *  # noqa: F403 - the sections, listed where they are
from fairtat.training.config.sections import *  # noqa: F403
from fairtat.training.config.values import Number
from fairtat.training.distributed import LostProcess
from fairtat.training.dry_run import DryRun, dry_run
from fairtat.training.events import (
    AveragedAccuracy,
    ClassAccuracy,
    EpochMetrics,
    Observer,
    RunEnd,
    RunStart,
    StepProgress,
)
from fairtat.training.objectives import Examples, LearningObjective, Objective, ObjectiveValue
from fairtat.training.run import Run, load_run
from fairtat.training.trainer import Trainer, TrainingDiverged

__all__ = [
    "AveragedAccuracy",
    "ClassAccuracy",
    "DryRun",
    "EpochMetrics",
    "Examples",
    "LearningObjective",
    "LostProcess",
    "Number",
    "Objective",
    "ObjectiveValue",
    "Observer",
    "Run",
    "RunEnd",
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
__all__ += optimizing.__all__
__all__ += sections.__all__

__getattr__ = renamed(__name__, {"Outcome": "TrainResult"})  # goes with 0.3

"""What a running trainer tells to whoever shows it. The trainer itself prints nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from fairtat.fairness import ClassStats
from fairtat.training.config import TrainConfig
from fairtat.training.metrics import EpochMetrics

__all__ = ["Observer", "RunStart", "StepProgress"]


@dataclass(frozen=True)
class RunStart:
    """Everything is checked and the run folder exists; the first epoch to train begins."""

    path: Path
    config: TrainConfig
    class_names: tuple[str, ...]
    train_samples: int
    val_samples: int
    parameters: int
    device: torch.device
    epoch: int = 0  # finished epochs: more than 0 when a run is resumed
    processes: int = 1


@dataclass(frozen=True)
class StepProgress:
    """A training step was issued (on a GPU it may still be running)."""

    epoch: int  # the running epoch, from 1
    step: int  # steps issued in it
    steps: int  # steps in an epoch
    stats: (
        ClassStats  # running counts of this epoch in this process, on the device: reading waits for it, so read seldom
    )


class Observer:
    """Receives events in the trainer's process; override what you need."""

    def on_start(self, start: RunStart) -> None: ...

    def on_step(self, progress: StepProgress) -> None: ...

    def on_epoch(self, metrics: EpochMetrics) -> None: ...

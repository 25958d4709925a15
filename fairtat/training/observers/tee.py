"""Several observers as one."""

from __future__ import annotations

from fairtat.training.events import EpochMetrics, Observer, RunEnd, RunStart, StepProgress

__all__ = ["Tee"]


class Tee(Observer):
    """Tells several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def on_start(self, start: RunStart) -> None:
        for observer in self.observers:
            observer.on_start(start)

    def on_step(self, progress: StepProgress) -> None:
        for observer in self.observers:
            observer.on_step(progress)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        for observer in self.observers:
            observer.on_epoch(metrics)

    def on_end(self, end: RunEnd) -> None:
        for observer in self.observers:
            observer.on_end(end)

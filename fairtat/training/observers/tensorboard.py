"""The figures of metrics.jsonl as TensorBoard scalars, written while a run trains."""

from __future__ import annotations

from typing import Any

from fairtat.files import refuse_links
from fairtat.optional import optional_import
from fairtat.training.events import EpochMetrics, Observer, RunEnd, RunStart
from fairtat.training.observers.figures import class_tags, figures

__all__ = ["FOLDER", "TensorBoard"]

FOLDER = "tensorboard"
"""Folder of the events inside the run's folder."""

_LAYOUT = {
    "all classes": {
        "clean accuracy": ["Multiline", ["class clean accuracy/.*"]],
        "robust accuracy": ["Multiline", ["class robust accuracy/.*"]],
        "radius": ["Multiline", ["class radius/.*"]],
        "share of targets": ["Multiline", ["class target/.*"]],
    }
}
"""What the tab "custom scalars" draws into one chart each."""


class TensorBoard(Observer):
    """Writes to ``RUN/tensorboard``; look at it with ``tensorboard --logdir runs``.

    A resumed run continues there: points past the epoch from which it resumes are dropped.

    Raises:
        UserError: when it is made, if the package tensorboard is not installed.
    """

    def __init__(self) -> None:
        optional_import("tensorboard", purpose="logging to TensorBoard", extra="tensorboard")
        module = optional_import("torch.utils.tensorboard", purpose="logging to TensorBoard", extra="tensorboard")
        self._writer_class: Any = module.SummaryWriter
        self._writer: Any = None
        self._tags: list[str] = []

    def on_start(self, start: RunStart) -> None:
        self._tags = class_tags(start.class_names)
        refuse_links(start.path / FOLDER)
        self._writer = self._writer_class(
            str(start.path / FOLDER), purge_step=start.epoch + 1 if start.epoch else None, flush_secs=3600
        )
        self._writer.add_custom_scalars(_LAYOUT)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        for tag, value in figures(metrics, self._tags).items():
            self._writer.add_scalar(tag, value, metrics.epoch)
        self._writer.flush()  # an epoch is seen when it is over, and is not lost with the process

    def on_end(self, end: RunEnd) -> None:
        if self._writer is not None:
            self._writer.close()

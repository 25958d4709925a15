"""The figures of metrics.jsonl in Weights & Biases, written while a run trains."""

from __future__ import annotations

import os
from typing import Any

from fairtat.errors import UserError
from fairtat.optional import optional_import
from fairtat.training.events import EpochMetrics, Observer, RunEnd, RunStart
from fairtat.training.observers.figures import class_tags, figures
from fairtat.training.observers.identity import run_id, settings

__all__ = ["WeightsAndBiases"]


class WeightsAndBiases(Observer):
    """One run of Weights & Biases, in the project of ``WANDB_PROJECT`` (by default fairtat).

    Its own variables (``WANDB_MODE=offline``, ``WANDB_ENTITY``, ``WANDB_DIR``, ...) apply. A resumed run continues its
    run there. Only settings and figures are sent: no images, no weights, no code.

    Raises:
        UserError: when it is made, if the package wandb is not installed; at the start, if it cannot begin a run.
    """

    def __init__(self) -> None:
        self._library: Any = optional_import("wandb", purpose="logging to Weights & Biases", extra="wandb")
        self._run: Any = None
        self._tags: list[str] = []

    def on_start(self, start: RunStart) -> None:
        self._tags = class_tags(start.class_names)
        try:
            self._run = self._library.init(
                project=os.environ.get("WANDB_PROJECT", "fairtat"),
                id=run_id(start),
                name=start.path.name,
                config=settings(start),
                resume="allow",
                save_code=False,
            )
        except Exception as error:  # no key, no network: the library's own words say which
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"Weights & Biases cannot begin a run ({reason})") from error

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self._run.log(figures(metrics, self._tags), step=metrics.epoch)

    def on_end(self, end: RunEnd) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if end.state == "finished" else 1)

"""The figures of metrics.jsonl in MLflow, written while a run trains."""

from __future__ import annotations

import itertools
import logging
import re
from typing import Any

from fairtat.errors import UserError
from fairtat.optional import optional_import
from fairtat.training.events import EpochMetrics, Observer, RunEnd, RunStart
from fairtat.training.observers.figures import class_tags, figures
from fairtat.training.observers.identity import run_id, settings

__all__ = ["MLflow"]

_LOG = logging.getLogger("fairtat")
_TAG = "fairtat.run"
_BATCH = 100  # parameters that MLflow takes at once
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow(Observer):
    """One run of MLflow, in the experiment of ``MLFLOW_EXPERIMENT_NAME`` at ``MLFLOW_TRACKING_URI``.

    A resumed run continues its run there. Only settings and figures are sent: no images, no weights, no code. A server
    that cannot be reached after the start costs the figures of an epoch and a warning, not the run.

    Raises:
        UserError: when it is made, if the package mlflow is not installed; at the start, if it cannot begin a run.
    """

    def __init__(self) -> None:
        self._library: Any = optional_import("mlflow", purpose="logging to MLflow", extra="mlflow")
        self._run: str | None = None
        self._tags: list[str] = []

    def on_start(self, start: RunStart) -> None:
        self._tags = class_tags(start.class_names)
        identity = run_id(start)
        try:
            before = self._library.search_runs(
                filter_string=f"tags.`{_TAG}` = '{identity}'", max_results=1, output_format="list"
            )
            if before:
                begun = self._library.start_run(run_id=before[0].info.run_id)
            else:
                begun = self._library.start_run(run_name=start.path.name, tags={_TAG: identity})
                known = list(settings(start).items())
                for first in range(0, len(known), _BATCH):
                    self._library.log_params(dict(itertools.islice(known, first, first + _BATCH)))
        except Exception as error:  # no server, no permission, a run that is active already
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"MLflow cannot begin a run ({reason})") from error
        self._run = begun.info.run_id

    def on_epoch(self, metrics: EpochMetrics) -> None:
        named = {re.sub(r"[^\w\-./: ]", "", name): value for name, value in figures(metrics, self._tags).items()}
        try:
            self._library.log_metrics(named, step=metrics.epoch, run_id=self._run)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            _LOG.warning("warning: MLflow has not taken the figures of epoch %d (%s)", metrics.epoch, reason)

    def on_end(self, end: RunEnd) -> None:
        if self._run is not None:
            self._library.end_run(status=_STATUS[end.state])

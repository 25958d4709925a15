"""The files of a run while it is being written.

Order makes a crash harmless: of an epoch, the line in metrics.jsonl comes first, then best.*, then model.safetensors,
and the checkpoint last. A resumed run starts from the checkpoint, drops what lies past it, and writes it again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from fairtat.errors import UserError
from fairtat.files import DamagedFile, append_json_line, json_lines, parse_json, sealed_json, sealed_text, write_atomic
from fairtat.training.config import TrainConfig, to_yaml
from fairtat.training.observers.tensorboard import FOLDER
from fairtat.training.run.checkpoint import BEST_KEYS, load_checkpoint, save_checkpoint, save_weights
from fairtat.training.run.lock import LOCK_NAME

__all__ = ["RunFolder"]

_LOG = logging.getLogger("fairtat")

_FIRST_FILES = frozenset({
    LOCK_NAME, "config.yaml", "environment.json", "checkpoint.pt", "checkpoint.previous.pt", "model.safetensors",
})  # fmt: skip


class RunFolder:
    """Paths and writers; each file is replaced in one step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.pt"
        self.previous = path / "checkpoint.previous.pt"  # the one before: what is left if the last one is damaged
        self.best = path / "best.pt"
        self.weights = path / "model.safetensors"
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.jsonl"
        self.environment = path / "environment.json"

    @classmethod
    def check_free(cls, path: str | Path) -> Path:
        """``path`` if a new run may be written there: nothing is, or a run that has not finished its first epoch.

        Raises:
            UserError: it is a file, or a folder that holds something worth keeping.
        """
        folder = cls(Path(path))
        if folder.path.exists() and not folder.path.is_dir():
            raise UserError(f"{path}: is a file; choose another --output")
        if not folder._is_untrained():
            resume = f", or continue it with --resume {path}" if folder.checkpoint.exists() else ""
            raise UserError(f"{path}: exists and is not empty; choose another --output{resume}")
        return folder.path

    @classmethod
    def make(cls, path: str | Path) -> RunFolder:
        """The folder, which is made if it is free.

        Raises:
            UserError: it is taken (see `check_free`) or cannot be made.
        """
        folder = cls.check_free(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
        return cls(folder)

    @classmethod
    def begun(cls, path: str | Path) -> RunFolder:
        """The folder of a run that was begun.

        Raises:
            UserError: there is none, or no checkpoint in it.
        """
        folder = cls(Path(path))
        if not folder.path.is_dir():
            raise UserError(f"{folder.path}: no such run folder")
        if not folder.checkpoint.exists() and not folder.previous.exists():
            raise UserError(
                f"{folder.path}: holds no checkpoint to resume from; expected the folder of `fairtat train`"
            )
        return folder

    def _is_untrained(self) -> bool:
        """Whether nothing is there but what a run writes before its first epoch is over."""
        files = self._files()
        names = {file.name for file in files}
        if any(file.is_dir() and not file.is_symlink() for file in files):
            return False
        if names <= {LOCK_NAME}:
            return True
        if self.checkpoint.name in names:
            return names <= _FIRST_FILES and self._last_epoch() == 0
        # As earlier versions left it, which wrote the checkpoint last. A lone config.yaml may be a person's own.
        return {"environment.json"} <= names <= {LOCK_NAME, "config.yaml", "environment.json"}

    def _last_epoch(self) -> int | None:
        try:
            epoch: int = self.load_last()[1]["epoch"]
        except UserError:
            return None
        return epoch

    def _files(self) -> list[Path]:
        """What the folder holds, except temporary files and the events of TensorBoard."""
        found = [] if not self.path.is_dir() else list(self.path.iterdir())
        return [file for file in found if not _is_temporary(file) and not _is_events(file)]

    def begin(
        self, config: TrainConfig, environment: dict[str, Any], state: dict[str, Any], weights: dict[str, Tensor]
    ) -> None:
        """Write a new run's first files; this process holds the lock.

        The untrained model comes first, as a checkpoint: from then on, a run that dies can be resumed, and before,
        there is nothing to keep.

        Raises:
            UserError: the folder has been taken, or cannot be written.
        """
        with self.writing(0, saved=None):
            self.check_free(self.path)
            self._clear()
            save_checkpoint(self.checkpoint, state)
        with self.writing(0, saved=0):
            self.write_config(config)
            self.write_environment(environment)
            save_weights(self.weights, weights)

    def _clear(self) -> None:
        """Remove what a run left that has not finished its first epoch."""
        old = [file for file in self.path.iterdir() if file.name != LOCK_NAME]
        for file in old:
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            else:
                file.unlink()
        if old:
            _LOG.warning("warning: %s: replacing a run that did not finish its first epoch", self.path)

    def write_config(self, config: TrainConfig) -> None:
        content = sealed_text(to_yaml(config), comment="# ")
        write_atomic(self.config, lambda stream: stream.write(content))

    def write_environment(self, environment: dict[str, Any]) -> None:
        content = sealed_json(environment, indent=2)
        write_atomic(self.environment, lambda stream: stream.write(content))

    def note_resumption(self, environment: dict[str, Any], epoch: int) -> None:
        """Add to environment.json with what the run uses after ``epoch``."""
        try:
            first = parse_json(self.environment.read_bytes(), self.environment) if self.environment.is_file() else {}
        except (OSError, UserError) as error:
            _LOG.warning("warning: %s; it is begun anew", error)
            first = {}
        before = first.get("resumed")
        resumed = [*(before if isinstance(before, list) else []), {"after_epoch": epoch, **environment}]
        self.write_environment({**first, "resumed": resumed})

    def save(self, state: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """The checkpoint to resume from, and the weights to evaluate as model.safetensors."""
        save_weights(self.weights, weights)
        save_checkpoint(self.checkpoint, state, keep=self.previous)

    def save_best(self, state: dict[str, Any]) -> None:
        save_weights(self.path / "best.safetensors", state["model"])
        save_checkpoint(self.best, state)

    def best_score(self) -> float | None:
        """The score of best.pt; None where there is none that can be read, with a warning if there is one."""
        if not self.best.exists():
            return None
        try:
            return float(self.load_best()["score"])
        except UserError as error:
            _LOG.warning("warning: %s; the best epoch is chosen anew among those to come", error)
            return None

    def load_best(self) -> dict[str, Any]:
        """The content of best.pt.

        Raises:
            UserError: as `load_checkpoint`.
        """
        return load_checkpoint(self.best, keys=BEST_KEYS)

    def load_last(self) -> tuple[Path, dict[str, Any]]:
        """The last checkpoint, or if that is damaged or gone, the one before it, with a warning on the log.

        Raises:
            UserError: neither can be read, or the last one is of another format.
        """
        try:
            return self.checkpoint, load_checkpoint(self.checkpoint)
        except UserError as error:
            lost = isinstance(error, DamagedFile) or not self.checkpoint.is_file()
            if not lost or not self.previous.exists():
                raise
            last = error
        try:
            state = load_checkpoint(self.previous)
        except UserError as error:
            raise UserError(f"{last}; {error}") from error
        _LOG.warning("warning: %s; going back to epoch %d in %s", last, state["epoch"], self.previous.name)
        return self.previous, state

    def append_metrics(self, line: dict[str, Any]) -> None:
        append_json_line(self.metrics, line)

    def drop_metrics_after(self, epoch: int) -> None:
        """Forget lines past ``epoch``, and those that are damaged or were not written to their end."""
        if not self.metrics.is_file():
            return
        lines = list(json_lines(self.metrics.read_bytes(), self.metrics))
        kept = {
            number: line for line, value in lines if (number := _epoch_of(line, value)) is not None and number <= epoch
        }
        if len(kept) < len(lines) or self.metrics.is_symlink() or self.metrics.stat().st_nlink > 1:
            write_atomic(self.metrics, lambda stream: stream.write(b"".join(kept.values())))
        lost = [str(number) for number in range(1, epoch + 1) if number not in kept]
        if lost:
            _LOG.warning("warning: %s: lines are damaged or missing (epoch %s)", self.metrics, ", ".join(lost))

    def remove_leftovers(self) -> None:
        """Delete temporary files of a process that was killed while it wrote."""
        for file in self.path.iterdir():
            if _is_temporary(file):
                file.unlink(missing_ok=True)

    @contextmanager
    def writing(self, epoch: int, saved: int | None) -> Iterator[None]:
        """Turns a failure of the disk while ``epoch`` is written into one line; ``saved`` is the last checkpoint's."""
        try:
            yield
        except OSError as error:
            what = f"epoch {epoch}" if epoch else "the start of the run"
            safe = (
                f"epoch {saved} is safe: make room, then continue with `fairtat train --resume {self.path}`"
                if saved is not None
                else "make room, then start again"
            )
            raise UserError(f"{self.path}: {what} cannot be written ({error.strerror or error}); {safe}") from error


def _is_temporary(file: Path) -> bool:
    return file.name.startswith(".") and file.name.endswith(".tmp") and not file.is_dir()


def _is_events(file: Path) -> bool:
    return (
        file.name == FOLDER
        and file.is_dir()
        and not file.is_symlink()
        and all(event.name.startswith("events.out.tfevents") for event in file.iterdir())
    )


def _epoch_of(line: bytes, value: dict[str, Any] | DamagedFile) -> int | None:
    """None for a line that is torn or no line of metrics."""
    epoch = None if isinstance(value, DamagedFile) else value.get("epoch")
    return epoch if isinstance(epoch, int) and line.endswith(b"\n") else None

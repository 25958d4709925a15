"""Run folders: what a training run leaves behind, and how it is read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairtat import models
from fairtat.data import Splits, load_splits
from fairtat.errors import UserError
from fairtat.training.checkpoint import load_checkpoint, save_checkpoint
from fairtat.training.config import DataConfig, TrainConfig
from fairtat.training.config_io import from_dict, to_yaml
from fairtat.training.files import append_json_line, write_atomic, write_json

__all__ = ["Run", "RunFolder", "load_data", "load_run"]


@dataclass(frozen=True)
class RunFolder:
    """The files of a run that is being written."""

    path: Path

    @classmethod
    def check_free(cls, path: str | Path) -> Path:
        """``path`` if a new run may be written there.

        Raises:
            UserError: it is a file, or a folder that holds something.
        """
        folder = Path(path)
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; choose another --output")
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder}: exists and is not empty; choose another --output")
        return folder

    @classmethod
    def create(cls, path: str | Path, config: TrainConfig, environment: dict[str, Any]) -> RunFolder:
        """Make the folder and write what is known before the first epoch.

        Raises:
            UserError: the folder is taken (see `check_free`) or cannot be made.
        """
        folder = cls.check_free(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / "config.yaml", lambda stream: stream.write(to_yaml(config).encode()))
            write_json(folder / "environment.json", environment)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
        return cls(folder)

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    def save(self, state: dict[str, Any]) -> None:
        save_checkpoint(self.checkpoint, state)

    def append_metrics(self, line: dict[str, Any]) -> None:
        append_json_line(self.path / "metrics.jsonl", line)


@dataclass(frozen=True)
class Run:
    """A run read back: enough to evaluate its model on its own data."""

    path: Path
    config: TrainConfig
    model: nn.Module  # in eval mode, on the device that was asked for
    class_names: tuple[str, ...]
    epoch: int  # finished epochs; 0 is the untrained model
    image_shape: tuple[int, int, int]  # (C, H, W)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def splits(self) -> Splits:
        """The parts of the data that this run trained with, on its device.

        Raises:
            UserError: the data are gone, or are not what the model was trained on.
        """
        splits = load_data(self.config.data)
        found = splits.train
        if found.image_shape != self.image_shape or found.num_classes != self.num_classes:
            raise UserError(
                f"{self.path}: trained on {self.num_classes} classes of images {self.image_shape}, but "
                f"{self.config.data.name} now holds {found.num_classes} of {found.image_shape}"
            )
        return splits.to(self.device)


def load_data(config: DataConfig) -> Splits:
    """The data set that the configuration names, split as it says.

    Raises:
        UserError: no such data set, or data that cannot be used.
    """
    return load_splits(config.name, val=config.val, test=config.test, seed=config.seed)


def load_run(path: str | Path, *, device: torch.device | str = "cpu") -> Run:
    """Read a run folder: its configuration, and its model in eval mode on ``device``.

    Raises:
        UserError: no such folder, no checkpoint in it, or one that is damaged or does not fit its configuration.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    file = folder / "checkpoint.pt"
    if not file.is_file():
        raise UserError(f"{folder}: holds no checkpoint.pt; expected the output folder of `fairtat train`")
    state = load_checkpoint(file)
    config = from_dict(state["config"], source=str(file))
    class_names = tuple(state["class_names"])
    channels, height, width = state["image_shape"]
    model = models.build(
        config.model.name,
        num_classes=len(class_names),
        in_channels=channels,
        image_size=(height, width),
        **config.model.options,
    )
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise UserError(f"{file}: its weights do not fit model {config.model.name!r}") from error
    return Run(
        path=folder,
        config=config,
        model=model.to(device).eval(),
        class_names=class_names,
        epoch=state["epoch"],
        image_shape=(channels, height, width),
    )

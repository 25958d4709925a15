"""What a training run has left behind, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fairtat import models
from fairtat.data import Splits, load_splits
from fairtat.errors import UserError
from fairtat.training.checkpoint import BEST_KEYS, RESUME_KEYS, load_checkpoint
from fairtat.training.config import DataConfig, ModelConfig, TrainConfig
from fairtat.training.config_io import from_dict

__all__ = ["Run", "build_model", "load_data", "load_run"]


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
    return load_splits(
        config.name,
        val=config.val,
        test=config.test,
        seed=config.seed,
        root=config.root,
        download=config.download,
        image_size=config.image_size,
        layout=config.layout,
        exif=config.exif,
        placement=config.placement,
        workers=config.workers,
    )


def build_model(
    config: ModelConfig, num_classes: int, image_shape: tuple[int, int, int], *, fetch: bool = True
) -> nn.Module:
    """The network that the configuration names, with random weights, or (``fetch``) those that it asks for.

    Raises:
        UserError: as `fairtat.models.build`.
    """
    channels, height, width = image_shape
    return models.build(
        config.name,
        num_classes=num_classes,
        in_channels=channels,
        image_size=(height, width),
        mean=config.mean,
        std=config.std,
        fetch=fetch,
        **config.options,
    )


def load_run(path: str | Path, *, device: torch.device | str = "cpu", weights: Literal["last", "best"] = "last") -> Run:
    """Read a run folder: its configuration, and its model in eval mode on ``device``.

    With weight averaging, the model is the averaged one.

    Args:
        path: the output folder of a training run.
        device: where the model goes.
        weights: those after the last epoch, or the best by robust validation accuracy (average plus worst class).

    Raises:
        UserError: no such folder, no checkpoint in it, or one that is damaged or does not fit its configuration.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder")
    name, keys = ("best.pt", BEST_KEYS) if weights == "best" else ("checkpoint.pt", RESUME_KEYS)
    file = folder / name
    if not file.is_file():
        raise UserError(f"{folder}: holds no {name}; expected the output folder of `fairtat train`")
    state = load_checkpoint(file, keys=keys)
    config = from_dict(state["config"], source=str(file))
    class_names = tuple(state["class_names"])
    channels, height, width = state["image_shape"]
    shape: tuple[int, int, int] = (channels, height, width)
    model = build_model(config.model, len(class_names), shape, fetch=False)
    averaging = state.get("averaging")
    try:
        model.load_state_dict(state["model"] if averaging is None else averaging["model"])
    except RuntimeError as error:
        raise UserError(f"{file}: its weights do not fit model {config.model.name!r}") from error
    return Run(
        path=folder,
        config=config,
        model=model.to(device).eval(),
        class_names=class_names,
        epoch=state["epoch"],
        image_shape=shape,
    )

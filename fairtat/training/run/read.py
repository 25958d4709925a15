"""What a training run has left behind, read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from fairtat.data import Splits
from fairtat.errors import UserError
from fairtat.training.build import Trust, build_model, load_data, require_trust
from fairtat.training.config import TrainConfig, from_run
from fairtat.training.run.folder import RunFolder

__all__ = ["Run", "load_run"]


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
        """The data sets that this run trained with, on its device.

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


def load_run(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    weights: Literal["last", "best"] = "last",
    trust_model: Trust = False,
) -> Run:
    """Read a run folder: its configuration, and its model in eval mode on ``device``.

    With weight averaging, the model is the averaged one. Where the last checkpoint is damaged, the one before it is
    taken, with a warning on the log.

    Args:
        path: the output folder of a training run.
        device: where the model goes.
        weights: those after the last epoch, or the best by robust validation accuracy (average plus worst class).
        trust_model: a run whose model or data are a ``module:function`` runs that code, so it must be allowed: by
            True, by the name that the run's model must have, or by a collection of names.

    Raises:
        UserError: no such folder, no checkpoint in it, one that is damaged or does not fit its configuration, or code
            that is not trusted.
    """
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such run folder")
    wanted = [folder.best] if weights == "best" else [folder.checkpoint, folder.previous]
    if not any(file.is_file() for file in wanted):
        raise UserError(f"{folder.path}: holds no {wanted[0].name}; expected the output folder of `fairtat train`")
    file, state = (folder.best, folder.load_best()) if weights == "best" else folder.load_last()
    config = from_run(state["config"], source=str(file))
    require_trust(config, file, trust_model, training=False)
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
        path=folder.path,
        config=config,
        model=model.to(device).eval(),
        class_names=class_names,
        epoch=state["epoch"],
        image_shape=shape,
    )

"""Going on with a run: which checkpoint to start from, and which settings may differ from before."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairtat.errors import UserError
from fairtat.training.checkpoint import load_checkpoint
from fairtat.training.config import TrainConfig
from fairtat.training.config_check import leaves
from fairtat.training.config_io import from_dict, load_yaml
from fairtat.training.run_folder import RunFolder

__all__ = ["CHANGEABLE", "check_changes", "last_checkpoint", "open_run", "stored_config"]

_LOG = logging.getLogger("fairtat")

# Where and how fast a run computes, not what: another device or engine rounds differently, which is all that changes.
CHANGEABLE = frozenset({
    "device", "threads", "compile", "checkpoint_every", "tensorboard", "attack.engine", "attack.backend",
    "data.root", "data.download", "data.placement", "data.workers",
})  # fmt: skip


def open_run(path: str | Path) -> RunFolder:
    """The folder of a run that was begun.

    Raises:
        UserError: there is none, or no checkpoint in it.
    """
    folder = RunFolder(Path(path))
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such run folder")
    if not folder.checkpoint.exists() and not folder.previous.exists():
        raise UserError(f"{folder.path}: holds no checkpoint to resume from; expected the folder of `fairtat train`")
    return folder


def stored_config(path: str | Path) -> TrainConfig:
    """The configuration that the run's folder holds.

    Raises:
        UserError: no such run, or its config.yaml cannot be read.
    """
    folder = open_run(path)
    return from_dict(load_yaml(folder.config), source=str(folder.config))


def last_checkpoint(folder: RunFolder) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read, with a warning on the log where that is not the last one.

    Raises:
        UserError: none can.
    """
    try:
        return folder.checkpoint, load_checkpoint(folder.checkpoint)
    except UserError as error:
        if not folder.previous.exists():
            raise
        state = load_checkpoint(folder.previous)
        _LOG.warning("warning: %s; going back to epoch %d in %s", error, state["epoch"], folder.previous.name)
        return folder.previous, state


def check_changes(stored: TrainConfig, wanted: TrainConfig, epoch: int, *, source: Path) -> TrainConfig:
    """``wanted``, if what it changes cannot change what the run means (see `CHANGEABLE`).

    ``epochs`` may grow where the learning rate is constant: every other schedule has been heading for the old end. What
    is left to the device (``auto``) stays what the run's first device made of it.

    Raises:
        UserError: another setting differs, or there is nothing left to train.
    """
    wanted = replace(wanted, output=str(source))
    if wanted.amp == "auto":
        wanted = replace(wanted, amp=stored.amp)
    if wanted.channels_last == "auto":
        wanted = replace(wanted, channels_last=stored.channels_last)
    before, after = dict(leaves(stored)), dict(leaves(wanted))
    changed = [key for key in before if before[key] != after[key] and key not in CHANGEABLE | {"output"}]
    if "epochs" in changed and wanted.optim.schedule == "constant":
        changed.remove("epochs")
    if changed:
        key = changed[0]
        hint = f"; with optim.schedule {wanted.optim.schedule} it decides every learning rate" * (key == "epochs")
        raise UserError(
            f"{source}: {key} is {after[key]}, but this run was begun with {before[key]}{hint}; --resume may change "
            f"only {', '.join(sorted(CHANGEABLE))}, and epochs where optim.schedule is constant"
        )
    if epoch >= wanted.epochs:
        raise UserError(f"{source}: all {wanted.epochs} epochs are trained; nothing to do")
    return wanted

"""Going on with a run: which checkpoint to start from, and which settings may differ from before."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from fairtat.errors import UserError
from fairtat.files import read_checked
from fairtat.training.config import TrainConfig
from fairtat.training.config_check import leaves
from fairtat.training.config_io import from_dict, parse_yaml
from fairtat.training.run_folder import RunFolder

__all__ = ["CHANGEABLE", "check_changes", "open_run", "stored_config"]

_LOG = logging.getLogger("fairtat")

# Where and how fast a run computes, not what: another device or engine rounds differently, which is all that changes.
CHANGEABLE = frozenset({
    "device", "threads", "compile", "checkpoint_every", "tensorboard", "attack.engine", "attack.engine_check",
    "attack.backend", "data.root", "data.download", "data.placement", "data.workers",
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
    """The configuration that the run's folder holds: config.yaml, or where that is damaged, the checkpoint's.

    Raises:
        UserError: no such run, or neither can be read.
    """
    folder = open_run(path)
    try:
        if not folder.config.is_file():
            raise UserError(f"{folder.config}: no such file")
        values = parse_yaml(read_checked(folder.config), folder.config)
        if not values:
            raise UserError(f"{folder.config}: is empty")
        return from_dict(values, source=str(folder.config))
    except (OSError, UserError) as error:
        file, state = folder.load_last()
        config = from_dict(state["config"], source=str(file))
        _LOG.warning("warning: %s; going on with the settings in %s", error, file.name)
        return config


def check_changes(stored: TrainConfig, wanted: TrainConfig, *, source: Path) -> TrainConfig:
    """``wanted``, if what it changes cannot change what the run means (see `CHANGEABLE`).

    ``epochs`` may grow where the learning rate is constant: every other schedule has been heading for the old end. What
    is left to the device (``auto``) stays what the run's first device made of it.

    Raises:
        UserError: another setting differs.
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
    return wanted

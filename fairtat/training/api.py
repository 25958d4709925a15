"""From a configuration to a trained run folder, in one go or several."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairtat.errors import UserError
from fairtat.files import read_checked
from fairtat.training.build import Trust, require_trust
from fairtat.training.config import TrainConfig, from_run, leaves, parse_yaml
from fairtat.training.distributed import World, connect, losing_no_process
from fairtat.training.events import EpochMetrics, Observer, RunEnd, RunStart
from fairtat.training.observers import Tee, TensorBoard
from fairtat.training.run import RunFolder
from fairtat.training.run.checkpoint import load_checkpoint
from fairtat.training.run.environment import describe_environment
from fairtat.training.run.lock import run_lock
from fairtat.training.setup import choose_device, make_trainer
from fairtat.training.trainer import Interrupted, Trainer, TrainingDiverged

__all__ = ["CHANGEABLE", "TrainResult", "check_changes", "default_output", "resume", "stored_config", "train"]

_LOG = logging.getLogger("fairtat")

# Where and how fast a run computes, not what: another device or engine rounds differently, which is all that changes.
CHANGEABLE = frozenset({
    "device", "threads", "compile", "checkpoint_every", "tensorboard", "attack.engine", "attack.engine_check",
    "attack.backend", "data.root", "data.download", "data.placement", "data.workers",
    "model.download",
})  # fmt: skip

StopRequest = Callable[[], bool]


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    path: Path
    epoch: int  # finished epochs that the checkpoint holds
    interrupted: bool
    last: EpochMetrics | None  # of the last epoch that was finished now; None if there was none to train


def default_output(name: str) -> str:
    """``runs/NAME-TIME`` for a run that was not told where to go."""
    return str(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def train(
    config: TrainConfig, *, observer: Observer | None = None, should_stop: StopRequest | None = None
) -> TrainResult:
    """Train as ``config`` says and write a run folder (see `load_run`).

    Nothing is written before data, model, device and folder have been checked. Seeds PyTorch's global generator and
    sets its number of threads. Under torchrun, every process calls this; the first one writes.

    Args:
        config: the experiment; without ``output`` the folder is ``runs/train-TIME``.
        observer: is told what happens, in its own process.
        should_stop: asked between steps; once it returns true, the running epoch is dropped and the run ends with
            the last checkpoint, from which `resume` continues.

    Raises:
        UserError: an input that cannot be used, a folder that is taken, a disk that is full, (`TrainingDiverged`) a
            loss that is not finite, or (`LostProcess`) another process of the job that has gone: the last checkpoint
            stays.
    """
    device = choose_device(config.device)
    with connect(device) as world, ExitStack() as stack:
        output = world.share(config.output or default_output("train"))
        config = replace(config, output=output)
        with world.together():
            if world.main:
                RunFolder.check_free(output)
        environment = describe_environment(config, device, world.size)
        with world.together():
            observers = _observers(observer, config, world)
            trainer = make_trainer(config, device, world)
        folder = RunFolder(Path(output))
        with world.together():
            if world.main:
                RunFolder.make(output)
                with folder.writing(0, saved=None):
                    stack.enter_context(run_lock(folder.path))
                folder.begin(trainer.config, environment, trainer.state_dict(), trainer.best_model.state_dict())
        return _run(trainer, folder, world, observers, should_stop)


def resume(
    path: str | Path,
    *,
    config: TrainConfig | None = None,
    observer: Observer | None = None,
    should_stop: StopRequest | None = None,
    trust_model: Trust = False,
) -> TrainResult:
    """Go on with the run in the folder ``path`` after its last checkpoint, as if it had never stopped.

    Of a run that is finished, nothing is done.

    On the same hardware and with the same settings, the metrics (but their times) and the weights are those of an
    uninterrupted run, to the bit. The number of processes may differ from before.

    Args:
        path: a run folder, which every process can read.
        config: settings to continue with, by default those of the folder. Only settings that do not change what the run
            means may differ (`CHANGEABLE`).
        observer, should_stop: as for `train`.
        trust_model: as for `load_run`.

    Raises:
        UserError: no such run, one that another process is writing, a setting that must not change, code that is
            not trusted, no checkpoint that can be read, or as `train`.
    """
    wanted = config or stored_config(path)
    folder = RunFolder.begun(path)
    device = choose_device(wanted.device)
    with connect(device) as world, ExitStack() as stack:
        chosen = folder.checkpoint
        state: dict[str, Any] = {}
        with world.together():
            if world.main:
                with _readable(folder):
                    stack.enter_context(run_lock(folder.path))
                chosen, state = folder.load_last()
        chosen = world.share(chosen)
        with world.together():
            if not world.main:
                state = load_checkpoint(chosen)
            stored = from_run(state["config"], source=str(folder.checkpoint))
            require_trust(stored, chosen, trust_model)
            wanted = check_changes(stored, wanted, source=folder.path)
            if state["epoch"] >= wanted.epochs:
                return TrainResult(folder.path, state["epoch"], interrupted=False, last=None)
            observers = _observers(observer, wanted, world)
            trainer = make_trainer(wanted, device, world, resumed=True)
            _load(trainer, state, chosen)
        with world.together():
            if world.main:
                with folder.writing(0, saved=trainer.epoch):
                    folder.remove_leftovers()
                    if chosen == folder.previous:
                        folder.previous.replace(folder.checkpoint)
                    folder.drop_metrics_after(trainer.epoch)
                    folder.write_config(trainer.config)
                    folder.note_resumption(describe_environment(wanted, device, world.size), trainer.epoch)
        return _run(trainer, folder, world, observers, should_stop)


def stored_config(path: str | Path) -> TrainConfig:
    """The configuration that the run's folder holds: config.yaml, or where that is damaged, the checkpoint's.

    Raises:
        UserError: no such run, or neither can be read.
    """
    folder = RunFolder.begun(path)
    try:
        if not folder.config.is_file():
            raise UserError(f"{folder.config}: no such file")
        values = parse_yaml(read_checked(folder.config), folder.config)
        if not values:
            raise UserError(f"{folder.config}: is empty")
        return from_run(values, source=str(folder.config))
    except (OSError, UserError) as error:
        file, state = folder.load_last()
        config = from_run(state["config"], source=str(file))
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
    if wanted.attack.engine == "auto":
        wanted = replace(wanted, attack=replace(wanted.attack, engine=stored.attack.engine))
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


def _observers(observer: Observer | None, config: TrainConfig, world: World) -> Observer:
    """The caller's, and TensorBoard's where it is asked for: made early, for its package may be missing."""
    given = observer or Observer()
    return Tee(given, TensorBoard()) if config.tensorboard and world.main else given


def _run(
    trainer: Trainer, folder: RunFolder, world: World, observer: Observer, should_stop: StopRequest | None
) -> TrainResult:
    """Epochs until the last one, each written down before the next begins; the observer is told of every end."""
    saved = _Saved(trainer.epoch)
    try:
        result = _epochs(trainer, folder, world, observer, should_stop, saved)
    except BaseException:
        # What went wrong is what is to be seen, not that an observer could not cope with it.
        with suppress(Exception):
            observer.on_end(RunEnd("failed", saved.epoch))
        raise
    observer.on_end(RunEnd("interrupted" if result.interrupted else "finished", result.epoch))
    return result


@dataclass
class _Saved:
    epoch: int  # that the last checkpoint holds


def _epochs(
    trainer: Trainer,
    folder: RunFolder,
    world: World,
    observer: Observer,
    should_stop: StopRequest | None,
    saved: _Saved,
) -> TrainResult:
    config, splits = trainer.config, trainer.splits
    observer.on_start(
        RunStart(
            path=folder.path,
            config=config,
            class_names=splits.train.class_names,
            train_samples=len(splits.train),
            val_samples=len(splits.val),
            parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
            device=splits.train.device,
            epoch=trainer.epoch,
            processes=world.size,
        )
    )
    best = folder.best_score() if world.main else None
    last: EpochMetrics | None = None
    with _losing_no_process(folder, world, lambda: saved.epoch):
        while trainer.epoch < config.epochs:
            try:
                last = trainer.run_epoch(observer, should_stop)
            except Interrupted:
                return TrainResult(folder.path, saved.epoch, interrupted=True, last=last)
            except TrainingDiverged as error:
                again = (
                    f"another --output ({folder.path} keeps epoch {saved.epoch})"
                    if saved.epoch
                    else "the same --output"
                )
                raise TrainingDiverged(f"{error}; start again with {again}") from error
            due = trainer.epoch % config.checkpoint_every == 0 or trainer.epoch == config.epochs
            with world.together():
                if world.main:
                    with folder.writing(trainer.epoch, saved.epoch):
                        best = _write_epoch(trainer, folder, last, best, due)
            if due:
                saved.epoch = trainer.epoch
            observer.on_epoch(last)
    return TrainResult(folder.path, saved.epoch, interrupted=False, last=last)


def _write_epoch(
    trainer: Trainer, folder: RunFolder, metrics: EpochMetrics, best: float | None, due: bool
) -> float | None:
    """Write what an epoch has left, in the order that `RunFolder` explains; returns the best score so far."""
    folder.append_metrics(metrics.to_json())
    if best is None or metrics.score > best:
        best = metrics.score
        folder.save_best(trainer.best_state_dict(best))
    if due:
        folder.save(trainer.state_dict(), trainer.best_model.state_dict())
    return best


def _load(trainer: Trainer, state: dict[str, Any], file: Path) -> None:
    now = trainer.description()
    for key in ("class_names", "image_shape"):
        if now[key] != state[key]:
            raise UserError(f"{file.parent}: was trained with {key} {state[key]}, but the data now have {now[key]}")
    try:
        trainer.load_state_dict(state)
    # A file from elsewhere may hold anything where PyTorch's optimizers and modules expect their own.
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: its state does not fit the run's configuration ({reason})") from error


@contextmanager
def _readable(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder.path}: cannot be written ({error.strerror})") from error


@contextmanager
def _losing_no_process(folder: RunFolder, world: World, saved: Callable[[], int]) -> Iterator[None]:
    """Turns the failure of a collective into one line that says how to continue."""
    with losing_no_process(
        world,
        lambda: (
            f"{folder.path}: another process of this job has gone; epoch {saved()} is safe: start the job again with "
            f"--resume {folder.path}"
        ),
    ):
        yield

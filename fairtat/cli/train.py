"""``fairtat train``: a configuration, in a file or on the command line, becomes a run folder."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from fairtat.cli.main import INTERRUPTED, program
from fairtat.cli.parser import Parser
from fairtat.cli.processes import one_voice
from fairtat.cli.progress.training import dry_run_report, observe
from fairtat.data import code_of
from fairtat.errors import UserError
from fairtat.extension import import_code, names_code
from fairtat.training import Observer, TrainConfig, TrainResult, default_output, dry_run, resume, train
from fairtat.training.api import stored_config
from fairtat.training.build import code_named, require_trust
from fairtat.training.config import from_dict, load_yaml, to_dict
from fairtat.training.distributed import env_rank, env_size
from fairtat.training.observers import MLflow, Tee, WeightsAndBiases

__all__ = ["parser", "run"]

# Options beside the fields of TrainConfig.
_NOT_SETTINGS = ("config", "print_config", "resume", "dry_run", "trust_model", "observer")

# Settings that may name code, which is trusted when the user types it.
_NAMES_OF_CODE = (
    *("--model.name", "--data.name", "--attack.loss", "--objective.name", "--fairness.weights", "--distill.teacher"),
)

_TRACKERS: dict[str, Callable[[], Observer]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}

_DESCRIPTION = """Train a robust classifier and watch what each class pays for it. Every key of the YAML file is an
option too.

The run folder (--output) holds config.yaml, metrics.jsonl (a line per epoch), checkpoint.pt, the weights of the last
and best epoch (model.safetensors, best.safetensors; best by robust validation accuracy, average plus worst class)
and environment.json. A run that was stopped, killed or out of disk resumes with --resume."""

_EXAMPLES = """  fairtat train --config configs/digits.yaml --config configs/methods/fairtat.yaml
  fairtat train --config configs/digits.yaml --epochs 5 --attack.eps 8/255
  fairtat train --config configs/digits.yaml --dry_run               how long, how much memory; writes nothing
  fairtat train --resume runs/fairtat                                resume from the last checkpoint
  torchrun --nproc-per-node 8 -m fairtat train --config my.yaml      eight processes, one GPU each"""


def parser() -> ArgumentParser:
    """The parser of the subcommand; a mistake in its arguments raises `UserError`."""
    made = _Parser("train", _DESCRIPTION, _EXAMPLES)
    made.add_argument(
        "--config",
        action=_ConfigFile,
        help="YAML file with the keys below. Later files override earlier ones, and options override all files.",
    )
    made.add_argument(
        "--resume",
        type=str,
        metavar="RUN",
        help="Resume the run in this folder, bit-for-bit as if it had never stopped. Other options may change only "
        "where and how fast it computes, such as --device.",
    )
    made.add_argument(
        "--dry_run",
        action="store_true",
        help="Build everything, decode every image, time a few steps, report what the run would cost and write, and "
        "write nothing.",
    )
    made.add_argument(
        "--observer",
        action="append",
        metavar="NAME",
        help="Who else is told of every epoch: wandb (Weights & Biases), mlflow, or module:Class of your own, a "
        "fairtat.training.Observer. May be given more than once, and in no file.",
    )
    made.add_trust_model()
    made.add_class_arguments(TrainConfig)
    return made


def run(namespace: Namespace) -> int:
    """Train as the parsed arguments say; returns the exit code: 0, or 130 when it was interrupted.

    Raises:
        UserError: a wrong input or a loss that is not finite, as `fairtat.training.train`.
        SystemExit: the same in any process of a job except the first, which alone prints.
    """
    with one_voice():
        return _run(namespace)


def _run(namespace: Namespace) -> int:
    config = _config(namespace)
    if config.output is None:
        files = namespace.get("config") or []
        name = "-".join(Path(str(file)).stem for file in files) or config.data.name
        config = replace(config, output=default_output(name))
    if namespace.dry_run:
        report = dry_run(config)
        if env_rank() == 0:
            print(dry_run_report(report), flush=True)
        return 0
    told = _told(namespace.observer or [])
    with _stop_signals() as should_stop, _observe() as shown:
        observer = Tee(shown, *told)
        if namespace.resume is not None:
            result = resume(
                namespace.resume,
                config=config,
                observer=observer,
                should_stop=should_stop,
                trust_model=namespace.trust_model,
            )
        else:
            result = train(config, observer=observer, should_stop=should_stop)
    if env_rank() == 0:
        print(_closing_line(result, config), flush=True)
    return INTERRUPTED if result.interrupted else 0


def _observe() -> Any:
    return observe() if env_rank() == 0 else _silent()


def _told(names: Sequence[str]) -> list[Observer]:
    """The observers of these names, in the process that writes the run.

    Raises:
        UserError: a package is missing, or no such observer.
    """
    return [_observer(name) for name in names] if env_rank() == 0 else []


def _observer(name: str) -> Observer:
    if name in _TRACKERS:
        return _TRACKERS[name]()
    if not names_code(name):
        raise UserError(f"--observer is {name!r}; expected module:Class or {' or '.join(_TRACKERS)}")
    make = import_code("observer", name)
    try:
        made = make()
    except TypeError as error:
        raise UserError(f"observer {name!r} cannot be made without arguments: {error}") from error
    if not isinstance(made, Observer):
        raise UserError(f"observer {name!r} is a {type(made).__name__}; expected a fairtat.training.Observer")
    return made


@contextmanager
def _silent() -> Iterator[Observer]:
    yield Observer()


def _closing_line(result: TrainResult, config: TrainConfig) -> str:
    trust = " --trust-model" * bool(code_named(config, training=result.interrupted))
    if not result.interrupted:
        epochs = "1 epoch" if result.epoch == 1 else f"{result.epoch} epochs"
        done = f"nothing to do: {result.path} has all its" if result.last is None else "trained"
        return f"{done} {epochs}; look at every class with: fairtat evaluate {result.path}{trust}"
    held = f"epoch {result.epoch} of {config.epochs}" if result.epoch else "the untrained model: no epoch was over"
    return f"interrupted: {result.path} holds {held}; continue with: {program()} train --resume {result.path}{trust}"


def _config(namespace: Namespace) -> TrainConfig:
    values = {key: value for key, value in namespace.as_dict().items() if key not in _NOT_SETTINGS}
    return from_dict(values, source="fairtat train")


class _ConfigFile(ActionConfigFile):  # type: ignore[misc, unused-ignore]
    """Checks a file's keys and values before they are merged, so that messages name the file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        from_dict(load_yaml(values), source=str(values))
        super().__call__(parser, cfg, values, option_string)


class _Parser(Parser):
    """Checks all values together as soon as they are parsed, so that every mistake gets one line from fairtat."""

    def parse_args(self, args: Any = None, **kwargs: Any) -> Namespace:  # type: ignore[override]
        words = list(sys.argv[1:] if args is None else args)
        namespace: Namespace = super().parse_args(words, **kwargs)
        if namespace.resume is not None:
            # Once more, with the run's own settings under those that were given.
            self.set_defaults(to_dict(stored_config(namespace.resume)))
            namespace = super().parse_args(words, **kwargs)
        config = _config(namespace)
        files = [namespace.resume] if namespace.resume is not None else namespace.get("config") or []
        if files:
            namespace.trust_model = namespace.trust_model or _trusted(words)
            require_trust(config, files[-1], namespace.trust_model)
        return namespace


def _trusted(words: Sequence[str]) -> frozenset[str]:
    """The names of code that were typed."""
    names = {option: name for option in _NAMES_OF_CODE if (name := _typed(option, words)) is not None}
    if "--data.name" in names and code_of(names["--data.name"]) is None:
        del names["--data.name"]  # such as hf:NAME, which allows no model of that name
    return frozenset(names.values())


def _typed(option: str, words: Sequence[str]) -> str | None:
    """The last value of ``option`` on the command line itself."""
    values = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    values += [value for word, value in pairwise(words) if word == option]
    return values[-1] if values else None


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that returns true after the first SIGINT or SIGTERM; a second one ends the process as usual.

    Under torchrun a second one is ignored: torchrun forwards a Ctrl-C that its processes have already received, and
    kills any process that takes longer than half a minute.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in signals}
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        if env_size() == 1:
            for signal_number, handler in previous.items():
                signal.signal(signal_number, handler)

    for number in signals:
        signal.signal(number, stop)
    try:
        yield lambda: stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""``fairtat train``: a configuration, in a file or on the command line, becomes a run folder."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from fairtat.cli.parser import Parser
from fairtat.cli.train_progress import observe
from fairtat.training import Outcome, TrainConfig, default_output, train
from fairtat.training.config_io import from_dict, load_yaml

__all__ = ["parser", "run"]

INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended

_NOT_SETTINGS = ("config", "print_config")  # the parser's own options beside the fields of TrainConfig


def parser() -> ArgumentParser:
    """The parser of the subcommand; a mistake in its arguments raises `UserError`."""
    made = _Parser(
        "train",
        "Train a robust classifier and watch what each class pays for it. Every key of the YAML file is an option too.",
        "  fairtat train --config configs/digits_fairtat.yaml --epochs 5 --attack.eps 8/255",
    )
    made.add_argument("--config", action=_ConfigFile, help="YAML file with the keys below; options override it.")
    made.add_class_arguments(TrainConfig)
    return made


def run(namespace: Namespace) -> int:
    """Train as the parsed arguments say; returns the exit code: 0, or 130 when it was interrupted.

    Raises:
        UserError: a wrong input or a loss that is not finite, as `fairtat.training.train`.
    """
    config = _config(namespace)
    if config.output is None:
        files = namespace.get("config") or []
        config = replace(config, output=default_output(Path(str(files[-1])).stem if files else config.data.name))
    with _stop_signals() as should_stop, observe() as observer:
        outcome = train(config, observer=observer, should_stop=should_stop)
    print(_closing_line(outcome, config), flush=True)
    return INTERRUPTED if outcome.interrupted else 0


def _closing_line(outcome: Outcome, config: TrainConfig) -> str:
    if not outcome.interrupted:
        epochs = "1 epoch" if outcome.epoch == 1 else f"{outcome.epoch} epochs"
        return f"trained {epochs}; look at every class with: fairtat evaluate {outcome.path}"
    held = f"epoch {outcome.epoch} of {config.epochs}" if outcome.epoch else "the untrained model: no epoch was over"
    return f"interrupted: {outcome.path} is complete and holds {held}"


def _config(namespace: Namespace) -> TrainConfig:
    values = {key: value for key, value in namespace.as_dict().items() if key not in _NOT_SETTINGS}
    return from_dict(values, source="fairtat train")


class _ConfigFile(ActionConfigFile):  # type: ignore[misc, unused-ignore]
    """Checks a file's keys and values before they are merged, so that messages name the file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        from_dict(load_yaml(values), source=str(values))
        super().__call__(parser, cfg, values, option_string)


class _Parser(Parser):
    """Checks all values together as soon as they are parsed, so that every mistake is one line of ours."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        namespace: Namespace = super().parse_args(*args, **kwargs)
        _config(namespace)
        return namespace


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that turns true at the first SIGINT or SIGTERM; a second one ends the process as usual."""
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in signals}
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)

    for number in signals:
        signal.signal(number, stop)
    try:
        yield lambda: stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

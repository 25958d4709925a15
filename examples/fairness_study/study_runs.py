"""The runs of the study: what they are, what is still to do for each, and how they are worked off."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from study_report import TITLES

from fairtat.cli import train as train_command
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.training import TrainConfig
from fairtat.training.api import CHANGEABLE, stored_config
from fairtat.training.config import from_dict, leaves
from fairtat.training.run.folder import RunFolder

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
METHODS = tuple(TITLES)
# Methods whose start or warm-up fits the length of the runs on a data set: files of configs/methods, as the others are
# by their own names. Adversarial training is the data's file alone.
PRESETS: dict[str, dict[str, str]] = {
    "digits": {"cfa": "cfa_digits", "dafa": "dafa_digits"},
    "mnist5k": {"cfa": "cfa_mnist5k", "dafa": "dafa_mnist5k"},
    "cifar10": {"cfa": "cfa_at"},
}
ATTACK = "pgd-20"
CHECKPOINT = "last"  # nothing is chosen, so nothing can be chosen in a method's favour
POLL_SECONDS = 0.2

Settings = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """One training with its evaluation; what is still to do follows from what its folder holds."""

    method: str
    seed: int
    config: TrainConfig
    begin: tuple[str, ...]  # the words after `python -m fairtat` that train it from the start

    @property
    def name(self) -> str:
        return f"{self.method}-{self.seed}"

    @property
    def folder(self) -> Path:
        return Path(str(self.config.output))

    def evaluation(self) -> Evaluation | None:
        """The evaluation that the study wants, if the folder holds it."""
        try:
            found = Evaluation.load(self.folder / "evaluation" / "test.json")
        except (OSError, ValueError):
            return None
        judged = (found.primary, found.source.get("checkpoint"), found.source.get("epoch"))
        fits = judged == (ATTACK, CHECKPOINT, self.config.epochs) and found.attack.eps == float(self.config.attack.eps)
        return found if fits else None


class Process(Protocol):
    """What the study needs of a `subprocess.Popen`."""

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


def settings_of(config: TrainConfig) -> Settings:
    """All that decides what is trained, as JSON values; not the seed, nor where and how fast it is computed."""
    values = {key: value for key, value in leaves(config) if key not in CHANGEABLE | {"output", "seed"}}
    return dict(json.loads(json.dumps(values)))


def check_same(where: str, stored: Settings, wanted: Settings, remedy: str) -> None:
    """Refuse to mix runs that were trained differently."""
    for key, value in wanted.items():
        if key in stored and stored[key] != value:
            raise UserError(f"{where}: {key} is {stored[key]}, but this study has {value}; {remedy}")


def _config_options(data: str, method: str) -> list[str]:
    """The --config options that make one method on one data set."""
    files = [CONFIGS / f"{data}.yaml"]
    if method != "at":
        files.append(CONFIGS / "methods" / f"{PRESETS[data].get(method, method)}.yaml")
    return [word for file in files for word in ("--config", str(file))]


def plan(
    data: str, methods: Sequence[str], seeds: int, runs: Path, threads: int, epochs: int | None, options: Sequence[str]
) -> list[Run]:
    """The runs, seed by seed, so that pairs of the same seed are complete as early as can be."""
    more = (*(() if epochs is None else ("--epochs", str(epochs))), *options)
    planned = {}
    for method in methods:
        words = (*_config_options(data, method), "--threads", str(threads), *more)
        parsed = train_command.parser().parse_args(list(words)).as_dict()
        known = TrainConfig.__dataclass_fields__
        config = from_dict({key: value for key, value in parsed.items() if key in known}, source="training options")
        for seed in range(seeds):
            output = str(runs / f"{method}-{seed}")
            begin = ("train", *words, "--seed", str(seed), "--output", output)
            planned[seed, method] = Run(method, seed, replace(config, seed=seed, output=output), begin)
    return [planned[seed, method] for seed in range(seeds) for method in methods]


def next_command(run: Run) -> tuple[str, ...] | None:
    """The words after `python -m fairtat` that bring the run one step further; None when it is finished.

    Raises:
        UserError: the folder holds a run with other settings, or one whose checkpoints are damaged.
    """
    folder = RunFolder(run.folder)
    if not folder.checkpoint.exists() and not folder.previous.exists():
        return run.begin
    remedy = "remove that folder or choose another --runs"
    check_same(run.folder.name, settings_of(stored_config(run.folder)), settings_of(run.config), remedy)
    if folder.load_last()[1]["epoch"] < run.config.epochs:
        return ("train", "--resume", str(run.folder))
    if run.evaluation() is None:
        device = ("--device", run.config.device)
        return ("evaluate", str(run.folder), "--attacks", ATTACK, "--checkpoint", CHECKPOINT, *device)
    return None


def log_of(run: Run) -> Path:
    return run.folder.with_name(f"{run.name}.log")


def launch(run: Run, words: Sequence[str]) -> Process:
    """Start a command, its output in the run's log; the terminal's Ctrl-C reaches it through the study alone."""
    if words == run.begin:
        _remove_false_start(run.folder)
    threads = str(run.config.threads or 1)
    with log_of(run).open("ab") as log:
        log.write(f"$ fairtat {shlex.join(words)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "fairtat", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads},
            start_new_session=True,
        )


def _remove_false_start(folder: Path) -> None:
    """What a run leaves that was killed before its first checkpoint; anything else stays, and `train` objects to it."""
    files = list(folder.iterdir()) if folder.is_dir() else []
    first = ("config.yaml", "environment.json", "run.lock", "model.safetensors")
    if all(file.name in first or file.suffix == ".tmp" for file in files):
        for file in files:
            file.unlink()


def work_off(
    runs: Sequence[Run],
    jobs: int,
    *,
    done: Callable[[Run, bool], None],
    failed: Callable[[Run, str], None],
    start: Callable[[Run, Sequence[str]], Process] = launch,
) -> None:
    """Bring every run to its end, ``jobs`` at a time; ``done`` also hears whether anything had to be computed.

    On KeyboardInterrupt the processes are asked to stop, which keeps what they have, and are waited for.
    """
    waiting = deque(runs)
    active: dict[Run, tuple[Sequence[str], Process]] = {}

    def advance(run: Run, after: Sequence[str] | None) -> None:
        try:
            words = next_command(run)
        except UserError as error:
            return failed(run, str(error))
        if words is None:
            return done(run, after is not None)
        if words == after:
            return failed(run, f"`fairtat {words[0]}` ended well, but left the work undone; see {log_of(run)}")
        active[run] = (words, start(run, words))
        return None

    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                advance(waiting.popleft(), None)
            for run, (words, process) in list(active.items()):
                code = process.poll()
                if code is None:
                    continue
                del active[run]
                if code == 0:
                    advance(run, words)
                else:
                    failed(run, f"`fairtat {words[0]}` ended with code {code}; see {log_of(run)}")
            if active:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        processes = [process for _, process in active.values()]
        print("stopping; what is computed is kept (Ctrl-C again ends it at once)", flush=True)
        try:
            for process in processes:
                process.send_signal(signal.SIGINT)
            for process in processes:
                process.wait()
        except KeyboardInterrupt:
            for process in processes:
                process.kill()
        raise

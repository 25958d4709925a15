"""Evaluations of run folders: making them, and keeping them in ``RUN/evaluation``."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fairtat._version import __version__
from fairtat.errors import UserError
from fairtat.evaluation import AttackSettings, Evaluation, evaluate
from fairtat.training import Number, Run, load_run
from fairtat.training.files import write_atomic


@dataclass
class AttackOptions:
    """the attack: untargeted PGD, radii in pixel units (images lie in [0, 1]); fractions such as 8/255 are fine"""

    eps: Number | None = None
    """Radius; by default the one of the training (for compare: of the first run's training)."""

    step_size: Number | None = None
    """Length of one step; by default eps / 4."""

    steps: int = 20
    """Number of steps."""

    norm: Literal["linf", "l2"] | None = None
    """Norm of the radius; by default the one of the training."""

    restarts: int = 1
    """Attacks from different starts, of which the strongest counts."""

    seed: int = 0
    """Seed of the starts."""

    @classmethod
    def parsed(cls, options: Namespace) -> AttackOptions:
        """From the parser's namespace of this name."""
        return cls(**vars(options))

    def settings(self, run: Run) -> AttackSettings:
        """These options with ``run``'s training attack filled in."""
        eps = float(run.config.attack.eps if self.eps is None else self.eps)
        return AttackSettings(
            eps=eps,
            step_size=eps / 4 if self.step_size is None else float(self.step_size),
            steps=self.steps,
            norm=run.config.attack.norm if self.norm is None else self.norm,
            restarts=self.restarts,
            seed=self.seed,
        )


@dataclass
class EvaluationOptions:
    """What `evaluate` and `compare` share."""

    attack: AttackOptions = field(default_factory=AttackOptions)
    """The attack."""

    split: Literal["test", "val"] = "test"
    """Part of the run's data."""

    batch_size: int = 256
    """Images at a time; changes the speed and the memory, not the result."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:1."""


def open_run(path: str, device: str) -> Run:
    """The run in folder ``path``, its model on ``device``."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d+)?", device) is None:
        raise UserError(f"device is {device!r}; expected auto, cpu, cuda or cuda:N")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # depends on how PyTorch was built
        raise UserError(f"device {device!r} cannot be used: {str(error).partition(chr(10))[0]}") from error
    return load_run(path, device=device)


def evaluation_path(folder: Path, split: str, attack: AttackSettings) -> Path:
    """Where the evaluation with these settings is kept: other settings, another file."""
    return folder / f"{split}-{attack.stem}.json"


def evaluate_run(run: Run, attack: AttackSettings, split: str, batch_size: int) -> Evaluation:
    """Evaluate the run's model on its own data, with a progress bar on stderr."""
    data = getattr(run.splits(), split)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"attacking {run.path.name}", total=len(data))
        evaluation = evaluate(
            run.model,
            data.floats(data.images),
            data.labels,
            eps=attack.eps,
            step_size=attack.step_size,
            steps=attack.steps,
            norm=attack.norm,
            restarts=attack.restarts,
            seed=attack.seed,
            batch_size=batch_size,
            class_names=run.class_names,
            sample_ids=data.ids,
            progress=lambda done, _: bar.update(task, completed=done),
        )
    return replace(evaluation, source=_source(run, split))


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write ``path`` (.json) and the per-sample outcomes beside it (.npz), each atomically."""
    assert evaluation.samples is not None
    outcomes = evaluation.samples.to_npz()
    text = json.dumps(evaluation.to_dict(), indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Samples first: a JSON file that is there always has its samples beside it.
    write_atomic(path.with_suffix(".npz"), lambda file: file.write(outcomes))
    write_atomic(path, lambda file: file.write(text.encode()))


def stored_evaluation(run: Run, attack: AttackSettings, split: str) -> Evaluation | None:
    """The evaluation in the run folder, if there is one of these settings and of the checkpoint that is there now."""
    path = evaluation_path(run.path / "evaluation", split, attack)
    if not path.is_file():
        return None
    evaluation = Evaluation.load(path)
    current = evaluation.attack == attack and dict(evaluation.source) == _source(run, split)
    return evaluation if current else None


def _source(run: Run, split: str) -> dict[str, str | int]:
    return {
        "data": run.config.data.name,
        "split": split,
        "epoch": run.epoch,
        "checkpoint_sha256": hashlib.sha256((run.path / "checkpoint.pt").read_bytes()).hexdigest(),
        "fairtat": __version__,
    }

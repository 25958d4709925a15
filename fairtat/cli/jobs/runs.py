"""What `evaluate` and `compare` share: their options, and evaluations of run folders kept in ``RUN/evaluation``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from torch import Tensor, nn

from fairtat._version import __version__
from fairtat.cli.progress.evaluation import observe
from fairtat.data import CORRUPTED, ImageData, load_corrupted, rows_per_class
from fairtat.data.stream import Data
from fairtat.errors import UserError
from fairtat.evaluation import Defaults, Evaluation, evaluate, parse_attack
from fairtat.evaluation.cache.team import Team
from fairtat.evaluation.progress import Standing
from fairtat.evaluation.result import EVALUATION, stored_name
from fairtat.files import refuse_links
from fairtat.training import Number, Run
from fairtat.training.distributed import World

ALONE = World()

SPLITS = ("test", "val", "all")

EXAMPLE = "8/255"
LISTED = 8
"""Names in a sentence before it says how many more there are."""


@dataclass
class AttackArguments:
    """what an attack's name does not say; radii in pixel units (images lie in [0, 1]), also as fractions like 8/255"""

    eps: Number | None = None
    """Radius; by default that of the training (for compare: the first run's training)."""

    step_size: Number | None = None
    """Length of one step of pgd and cw; by default eps / 4."""

    steps: int = 20
    """Number of steps of pgd and cw."""

    norm: Literal["linf", "l2"] | None = None
    """Norm of the radius; by default that of the training."""

    restarts: int = 1
    """Number of random starts (pgd and cw); the strongest result counts."""

    seed: int = 0
    """Seed of starts and corruptions."""

    amp: Literal["none", "bf16"] = "none"
    """Precision of the attacks' passes: bf16 is faster where the device has instructions for it. An image counts as
    fooled only if float32 says so."""

    @classmethod
    def parsed(cls, options: Namespace) -> AttackArguments:
        """From the parser's namespace of this name."""
        return cls(**vars(options))

    def defaults(self, job: Job, attacks: Sequence[str] = (), active_set: bool = True) -> Defaults:
        """These options with the training attack of ``job`` filled in, or the radius that ``attacks`` name.

        Raises:
            UserError: no radius is given, and none is known from a training.
        """
        norm = self.norm or job.norm or "linf"
        eps = job.eps if self.eps is None else float(self.eps)
        if eps is None:
            without = next((name for name in attacks if "@" not in name), None)
            if without is not None or not attacks:
                needed = f"--attack.eps is needed for a model that fairtat did not train, for example {EXAMPLE}"
                raise UserError(f"{needed}, or as {without}@{EXAMPLE}" if without else needed)
            # The first attack in the usual norm applies where no attack says anything, such as the targeted one.
            named = [parse_attack(name, Defaults(eps=1.0, norm=norm)) for name in attacks]
            eps, norm = next(((each.eps, norm) for each in named if each.norm == norm), (named[0].eps, named[0].norm))
        return Defaults(
            eps=float(eps),
            norm=norm,
            steps=self.steps,
            step_size=None if self.step_size is None else float(self.step_size),
            restarts=self.restarts,
            seed=self.seed,
            active_set=active_set,
            amp=self.amp,
        )


@dataclass
class EvaluationOptions:
    """What `evaluate` and `compare` share."""

    attacks: str = "pgd"
    """Attacks, separated by commas; the first is the main one. fgsm, pgd-20, cw-20, mt-20, noise-20, deepfool,
    cw-l2@0.5, and AutoAttack's apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square, autoattack. cw-20+square is the worst of
    both; pgd-50x5 has 5 restarts; pgd-20@4/255 and pgd-20:l2@0.5 state their own radius."""

    attack: AttackArguments = field(default_factory=AttackArguments)
    """What the attacks' names do not say."""

    active_set: bool = True
    """Leave an image alone once it is fooled; false attacks every image for all steps, and the last step counts."""

    split: Literal["test", "val", "all"] | None = None
    """Which images; by default the test set, and all of a .npz or .parquet file that has none."""

    checkpoint: Literal["last", "best"] = "last"
    """Weights of a run: those after its last epoch, or of its best epoch on the validation set."""

    batch_size: int = 256
    """Images at a time; changes speed and memory, not the result (except the starts of AutoAttack's attacks)."""

    engine: Literal["auto", "eager", "compiled", "graph", "compiled_graph"] = "auto"
    """How the attacks' steps run: auto, eager, compiled (for large models or many images), graph or compiled_graph (a
    GPU)."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class Job:
    """A model and the images that it is judged on, from a run folder or put together on the command line."""

    name: str
    model: nn.Module
    data: Data
    split: str
    folder: Path  # where its evaluations are kept, ``place`` below that of the run's own data
    source: dict[str, str | int]
    eps: float | None = None  # of its training, as is norm
    norm: str | None = None
    normalize: tuple[list[float], list[float]] | None = None
    data_root: str | None = None
    place: str = ""
    rows: Tensor | None = None  # of the split, if not all

    @property
    def stored(self) -> Path:
        """Where its latest evaluation is kept; the .npz file lies beside it."""
        return self.folder / stored_name(self.split, self.source.get("per_class"))

    def per_class(self, count: int) -> Job:
        """The same on ``count`` images of each class."""
        rows = rows_per_class(self.data.labels, count)
        return replace(self, data=self.data.take(rows), rows=rows.cpu(), source={**self.source, "per_class": count})

    def corrupted(self, corruption: str, severity: int) -> Tensor:
        """CIFAR-10-C's or CIFAR-100-C's images for the whole test set."""
        found = load_corrupted(self.data.name, corruption, severity, root=self.data_root)
        found = found if self.rows is None else found.take(self.rows)
        labels = self.data.labels.cpu()
        if found.labels.shape != labels.shape or not bool((found.labels == labels).all()):
            raise UserError(f"{found.name}: its labels are not those of the {self.split} set of {self.data.name}")
        return found.images

    @property
    def has_corrupted_files(self) -> bool:
        """Whether a published corrupted form of these images exists."""
        return self.data.name in CORRUPTED and self.split == "test"


def job_of_run(run: Run, split: str | None = None, checkpoint: str = "last") -> Job:
    """A run's model and its own data, split as it was for its training."""
    split = split or "test"
    if split == "all":
        raise UserError(f"{run.path}: split is 'all', but the run was trained on some of that; expected test or val")
    config, folder = run.config, run.path / EVALUATION
    refuse_links(folder, folder / "parts")
    return Job(
        name=str(run.path),
        model=run.model,
        data=getattr(run.splits(), split),
        split=split,
        folder=folder,
        source={"data": config.data.name, "split": split, "epoch": run.epoch, "checkpoint": checkpoint},
        eps=float(config.attack.eps),
        norm=config.attack.norm,
        data_root=config.data.root,
    )


def job_on_data(run: Run, name: str, data: Data, split: str, checkpoint: str = "last") -> Job:
    """A run's model and other images, in a folder of their own: a shift, a new camera.

    Raises:
        UserError: images of another shape or other classes. Classes without names are numbers, which may be fewer.
    """
    numbered = tuple(str(k) for k in range(data.num_classes))
    trained = f"but {run.path} was trained on"
    if data.image_shape != run.image_shape:
        raise UserError(f"--data.name {name} holds images of shape {data.image_shape}, {trained} {run.image_shape}")
    if data.class_names == numbered and data.num_classes <= run.num_classes:
        data = replace(data, class_names=run.class_names)
    if data.class_names != run.class_names:
        if data.num_classes != run.num_classes:
            raise UserError(f"--data.name {name} holds {data.num_classes} classes, {trained} {run.num_classes}")
        theirs, own = next(pair for pair in zip(data.class_names, run.class_names, strict=True) if pair[0] != pair[1])
        raise UserError(
            f"--data.name {name} holds class {theirs!r} where {run.path} has {own!r}; names and order must agree"
        )
    place = Path(name).stem
    folder = run.path / EVALUATION / place
    refuse_links(folder.parent, folder, folder / "parts")
    return Job(
        name=str(run.path),
        model=run.model,
        data=data.to(run.device),
        split=split,
        folder=folder,
        source={"data": name, "split": split, "epoch": run.epoch, "checkpoint": checkpoint},
        eps=float(run.config.attack.eps),
        norm=run.config.attack.norm,
        place=place,
    )


def evaluation_names(paths: Sequence[Path]) -> list[str]:
    """Short names of evaluations' files: RUN/evaluation/test.json has the run's, page/ours.json is "ours".

    Raises:
        UserError: the same file is given twice.
    """
    parts = [_named_parts(path.resolve().with_suffix("")) for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError("expected different evaluations, but the same file is given twice")
    while min(map(len, parts)) > 2:
        last = {part[-1] for part in parts}
        if len(last) > 1 or (len(parts) == 1 and not last & set(SPLITS)):
            break  # what tells them apart, or names the only one
        parts = [part[:-1] for part in parts]
    return shortest_ends(parts)


def _named_parts(path: Path) -> tuple[str, ...]:
    """The parts of a path; RUN/evaluation/DATA is one, "RUN/DATA"."""
    *folders, name = path.parts
    if EVALUATION not in folders[1:]:
        return path.parts
    at = len(folders) - 1 - folders[::-1].index(EVALUATION)
    return (*folders[: at - 1], "/".join((folders[at - 1], *folders[at + 1 :])), name)


def shortest_ends(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The shortest ends of different paths, each given by its parts, that tell them apart: mostly the last part."""
    length = next(k for k in range(1, max(map(len, paths)) + 1) if len({path[-k:] for path in paths}) == len(paths))
    return [str(Path(*path[-length:])) for path in paths]


def answers_line(evaluation: Evaluation) -> str:
    """Which results were reused, and which were computed."""
    reused = f"reused, since the model still answers as it did: {shortened(evaluation.reused)}"
    worked_out = f"computed: {shortened(evaluation.worked_out)}"
    return "; ".join([reused] * bool(evaluation.reused) + [worked_out] * bool(evaluation.worked_out))


def shortened(names: Sequence[str]) -> str:
    """A list in a sentence, not longer than `LISTED`."""
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def examine(
    job: Job,
    defaults: Defaults,
    options: Namespace | EvaluationOptions,
    *,
    world: World = ALONE,
    on_work: Callable[[], object] | None = None,
    **questions: Any,
) -> Evaluation:
    """Evaluate, and show on stderr how far it is; results are kept in the job's folder and reused from there.

    Args:
        options: of `EvaluationOptions`.
        world: the processes that share the work; all call this, and the first one shows.
        on_work: called once, when something has to be computed.
        questions: attacks, eps_sweep, targeted, corruptions, ... of :func:`fairtat.evaluation.evaluate`.
    """
    with observe(job.name, job.data.class_names) if world.main else nullcontext() as shown:
        told = False

        def watch(standing: Standing) -> None:
            nonlocal told
            if not told and on_work is not None:
                on_work()
            told = True
            if shown is not None:
                shown(standing)

        data = job.data if isinstance(job.data, ImageData) else job.data.decoded()
        evaluation = evaluate(
            job.model,
            data,
            **defaults._asdict(),
            batch_size=options.batch_size,
            engine=options.engine,
            normalize=job.normalize,
            cache=job.folder / "parts",
            watch=watch,
            team=Team() if world.size == 1 else Team.of_group(world.control),
            **questions,
        )
    return replace(evaluation, source={**job.source, **evaluation.source, "fairtat": __version__})

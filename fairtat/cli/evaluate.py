"""``fairtat evaluate RUN`` or ``--model NAME``: clean, robust and corrupted accuracy, class by class."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonargparse
from rich.console import Console
from rich.padding import Padding

from fairtat import models
from fairtat.cli.parser import Parser
from fairtat.cli.runs import (
    AttackArguments,
    EvaluationOptions,
    Job,
    answers_line,
    comma_separated,
    examine,
    job_of_run,
    job_on_data,
    load_trained,
    shortened,
)
from fairtat.cli.weights import load_weights
from fairtat.data import CORRUPTIONS, Data, Exif, Layout, check_images, load, load_splits
from fairtat.devices import resolve_device
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.evaluation.merge import Added, added_to
from fairtat.evaluation.text.story import beside_baseline
from fairtat.evaluation.text.table import tables
from fairtat.training import Number


@dataclass
class EvaluateOptions(EvaluationOptions):
    """Options of `fairtat evaluate`."""

    eps_sweep: str | None = None
    """Radii of the main attack for an accuracy curve, separated by commas: 2/255,4/255,8/255."""

    targeted: str | None = None
    """Attack every image towards every other class, with pgd or cw-20, ...: who can be turned into whom."""

    corruptions: str | None = None
    """Corruptions, separated by commas, or all. CIFAR-10-C and CIFAR-100-C are read from data.root for the test part of
    cifar10 and cifar100; others are made here (needs kornia)."""

    severities: str = "1,2,3,4,5"
    """Severities of the corruptions."""

    sanity: bool = True
    """Look for signs that the robust accuracy is too good, such as gradient masking."""

    baseline: str | None = None
    """Another run folder or evaluation (.json) to measure rho, mCE and the worst class's gain against."""

    model: str | None = None
    """Instead of a run: digits_cnn, preact_resnet18, wrn28_10, ..., timm:NAME, or module:function. With a run: the
    module:function that it was trained with, which is run only if it is named here (or with --trust_model)."""

    model_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for that model, for example {width: 64}."""

    weights: str | None = None
    """Its weights: a .safetensors file or a PyTorch checkpoint of tensors."""

    data: str | None = None
    """The data to judge it on: a name that `fairtat train` knows, a folder of images or a .npz file. With a run: other
    images of the same classes and shape than those of its own data."""

    data_root: str | None = None
    """Where the files of that data set lie."""

    data_layout: Layout = "auto"
    """Which axis of the images in a .npz file holds the channels, where auto cannot tell: nchw or nhwc."""

    data_exif: Exif | None = None
    """Images of folders and Hugging Face sets: apply turns them as their EXIF orientation says, ignore does not. By
    default as the run was trained, and apply for a model that comes with --model."""

    mean: str | None = None
    """Per channel, of a model that takes (x - mean) / std: 0.491,0.482,0.447."""

    std: str | None = None
    """See mean."""

    output: str | None = None
    """Folder for the results; by default RUN/evaluation, RUN/evaluation/DATA or evaluations/MODEL-DATA."""


def parser() -> jsonargparse.ArgumentParser:
    """Arguments and help of the subcommand."""
    parser = Parser(
        "evaluate",
        "Count, class by class, what a model gets right on clean, attacked and corrupted images.\n"
        "Prints tables and warnings; writes the figures (.json) and every image's outcome (.npz). Answers are kept:\n"
        "the same question to the same model is not worked out twice, and an interrupted evaluation goes on where it\n"
        "stopped. Before a kept answer is trusted the model has to answer a few images as it did then.",
        "  fairtat evaluate runs/fairtat\n"
        "  fairtat evaluate runs/fairtat --attacks pgd-20,cw-20,autoattack --eps_sweep 4/255,8/255,12/255\n"
        "  fairtat evaluate runs/fairtat --targeted pgd --corruptions all --baseline runs/at\n"
        "  fairtat evaluate --model timm:resnet18 --weights r18.safetensors --data cifar10 --attack.eps 8/255",
    )
    parser.add_argument("run", type=str, nargs="?", help="run folder, as `fairtat train` leaves it")
    parser.add_trust_model()
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="Work everything out anew and forget the folder's earlier results. Without it results are added to them, "
        "and only the same question to the same model on the same images replaces its answer.",
    )
    parser.add_class_arguments(EvaluateOptions, sub_configs=False)
    return parser


def run(options: jsonargparse.Namespace) -> int:
    """Evaluate one model."""
    job = _job(options)
    baseline = None if options.baseline is None else _baseline(options.baseline, job)
    if options.output is not None:
        job = replace(job, folder=Path(options.output))
    attacks = comma_separated(options.attacks)
    defaults = AttackArguments.parsed(options.attack).defaults(job, attacks, options.active_set)
    corruptions = comma_separated(options.corruptions)
    from_files = bool(corruptions) and job.has_corrupted_files
    if from_files and corruptions == ["all"]:
        corruptions = list(CORRUPTIONS)
    evaluation = examine(
        job,
        defaults,
        options.batch_size,
        attacks=attacks,
        eps_sweep=[_number("eps_sweep", text) for text in comma_separated(options.eps_sweep)],
        targeted=options.targeted or False,
        corruptions=corruptions,
        severities=[int(_number("severities", text)) for text in comma_separated(options.severities)],
        corrupted=job.corrupted if from_files else None,
        check_sanity=options.sanity,
        fresh=options.fresh,
    )
    added = Added(evaluation) if options.fresh else added_to(job.stored, evaluation)
    added.evaluation.save(job.stored)

    console = Console(highlight=False, markup=False)
    about = ", ".join(f"{key} {value}" for key, value in job.source.items())
    console.print(f"{job.name}: {about}", soft_wrap=True)
    for table in tables(evaluation):
        console.print(table)
    for finding in evaluation.findings:
        console.print(f"{finding.severity} ({finding.id}):", style="bold red" if finding.severity != "info" else "bold")
        console.print(Padding(finding.text, (0, 0, 0, 2), expand=False))
    if baseline is not None:
        for line in beside_baseline(job.name, evaluation, baseline).plain:
            console.print(line)
    console.print(answers_line(evaluation), soft_wrap=True)
    console.print(f"written: {job.stored} (and .npz)", soft_wrap=True)
    if added.kept:
        console.print(f"kept from before (--fresh forgets it): {shortened(added.kept)}", soft_wrap=True)
    if added.lost:
        console.print(f"replaced: {added.lost}", soft_wrap=True)
    return 0


def _job(options: jsonargparse.Namespace) -> Job:
    if options.run is not None:
        given = [name for name in ("weights", "mean", "std") if getattr(options, name) is not None]
        if given:
            raise UserError(f"--{given[0]} goes with --model, not with a run folder ({options.run})")
        trust = options.trust_model or options.model or False
        trained = load_trained(options.run, options.device, options.checkpoint, trust_model=trust)
        if options.data is not None:
            return job_on_data(trained, options.data, *_data(options, trained.config.data.exif), options.checkpoint)
        return job_of_run(trained, options.split, options.checkpoint)
    if options.model is None:
        raise UserError("what is to be evaluated? Name a run folder, or --model with --weights and --data")
    if options.data is None:
        raise UserError("--model needs --data, the images to judge it on")
    return _foreign(options)


def _foreign(options: jsonargparse.Namespace) -> Job:
    """A model that fairtat did not train, with its data."""
    models.check_options(options.model_options, "--model_options")
    data, split = _data(options, "apply")
    channels, height, width = data.image_shape
    model = models.build(
        options.model,
        num_classes=data.num_classes,
        in_channels=channels,
        image_size=(height, width),
        **options.model_options,
    ).eval()
    if options.weights is not None:
        load_weights(model, options.weights)
    name = f"{options.model.replace(':', '-')}-{Path(options.data).stem}"
    return Job(
        name=options.model,
        model=model.to(resolve_device(options.device)),
        data=data,
        split=split,
        folder=Path("evaluations") / name,
        source={"model": options.model, "weights": _weights(options), "data": options.data, "split": split},
        normalize=_normalize(options.mean, options.std, channels),
        data_root=options.data_root,
    )


def _data(options: jsonargparse.Namespace, exif: Exif) -> tuple[Data, str]:
    """The images that --data names, and which part of them; ``exif`` stands where --data_exif is not given."""
    split: str = options.split or ("all" if options.data.endswith(".npz") else "test")
    layout, exif = options.data_layout, options.data_exif or exif
    if split == "all":
        found = load(options.data, layout=layout, exif=exif)
    else:
        found = getattr(load_splits(options.data, root=options.data_root, layout=layout, exif=exif), split)
    check_images(found)
    return found, split


def _weights(options: jsonargparse.Namespace) -> str:
    """Where the weights of a model from elsewhere come from."""
    if options.weights is not None:
        return str(options.weights)
    if options.model.startswith("timm:"):
        return "timm's" if options.model_options.get("pretrained") else "random"
    return "its own" if ":" in options.model else "random"


def _normalize(mean: str | None, std: str | None, channels: int) -> tuple[list[float], list[float]] | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UserError("--mean and --std go together")
    values = [_number("mean", text) for text in comma_separated(mean)]
    spread = [_number("std", text) for text in comma_separated(std)]
    for name, numbers in (("mean", values), ("std", spread)):
        if len(numbers) not in (1, channels):
            raise UserError(f"--{name} has {len(numbers)} numbers, but the images have {channels} channels")
    return values, spread


def _number(option: str, text: str) -> float:
    try:
        return float(Number(text))
    except ValueError as error:
        raise UserError(f"--{option}: {error}") from None


def _baseline(path: str, job: Job) -> Evaluation:
    file = Path(path) / "evaluation" / job.place / f"{job.split}.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such evaluation; make it with: fairtat evaluate {path}")
    return Evaluation.load(file)

"""``fairtat evaluate RUN`` or ``--model.name NAME``: clean, robust and corrupted accuracy, class by class."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import jsonargparse
import torch
from rich.console import Console
from rich.padding import Padding

from fairtat import models
from fairtat.cli.jobs.models import DataArguments, ModelArguments, job_of
from fairtat.cli.jobs.runs import (
    EVALUATION,
    AttackArguments,
    EvaluationOptions,
    Job,
    answers_line,
    evaluation_names,
    examine,
    shortened,
)
from fairtat.cli.parser import Parser, comma_separated, number
from fairtat.cli.processes import one_voice, stop_on_sigterm
from fairtat.data import CORRUPTIONS
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.evaluation.budget import seconds
from fairtat.evaluation.groups import Grouping, read_groups
from fairtat.evaluation.merge import Added, added_to
from fairtat.evaluation.report import (
    Report,
    RunRecord,
    check_page,
    is_page,
    make_gallery,
    read_record,
    write_report,
)
from fairtat.evaluation.text.export import check_export, export_classes
from fairtat.evaluation.text.story import beside_baseline
from fairtat.evaluation.text.table import groups_table, tables
from fairtat.training.distributed import World, connect, losing_no_process
from fairtat.training.setup import choose_device

RENAMED = {
    "--model": "--model.name",
    "--model_options": "--model.options",
    "--mean": "--model.mean",
    "--std": "--model.std",
    "--data": "--data.name",
    "--data_root": "--data.root",
    "--data_layout": "--data.layout",
    "--data_exif": "--data.exif",
}
"""Former names, which `fairtat train` never had."""


@dataclass
class EvaluateOptions(EvaluationOptions):
    """Options of `fairtat evaluate`."""

    eps_sweep: str | None = None
    """Radii of the main attack for an accuracy curve, separated by commas: 2/255,4/255,8/255."""

    targeted: str | None = None
    """Attack every image towards every other class, with pgd or cw-20, ...: which classes can be turned into which."""

    per_class: int | None = None
    """Only so many images of each class, spread evenly over it, with results of their own: for slow attacks."""

    corruptions: str | None = None
    """Corruptions, separated by commas, or all. CIFAR-10-C and CIFAR-100-C are read from data.root for the test set of
    cifar10 and cifar100; others are generated (needs kornia)."""

    severities: str = "1,2,3,4,5"
    """Severities of the corruptions."""

    sanity: bool = True
    """Look for signs that the robust accuracy is overestimated, such as gradient masking."""

    budget: str | None = None
    """Time after which nothing new begins, such as 90s, 30m or 2h; AutoAttack then begins with its strongest attacks,
    and the results say what was not tried. The same command continues from there."""

    baseline: str | None = None
    """Another run folder or evaluation (.json), against which rho, mCE and the worst class's gain are measured."""

    model: ModelArguments = field(default_factory=ModelArguments)
    """A model instead of a run."""

    weights: str | None = None
    """Weights of that model: a .safetensors file, a PyTorch checkpoint of tensors, a run folder, hf:ORG/MODEL[/FILE],
    robustbench:DATASET/THREAT/NAME, or timm for those that timm publishes for timm:NAME."""

    data: DataArguments = field(default_factory=DataArguments)
    """Other images than the run's own."""

    report: str | None = None
    """Also write a page (.html) of every class, with its figures in the .json file beside it. `fairtat report` makes
    one of saved results, of one or several models."""

    images: int = 6
    """Attacked images in the page."""

    groups: str | None = None
    """Other groups of images with the same figures: a .csv file with a column for each way to divide them (superclass,
    domain, difficulty, ...) and a row for each image, in the order of evaluation or with their ids in a column id; or a
    row for each class, named in a column class; or cifar100-superclasses."""

    export: str | None = None
    """Also write the figures of every class to this file: .csv, .parquet, or .tex for LaTeX."""

    output: str | None = None
    """Folder for the results; by default RUN/evaluation, RUN/evaluation/DATA or evaluations/MODEL-DATA."""


def parser() -> jsonargparse.ArgumentParser:
    """Arguments and help of the subcommand."""
    parser = Parser(
        "evaluate",
        "Measure a model's accuracy on clean, attacked and corrupted images, class by class.\n"
        "Prints tables and warnings; writes the figures (.json) and every image's outcome (.npz). Results are kept:\n"
        "the same attack on the same model is not computed twice, and an interrupted evaluation resumes where it\n"
        "stopped. Before a kept result is reused, the model must give the same logits as before on a few images.",
        "  fairtat evaluate runs/fairtat\n"
        "  fairtat evaluate runs/fairtat --attacks pgd-20,cw-20,autoattack --eps_sweep 4/255,8/255,12/255\n"
        "  fairtat evaluate runs/fairtat --targeted pgd --corruptions all --baseline runs/at\n"
        "  torchrun --nproc-per-node 8 -m fairtat evaluate runs/fairtat --attacks autoattack\n"
        "  fairtat evaluate --model.name timm:resnet18 --weights r18.pt --data.name cifar10 --attack.eps 8/255 \\\n"
        "    --report r18.html",
        RENAMED,
    )
    parser.add_argument("run", type=str, nargs="?", help="run folder, as `fairtat train` leaves it")
    parser.add_trust_model()
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="Compute everything again and discard the folder's earlier results. Without it, results are added to "
        "them, and a result is replaced only by the same attack on the same model and images.",
    )
    parser.add_class_arguments(EvaluateOptions, sub_configs=False)
    return parser


def run(options: jsonargparse.Namespace) -> int:
    """Evaluate one model; under torchrun, every process does its share and the first one writes and prints.

    Raises:
        SystemExit: a mistake or an interruption, in any process except the first.
    """
    stop_on_sigterm()
    with one_voice():
        device = choose_device(options.device)
        with connect(device) as world:
            return _run(options, device, world)


def _run(options: jsonargparse.Namespace, device: torch.device, world: World) -> int:
    with world.together():
        if options.report is not None:
            check_page(Path(options.report), options.images)
        if options.export is not None:
            check_export(Path(options.export))
        if options.per_class is not None and options.per_class < 1:
            raise UserError(f"--per_class must be at least 1, got {options.per_class}")
        if world.main and options.run is None and options.model.name is not None and options.model.download:
            models.fetch(options.model.name, options.weights)
    with world.together():
        job = job_of(options, device)
        if options.per_class is not None:
            job = job.per_class(options.per_class)
        data = job.data
        groupings = []
        if options.groups is not None:
            groupings = read_groups(options.groups, data.class_names, data.labels.cpu().numpy(), data.ids.cpu().numpy())
        baseline = None if options.baseline is None else _baseline(options.baseline, job)
    if options.output is not None:
        job = replace(job, folder=Path(options.output))
    advice = (
        f"{job.name}: another process of this job has gone; what is computed is kept in {job.folder / 'parts'}: "
        "start the job again with the same options, less --fresh"
    )
    with losing_no_process(world, lambda: advice):
        evaluation = _evaluation(options, job, world)
    if world.main:
        added = Added(evaluation) if options.fresh else added_to(job.stored, evaluation)
        added.evaluation.save(job.stored)
        _print(job, evaluation, baseline, added, groupings)
        for path in _write_others(options, job, added.evaluation, groupings):
            print(f"written: {path}")
    return 0


def _evaluation(options: jsonargparse.Namespace, job: Job, world: World) -> Evaluation:
    attacks = comma_separated(options.attacks)
    budget = None if options.budget is None else seconds(options.budget)
    defaults = AttackArguments.parsed(options.attack).defaults(job, attacks, options.active_set)
    corruptions = comma_separated(options.corruptions)
    from_files = bool(corruptions) and job.has_corrupted_files
    if from_files and corruptions == ["all"]:
        corruptions = list(CORRUPTIONS)
    return examine(
        job,
        defaults,
        options,
        world=world,
        attacks=attacks,
        eps_sweep=[number("eps_sweep", text) for text in comma_separated(options.eps_sweep)],
        targeted=options.targeted or False,
        corruptions=corruptions,
        severities=[int(number("severities", text)) for text in comma_separated(options.severities)],
        corrupted=job.corrupted if from_files else None,
        check_sanity=options.sanity,
        fresh=options.fresh,
        budget=budget,
    )


def _write_others(
    options: jsonargparse.Namespace, job: Job, evaluation: Evaluation, groupings: list[Grouping]
) -> list[Path]:
    """The page and the table, as far as they were asked for."""
    (name,) = evaluation_names([job.stored])
    written = [] if options.export is None else [export_classes({name: evaluation}, options.export)]
    if options.report is None:
        return written
    page = Path(options.report)
    if page.with_suffix(".json").resolve() == job.stored.resolve():
        raise UserError(f"--report {page} would write its figures over {job.stored}; choose another name")
    gallery = None
    if options.images and is_page(page):
        gallery = make_gallery(
            {name: job.model}, job.data, {name: evaluation}, count=options.images, normalize=job.normalize
        )
    record = RunRecord(name, evaluation) if options.run is None else read_record(options.run, name, evaluation)
    return [*write_report(Report([record], gallery=gallery, groupings=groupings), page), *written]


def _print(
    job: Job, evaluation: Evaluation, baseline: Evaluation | None, added: Added, groupings: list[Grouping]
) -> None:
    console = Console(highlight=False, markup=False)
    about = ", ".join(f"{key} {value}" for key, value in job.source.items())
    console.print(f"{job.name}: {about}", soft_wrap=True)
    for table in [*tables(evaluation), *(groups_table(evaluation, grouping) for grouping in groupings)]:
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
    if added.replaced:
        console.print(f"replaced, as a file holds one of its kind: {shortened(added.replaced)}", soft_wrap=True)
    if added.lost:
        console.print(f"replaced: {added.lost}", soft_wrap=True)


def _baseline(path: str, job: Job) -> Evaluation:
    file = Path(path) / EVALUATION / job.place / job.stored.name if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such evaluation; make it with: fairtat evaluate {path}")
    return Evaluation.load(file)

"""Class-wise evaluation of a classifier under attacks, radii, targets and corruptions."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fairtat.checks import check_count, real
from fairtat.data import SEVERITIES
from fairtat.errors import UserError
from fairtat.evaluation.attacks.asked import eps_sweep_of, few_classes, named_attacks, targeted_attack
from fairtat.evaluation.attacks.classifier import Classifier, Normalize
from fairtat.evaluation.attacks.names import Defaults
from fairtat.evaluation.attacks.settings import AttackSettings, stages_of
from fairtat.evaluation.budget import Untried, budget_finding
from fairtat.evaluation.cache.answers import Answers
from fairtat.evaluation.cache.canary import CANARIES, Canary
from fairtat.evaluation.cache.fingerprint import tensor_bytes
from fairtat.evaluation.cache.store import AnswerStore
from fairtat.evaluation.cache.team import ALONE, Team
from fairtat.evaluation.checks import inputs, masking
from fairtat.evaluation.checks.finding import Finding
from fairtat.evaluation.corruptions import SYNTHETIC_CORRUPTIONS, CorruptionSettings, check_corruption, corrupt
from fairtat.evaluation.evaluator import Evaluator
from fairtat.evaluation.images import Images
from fairtat.evaluation.metrics.figures import ClassFigures
from fairtat.evaluation.progress import Pace, Planned, Progress, Watch, passes
from fairtat.evaluation.result import CLEAN, WORST, Condition, Evaluation, TargetedSweep
from fairtat.evaluation.samples import Predictions, Samples, worst_of
from fairtat.radius import check_radius

CorruptedImages = Callable[[str, int], Tensor]
"""(corruption, severity) to images (N, C, H, W), in the order of the clean ones."""


def evaluate(
    model: nn.Module | Callable[[Tensor], Any],
    data: Any,
    labels: Tensor | None = None,
    *,
    attacks: Sequence[str | AttackSettings] = ("pgd",),
    eps: float = 8 / 255,
    step_size: float | None = None,
    steps: int = 20,
    norm: str = "linf",
    restarts: int = 1,
    eps_sweep: Sequence[float] = (),
    targeted: bool | str = False,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    corrupted: CorruptedImages | None = None,
    active_set: bool = True,
    amp: str = "none",
    check_sanity: bool = True,
    batch_size: int = 256,
    seed: int = 0,
    normalize: Normalize | None = None,
    class_names: Sequence[str] | None = None,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
    backend: str = "auto",
    engine: str = "auto",
    cache: str | Path | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    watch: Watch | None = None,
    budget: float | None = None,
    team: Team = ALONE,
) -> Evaluation:
    """Measure, class by class, a classifier's accuracy on clean, attacked and corrupted images.

    ``right[i] = (argmax model(x'_i) == y_i)``, with x' the image itself, the worst point that an attack found in the
    eps-ball around it, or a corrupted version of it. The model is judged in eval mode and left as it was found.

    Args:
        model: From images (N, C, H, W) to logits: a module or any callable.
        data: ``(images, labels)`` as a pair or as two arguments, a `fairtat.data.ImageData`, or an iterable of
            ``(images, labels[, ids])`` batches such as a DataLoader, which is read once. Images are floats in [0, 1] or
            uint8, labels (N,) integers; both may be on another device than the model.
        attacks: Names as in `fairtat.evaluation.attacks.names` ("fgsm", "pgd-20", "cw-20", "apgd-ce", "autoattack",
            "pgd-20:l2@0.5", "cw-20+square") or settings; the first is the main one. May be empty.
        eps, step_size, norm: Of attacks whose name does not say, in pixel units; the step is eps / 4 by default.
        steps, restarts: Of pgd and cw where the name does not say.
        eps_sweep: Radii of the main attack for an accuracy curve. Fooled at one stays fooled at larger ones.
        targeted: Also move every image towards every other class, with "pgd" (True) or "cw-20", ...
        corruptions: Names from `SYNTHETIC_CORRUPTIONS`, or "all"; each at every one of ``severities``.
        corrupted: Reads ready-made corrupted images instead, such as CIFAR-10-C's: ``(corruption, severity)`` to
            images in the order of the clean ones.
        active_set: An image that is fooled already is left alone: one that the model gets wrong as it is, one that a
            step, an earlier stage of a suite or a smaller radius has fooled. Without it, every image is attacked for
            all steps and the last one counts, as in the loops of most papers.
        amp: "bf16" runs the attacks' passes in bfloat16, faster where the device has instructions for it. An image
            counts as fooled only by a float32 pass on the moved image; one that bfloat16 alone holds for fooled is
            attacked again in float32. Clean and corrupted images are always judged in float32.
        check_sanity: Also look for signs of overestimated robustness, on a few dozen images (`masking`).
        batch_size: Images at a time. Results do not depend on it.
        seed: Of random starts and corruptions; with the samples' ids it fixes each sample's start.
        normalize: (mean, std) for a model that takes ``(x - mean) / std``.
        class_names: One name per class; default the data's, or their numbers.
        sample_ids: (N,) integers; default the data's, or ``arange(N)``.
        device: Where to work; default where the model is.
        backend, engine: As in :func:`fairtat.fast_pgd`; on a CPU, ``engine="auto"`` is the eager one, except for an
            attack of :func:`fairtat.autoattack`'s kind that may take so many operations on all these images that a
            program pays. A count and not a clock decides, so that the same evaluation gives the same bits.
        cache: A folder that keeps every result. The same attack on the same model and images, by the same engine and
            backend, is then read from there, and an interrupted evaluation resumes. The same model: the same weights,
            buffers, attributes, hooks and code, the same logits to the bit on a few images and on a few that the kept
            attack has moved, and the same gradients; this is checked each time. Results of a callable that is not a
            module are not kept.
        fresh: Compute everything, whatever the cache holds, and replace its contents.
        progress: Called with (condition, done, total) after each batch.
        watch: Called with a `Standing` before and after each batch: also the accuracy so far and the time left.
        budget: Seconds after which no further batch begins. The main attack goes first, AutoAttack with its strongest
            attacks first; ``.untried`` and a finding say what the time did not suffice for. An attack that was tried on
            some images only gives an upper bound of the accuracy; what was not begun is left out.
        team: The processes that share the work, each of which makes this same call: `Team.of_group()`. All return the
            same evaluation, which is that of a single process to the last bit.

    Returns:
        An `Evaluation`: ``.clean``, ``.robust`` (main attack), ``.condition(name)``, ``.samples``, ``.findings``, and
        what came out of the cache, ``.reused`` and ``.worked_out``. Logits that name no class (NaN, or an infinite
        largest one) count as wrong and as a prediction of no class, and a finding says how many.

    Raises:
        UserError: an unknown attack or corruption, a package that one needs and that is not installed, frozen
            TorchScript of another dtype than the images, a budget that ends before the main attack's first batch, or
            processes with other models, images or logits.
        ValueError, TypeError: no images, shapes that do not fit, labels or class_names that do not fit the logits,
            fewer classes than an attack needs, or settings out of range.

    Source: Madry et al. 2018, arXiv:1706.06083; Croce & Hein 2020 (AutoAttack), arXiv:2003.01690; Hendrycks and
    Dietterich 2019, arXiv:1903.12261; class-wise figures as in Xu et al. 2021 (FRL), arXiv:2010.06121.
    """
    began = time.monotonic()
    check_count("batch_size", batch_size, 1)
    if budget is not None:
        real("budget", budget, low=0.0)
    images = Images.of(data, labels, sample_ids)
    defaults = Defaults(float(eps), norm, steps, step_size, restarts, seed, active_set, amp)
    asked = named_attacks(attacks, defaults, in_time=budget is not None)
    sweep = eps_sweep_of(next(iter(asked.values()), None), eps_sweep)
    towards = targeted_attack(targeted, defaults)
    corrupting = _corruptions(corruptions, severities, seed, corrupted is not None)
    if class_names is None:
        class_names = getattr(data, "class_names", None)

    bounds, findings = inputs.check_images(images)
    check_radius("eps", defaults.eps, norm, bounds, error=UserError)
    for name, settings in (*asked.items(), *(("eps_sweep", each) for each in sweep.values())):
        for stage in stages_of(settings):
            check_radius(f"{name}: eps", stage.eps, stage.norm, bounds, error=UserError)
    if towards is not None:
        check_radius("targeted: eps", towards.eps, towards.norm, bounds, error=UserError)
    where = _device(model, images, device)
    classifier = Classifier(model, where, normalize=normalize, bounds=bounds, backend=backend, engine=engine)
    inputs.check_dtype(model, images)
    findings += inputs.check_model(model, len(images), batch_size)
    canary = Canary(classifier, images)
    digest = None if cache is None else classifier.digest()
    key = {"model": digest, "data": images.digest, "logits": canary.digest} if digest else {}
    _check_alike(team, (digest, images.digest, canary.digest))
    folder = Path(cache) if cache is not None and digest else None
    store = AnswerStore(folder, key, fresh=fresh, rank=team.rank, shared=team.size > 1)
    pace = Pace(
        _plan(asked, sweep, corrupting, towards, canary.num_classes),
        images.labels.numpy(),
        canary.num_classes,
        processes=team.size,
        progress=progress,
        watch=watch,
    )
    deadline = None if budget is None else began + budget
    work = Evaluator(classifier, images, Answers(store, canary, pace, team=team, deadline=deadline), batch_size)
    names = _class_names(class_names, canary.num_classes)
    findings += inputs.check_counts(np.bincount(images.labels.numpy(), minlength=len(names)).tolist(), names)
    findings += few_classes((*asked.values(), *sweep.values()), len(names))

    answers = {CLEAN: _Answer(CLEAN, None, work.clean())}
    untried: list[Untried] = []
    for kind, attacked in (("attack", asked), ("sweep", sweep)):
        for name, settings in attacked.items():
            stages = stages_of(settings)
            predictions = work.attacked(stages, name)
            left = work.left.get(stages, ())
            # A point of a curve that is only an upper bound would bend the curve.
            kept = not left or (kind == "attack" and work.tried(stages))
            untried += [Untried(name, stage.title, count, kept) for stage, count in left]
            if kept:
                answers[name] = _Answer(kind, settings, predictions)
            elif kind == "attack" and not untried[len(left) :]:
                raise UserError(f"the budget was over before the first batch of {name}; what is computed is kept")
    main = next(iter(asked.values()), None)
    alike = {
        name: each
        for name, each in asked.items()
        if main and name in answers and (each.eps, each.norm) == (main.eps, main.norm)
    }
    if len(alike) > 1:
        worst = worst_of(images.labels.numpy(), [answers[name].predictions for name in (CLEAN, *alike)])
        answers[WORST] = _Answer(WORST, None, worst)
    for corruption in corrupting:
        make, pixels = _corrupted_images(images, corruption, corrupted)
        found = work.corrupted(corruption, make, pixels)
        if found is None:
            untried.append(Untried(corruption.name, corruption.name, len(images), kept=False))
        else:
            answers[corruption.name] = _Answer("corruption", corruption, found)
    moved = None
    if towards is not None:
        reached = work.targeted(towards, f"targeted {towards.name}")
        if reached is None:
            untried.append(Untried(f"targeted {towards.name}", towards.title, len(images), kept=False))
        else:
            moved = (towards, *reached)
    findings += inputs.check_finite({name: answer.predictions for name, answer in answers.items()})
    findings += budget_finding(untried)
    if check_sanity:
        partly = {each.condition for each in untried}
        findings += masking.check_outcomes(
            images, {name: (alike[name], answers[name].predictions) for name in alike if name not in partly}
        )
        findings += masking.probe(work, defaults)
    return replace(
        _assembled(images, names, answers, moved, findings),
        source={} if digest is None else {"fingerprint": digest},
        untried=tuple(untried),
        reused=tuple(work.answers.reused),
        worked_out=tuple(work.answers.worked_out),
    )


class _Answer(NamedTuple):
    kind: str
    settings: AttackSettings | CorruptionSettings | None
    predictions: Predictions


def _assembled(
    images: Images,
    names: tuple[str, ...],
    answers: Mapping[str, _Answer],
    moved: tuple[AttackSettings, np.ndarray, np.ndarray] | None,
    findings: Iterable[Finding],
) -> Evaluation:
    label = images.labels.numpy()
    primary = next((name for name, answer in answers.items() if answer.kind == "attack"), CLEAN)
    conditions = tuple(
        Condition(
            name=name,
            kind=answer.kind,
            settings=answer.settings,
            figures=ClassFigures.of(label, answer.predictions.pred, len(names)),
            attacked=int(answer.predictions.attacked.sum()),
        )
        for name, answer in answers.items()
    )
    samples = Samples.of(images.ids.numpy(), label, {name: each.predictions for name, each in answers.items()}, primary)
    targeted = None
    if moved is not None:
        towards, reached, margin = moved
        counts = np.stack([reached[label == k].sum(0) for k in range(len(names))])
        targeted = TargetedSweep(towards, tuple(conditions[0].figures.n), torch.from_numpy(counts.astype(np.int64)))
        samples = replace(samples, reached=reached, target_margin=margin)
    return Evaluation(
        class_names=names,
        conditions=conditions,
        primary=primary,
        samples=samples,
        targeted=targeted,
        # One of a kind: the first, which is about all images where the probe's is about a few dozen.
        findings=tuple({finding.id: finding for finding in reversed([*findings])}.values())[::-1],
    )


def _check_alike(team: Team, digests: tuple[str | None, ...]) -> None:
    """Refuse processes that would not answer as one, before they work."""
    for what, others in zip(("model", "images", "logits"), zip(*team.gather(digests), strict=True), strict=True):
        if len(set(others)) > 1:
            why = "; are their devices of one kind?" if what == "logits" else ""
            raise UserError(f"the processes of this evaluation have different {what}{why}")


def _plan(
    asked: Mapping[str, AttackSettings],
    sweep: Mapping[str, AttackSettings],
    corrupting: Sequence[CorruptionSettings],
    towards: AttackSettings | None,
    classes: int,
) -> dict[Hashable, Planned]:
    """What will be asked, in its order, by the keys of the answers."""
    plan: dict[Hashable, Planned] = {CLEAN: Planned(1.0)}
    for settings in (*asked.values(), *sweep.values()):
        stages = stages_of(settings)
        for k, stage in enumerate(stages, 1):
            plan[stages[:k]] = Planned(passes(stage, classes), stage.active_set)
    plan.update({each.name: Planned(1.0) for each in corrupting})
    if towards is not None:
        plan[f"targeted {towards.name}"] = Planned(passes(towards, classes), rounds=classes)
    return plan


def _corruptions(
    names: Sequence[str], severities: Sequence[int], seed: int, from_files: bool
) -> list[CorruptionSettings]:
    if isinstance(names, str):
        names = (names,)
    listed = list(SYNTHETIC_CORRUPTIONS) if list(names) == ["all"] else list(names)
    for name in listed:
        for severity in severities:
            if not from_files:
                check_corruption(name, severity)
    made_by = "file" if from_files else "kornia"
    return [CorruptionSettings(name, severity, seed, made_by) for name in listed for severity in severities]


def _corrupted_images(
    images: Images, settings: CorruptionSettings, ready_made: CorruptedImages | None
) -> tuple[Callable[[], Images], str]:
    if ready_made is not None:
        found = images.replaced(ready_made(settings.corruption, settings.severity))
        return lambda: found, found.digest

    def made(samples: int) -> Tensor:
        x, _, _ = images.draw(torch.arange(samples), torch.device("cpu"))
        return corrupt(x, settings.corruption, settings.severity, seed=settings.seed)

    # How a few come out tells the pixels of one version of a library from those of another.
    few = hashlib.sha256(tensor_bytes(made(min(CANARIES, len(images)))))
    return lambda: images.replaced(made(len(images))), few.hexdigest()


def _class_names(given: Sequence[str] | None, logits: int) -> tuple[str, ...]:
    if given is None:
        return tuple(str(k) for k in range(logits))
    if len(given) != logits:
        raise ValueError(f"class_names has {len(given)} names, but the model has {logits} logits")
    return tuple(given)


def _device(model: object, images: Images, device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), images.stored.device)

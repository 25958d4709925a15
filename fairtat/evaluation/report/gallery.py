"""A few images, what the attack adds to them, and what each model sees in them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairtat.evaluation.attacks.classifier import Classifier, Normalize
from fairtat.evaluation.attacks.kinds import ATTACKS
from fairtat.evaluation.attacks.settings import AttackSettings
from fairtat.evaluation.checks.inputs import check_images
from fairtat.evaluation.images import Images
from fairtat.evaluation.result import Evaluation
from fairtat.optional import optional_import

__all__ = ["AttackedView", "Gallery", "GalleryImage", "make_gallery"]

MOST_PIXELS = 96
"""Larger images are shown smaller, so that a page stays a few hundred kilobytes."""


@dataclass(frozen=True)
class AttackedView:
    """One model's view of one image: ``*_uri`` are PNG data URIs, the others are class names.

    The first attack is the evaluation's; the second one moves the image towards the class ``target``.
    """

    run: int
    clean: str
    adversarial_uri: str
    perturbation_uri: str
    predicted: str
    fooled: bool
    target: str
    targeted_uri: str
    targeted_perturbation_uri: str
    targeted_predicted: str
    reached: bool


@dataclass(frozen=True)
class GalleryImage:
    """One image with what became of it under each run."""

    label: str
    sample_id: int
    clean_uri: str
    views: tuple[AttackedView, ...]


@dataclass(frozen=True)
class Gallery:
    """``attack`` says in words how the images were made."""

    images: tuple[GalleryImage, ...]
    attack: str


def make_gallery(
    models: Mapping[str, nn.Module],
    data: Any,
    evaluations: Mapping[str, Evaluation],
    *,
    count: int = 6,
    normalize: Normalize | None = None,
) -> Gallery:
    """Attack a handful of images again, exactly as in the evaluation where its main attack is FGSM, PGD or CW.

    One image per class, from the classes on which the first run is worst; images that only some of the runs lose come
    first, because they show a difference. A targeted attack of the same radius aims at the class that the first model
    finds second most likely.

    Args:
        models: By the names of ``evaluations``.
        data: The images that were evaluated, as `evaluate` takes them.
        count: Number of images.
        normalize: (mean, std) for models that take ``(x - mean) / std``.

    Raises:
        UserError: Pillow, which writes the pictures, is not installed.
        ValueError: ``data`` is not what was evaluated.
    """
    names = list(evaluations)
    first = evaluations[names[0]]
    chosen = _chosen(list(evaluations.values()), count)
    images = Images.of(data)
    if first.samples is None or len(images) != len(first.samples.label):
        raise ValueError(f"data must be the {first.clean.total} images that were evaluated, got {len(images)}")
    settings = first.attack
    kind = ATTACKS.get(settings.attack)  # None of a suite
    exact = kind is not None and kind.gradient and not kind.pooled
    shown = settings if exact else _stand_in(settings)

    bounds, _ = check_images(images)
    looks = []
    target: Tensor | None = None
    for name in names:
        model = models[name]
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        classifier = Classifier(model, device, normalize=normalize, bounds=bounds)
        look = _look(classifier, *images.draw(torch.tensor(chosen), device), shown, target)
        target = look.target.cpu()
        looks.append(look)

    x, y, ids = images.draw(torch.tensor(chosen), torch.device("cpu"))
    classes = first.class_names
    shown_images = tuple(
        GalleryImage(
            label=classes[int(y[i])],
            sample_id=int(ids[i]),
            clean_uri=_png(_pixels(x[i])),
            views=tuple(_view(run, look, i, x[i], shown, classes) for run, look in enumerate(looks)),
        )
        for i in range(len(chosen))
    )
    return Gallery(shown_images, str(shown) if exact else f"{shown} (the evaluation used {settings})")


@dataclass(frozen=True)
class _Look:
    """One model on the chosen images: predictions (n,) and images (n, C, H, W), all on the CPU except ``target``."""

    clean: Tensor
    adversarial: Tensor
    predicted: Tensor
    label: Tensor
    target: Tensor
    targeted: Tensor
    targeted_predicted: Tensor


def _look(
    classifier: Classifier, x: Tensor, y: Tensor, ids: Tensor, settings: AttackSettings, target: Tensor | None
) -> _Look:
    logits = classifier.logits(x, settings.seed).float()
    clean = logits.argmax(1)
    moved = classifier.adversarial(x, y, ids, settings)
    target = logits.scatter(1, y[:, None], -torch.inf).argmax(1) if target is None else target.to(x.device)
    steered = classifier.adversarial_towards(x, y, target, ids, settings)
    # With an active set, an image that the model gets wrong without an attack was counted unchanged.
    wrong = (clean != y) if settings.active_set else torch.zeros_like(y, dtype=torch.bool)
    return _Look(
        clean=clean.cpu(),
        adversarial=torch.where(wrong.view(-1, *[1] * (x.ndim - 1)), x, moved.x_adv).cpu(),
        predicted=torch.where(wrong, clean, moved.pred).cpu(),
        label=y.cpu(),
        target=target,
        targeted=steered.x_adv.cpu(),
        targeted_predicted=steered.pred.cpu(),
    )


def _view(run: int, look: _Look, i: int, x: Tensor, settings: AttackSettings, classes: Sequence[str]) -> AttackedView:
    target, towards = int(look.target[i]), int(look.targeted_predicted[i])
    return AttackedView(
        run=run,
        clean=classes[int(look.clean[i])],
        adversarial_uri=_png(_pixels(look.adversarial[i])),
        perturbation_uri=_png(_pixels(_amplified(look.adversarial[i] - x, settings))),
        predicted=classes[int(look.predicted[i])],
        fooled=bool(look.predicted[i] != look.label[i]),
        target=classes[target],
        targeted_uri=_png(_pixels(look.targeted[i])),
        targeted_perturbation_uri=_png(_pixels(_amplified(look.targeted[i] - x, settings))),
        targeted_predicted=classes[towards],
        reached=towards == target,
    )


def _chosen(evaluations: Sequence[Evaluation], count: int) -> list[int]:
    """Positions of at most ``count`` images, each of a different class."""
    first = evaluations[0]
    assert first.samples is not None
    label = first.samples.label
    clean = np.stack([e.samples.correct("clean") for e in evaluations if e.samples])
    robust = np.stack([e.samples.correct("robust") for e in evaluations if e.samples])
    # Lower is better to show: seen right by all and lost by some; lost by all; lost by none; the rest.
    rank = np.full(len(label), 3)
    seen = clean.all(axis=0)
    rank[seen & robust.all(axis=0)] = 2
    rank[seen & ~robust.any(axis=0)] = 1
    rank[seen & robust.any(axis=0) & ~robust.all(axis=0)] = 0
    accuracy = first.robust.accuracy
    classes = sorted((k for k, n in enumerate(first.robust.n) if n), key=lambda k: accuracy[k])[:count]
    return [int(min(np.flatnonzero(label == k), key=lambda i: (rank[i], i))) for k in classes]


def _stand_in(settings: AttackSettings) -> AttackSettings:
    """PGD of the same radius, in place of library attacks and suites, which cannot return images for a few samples."""
    return AttackSettings(
        "pgd", settings.eps, settings.norm, step_size=settings.eps / 4, seed=settings.seed, active_set=True
    )


def _amplified(delta: Tensor, settings: AttackSettings) -> Tensor:
    """The perturbation around gray; in linf eps is black or white, in l2 the largest change is."""
    full = settings.eps if settings.norm == "linf" else float(delta.abs().max())
    return 0.5 + delta / (2 * max(full, 1e-12))


def _pixels(image: Tensor) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 of an image (C, H, W); of other channel counts, their mean."""
    shown = image if image.shape[0] in (1, 3) else image.mean(0, keepdim=True)
    array = (255 * shown.float().clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[2] == 1 else array


def _png(pixels: np.ndarray) -> str:
    """The picture as a data URI, made smaller if it is large."""
    picture = optional_import("PIL.Image", purpose="pictures in a report", extra="eval").fromarray(pixels)
    picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
    file = io.BytesIO()
    picture.save(file, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

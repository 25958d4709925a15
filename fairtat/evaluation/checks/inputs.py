"""Checks of the images, the model's state and its logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairtat.errors import UserError
from fairtat.evaluation.checks.finding import Finding
from fairtat.evaluation.images import Images
from fairtat.evaluation.samples import NONE, Predictions
from fairtat.text import printable

SLACK = 1e-6  # of [0, 1], as the attacks allow
FEW = 5  # images of a class: below, one of them is 25 points or more
LISTED = 5  # classes that a sentence names


def check_images(images: Images) -> tuple[tuple[float, float], list[Finding]]:
    """The bounds of a valid pixel, [0, 1] unless the images leave it, and what is odd about the images.

    Raises:
        ValueError: NaN.
    """
    low, high = images.range
    if math.isnan(low) or math.isnan(high):
        raise ValueError("images hold NaN")
    shown = f"[{low:.4g}, {high:.4g}]"
    if low >= -SLACK and high <= 1 + SLACK:
        if 0 < high < 0.1:
            text = f"Pixels lie in {shown}, far from filling [0, 1]; were they divided by 255 twice?"
            return (0.0, 1.0), [Finding("inputs:dark", "warning", text)]
        return (0.0, 1.0), []
    text = (
        f"Pixels lie in {shown}, not in [0, 1]. Radii were taken in these units and attacks clipped to this range, so "
        "the figures cannot be compared with published ones. If the images are normalized, pass them as they were "
        "before and normalize=(mean, std)."
    )
    return (min(low, 0.0), max(high, 1.0)), [Finding("inputs:range", "error", text)]


def check_dtype(model: object, images: Images) -> None:
    """Refuse frozen TorchScript of another precision than the images: its interpreter may crash on them.

    Other models have parameters, whose dtype the images are cast to; frozen ones have only constants.
    """
    if not isinstance(model, torch.jit.ScriptModule) or next(model.parameters(), None) is not None:
        return
    graph: Any = model.inlined_graph  # held here: nodes do not keep their graph alive
    tensors = [
        node.output().toIValue()
        for node in graph.findAllNodes("prim::Constant")
        if node.outputsSize() == 1 and node.output().type().isSubtypeOf(torch._C.TensorType.get())
    ]
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point() and tensor.ndim}
    given = images.stored.dtype if images.stored.is_floating_point() else torch.float32
    if found and given not in found:
        frozen = " and ".join(sorted(map(str, found)))
        raise UserError(
            f"the TorchScript model was frozen with {frozen}, but the images are {given};"
            " pass images of that dtype, or convert the model before it is frozen"
        )


def check_model(model: object, samples: int, batch_size: int) -> list[Finding]:
    """What is odd about the model's state, before any image is shown to it."""
    if not isinstance(model, nn.Module):
        return []
    findings = []
    if getattr(model, "training", False):  # torch.jit.freeze leaves none
        text = (
            "The model came in train mode. It was evaluated in eval mode (and left in train mode); figures that were "
            "taken in train mode, with dropout and batch statistics on, will differ."
        )
        findings.append(Finding("model:train-mode", "warning", text))
    without = [
        name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
    if without:
        text = (
            f"BatchNorm layer {without[0]!r} keeps no running statistics, so even in eval mode an image's prediction "
            "depends on the images beside it"
        )
        lonely = min(batch_size, samples) == 1 or samples % batch_size == 1
        if lonely:
            text += "; the last batch is a single image, which such a layer normalizes away. Use another batch_size"
        findings.append(Finding("model:batch-statistics", "error" if lonely else "warning", text + "."))
    return findings


def check_finite(outcomes: Mapping[str, Predictions]) -> list[Finding]:
    """How many images the model answers with logits that name no class, by condition."""
    counts = {name: int((predictions.pred == NONE).sum()) for name, predictions in outcomes.items()}
    found = {name: count for name, count in counts.items() if count}
    if not found:
        return []
    images = len(next(iter(outcomes.values())).pred)
    listed = ", ".join(f"{name}: {count}" for name, count in found.items())
    text = (
        f"The logits are not finite on some of {images} images ({listed}). These count as wrong, and as predictions of "
        "no class."
    )
    return [Finding("model:not-finite", "error", text)]


def check_counts(n: Sequence[int], names: Sequence[str]) -> list[Finding]:
    """Classes of which the images say little or nothing; ``n`` and ``names`` are per class."""
    findings = []
    few = sorted((k for k, count in enumerate(n) if 0 < count < FEW), key=n.__getitem__)
    none = [k for k, count in enumerate(n) if count == 0]
    if few:
        listed = _listed([f"{printable(names[k])}: {n[k]}" for k in few])
        text = (
            f"{_classes(len(few), len(n))} fewer than {FEW} images ({listed}). One image is {100 / n[few[-1]]:.0f} "
            "points or more of such a class, so its figures, and those of the worst class, may be luck."
        )
        findings.append(Finding("data:few-images", "warning", text))
    if none:
        listed = _listed([printable(names[k]) for k in none])
        text = f"{_classes(len(none), len(n))} no images ({listed}), so no figure says anything about them."
        findings.append(Finding("data:no-images", "info", text))
    return findings


def _classes(count: int, classes: int) -> str:
    return f"{count} of {classes} classes {'has' if count == 1 else 'have'}"


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - LISTED
    return ", ".join(parts[:LISTED]) + (f" and {more} more" if more > 0 else "")

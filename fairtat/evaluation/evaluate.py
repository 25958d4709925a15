"""Class-wise clean and robust accuracy of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fairtat.attacks import AttackResult, fast_pgd
from fairtat.evaluation.result import AttackSettings, ClassFigures, Evaluation, Samples
from fairtat.fairness import ClassStats

Normalize = tuple[Sequence[float], Sequence[float]]


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    steps: int = 20,
    norm: str = "linf",
    restarts: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    normalize: Normalize | None = None,
    class_names: Sequence[str] | None = None,
    sample_ids: Tensor | None = None,
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Count, class by class, what ``model`` gets right on the images and on untargeted PGD examples of them.

    Clean: ``argmax model(x) == y``. Robust: ``argmax model(x_adv) == y`` with ``x_adv = fast_pgd(model, x, y)``,
    BatchNorm in eval mode. Every image is attacked, also one that the model gets wrong already, as in the papers.

    Args:
        model: From images (N, C, H, W) to logits; left as it was found.
        images: (N, C, H, W) float32 in [0, 1]; moved to the model's device a batch at a time.
        labels: (N,) int64.
        eps: Radius in pixel units.
        step_size: In pixel units; default eps / 4.
        steps, norm, restarts, normalize, backend: As in :func:`fairtat.fast_pgd`.
        batch_size: Images at a time; the result does not depend on it.
        seed: Of the random starts.
        class_names: One name a class; default their numbers.
        sample_ids: (N,) int64, default ``arange(N)``; with ``seed`` they fix each sample's start.
        progress: Called with (done, total) after each batch.

    Raises:
        ValueError: no images, shapes that do not fit, another number of class_names than the model has logits, and
            whatever ``fast_pgd`` refuses.

    Source: Madry et al. 2018, arXiv:1706.06083; class-wise figures as in Xu et al. 2021 (FRL), arXiv:2010.06121.
    """
    _check(images, labels, sample_ids, batch_size)
    total = labels.shape[0]
    attack = AttackSettings(
        eps=float(eps),
        step_size=float(eps) / 4 if step_size is None else float(step_size),
        steps=steps,
        norm=norm,
        restarts=restarts,
        seed=seed,
    )
    ids = torch.arange(total) if sample_ids is None else sample_ids
    device = next((p.device for p in model.parameters()), images.device)

    def pgd(x: Tensor, y: Tensor, ids: Tensor, *, steps: int, init: str, restarts: int) -> AttackResult:
        result = fast_pgd(
            model,
            x,
            y,
            eps=attack.eps,
            step_size=attack.step_size,
            steps=steps,
            norm=attack.norm,
            loss=attack.loss,
            init=init,
            normalize=normalize,
            bn_mode="eval",
            restarts=restarts,
            seed=seed,
            sample_ids=ids,
            backend=backend,
            return_info=True,
        )
        assert isinstance(result, AttackResult)
        return result

    clean: ClassStats | None = None
    robust: ClassStats | None = None
    predictions: list[tuple[Tensor, Tensor]] = []
    for start in range(0, total, batch_size):
        batch = slice(start, start + batch_size)
        x, y, batch_ids = images[batch].to(device), labels[batch].to(device), ids[batch].to(device)
        # No steps from no noise is the clean image, with the attack's care for normalisation and modes.
        at_x = pgd(x, y, batch_ids, steps=0, init="zero", restarts=1)
        at_x_adv = pgd(x, y, batch_ids, steps=steps, init="uniform", restarts=restarts)
        if clean is None or robust is None:
            names = _class_names(class_names, at_x.logits.shape[1])
            clean, robust = ClassStats(len(names), device=device), ClassStats(len(names), device=device)
        clean.update(at_x.logits, y)
        robust.update(at_x_adv.logits, y)
        predictions.append((at_x.pred, at_x_adv.pred))
        if progress is not None:
            progress(min(start + batch_size, total), total)

    assert clean is not None  # _check refused an empty set
    assert robust is not None
    clean_pred, robust_pred = (torch.cat(parts).cpu() for parts in zip(*predictions, strict=True))
    return Evaluation(
        class_names=names,
        attack=attack,
        clean=ClassFigures(clean.confusion.cpu().clone()),
        robust=ClassFigures(robust.confusion.cpu().clone()),
        samples=Samples(
            sample_ids=ids.cpu().numpy(),
            label=labels.cpu().numpy(),
            clean_pred=clean_pred.numpy(),
            robust_pred=robust_pred.numpy(),
        ),
    )


def _class_names(given: Sequence[str] | None, logits: int) -> tuple[str, ...]:
    if given is None:
        return tuple(str(k) for k in range(logits))
    if len(given) != logits:
        raise ValueError(f"class_names has {len(given)} names, but the model has {logits} logits")
    return tuple(given)


def _check(images: Tensor, labels: Tensor, sample_ids: Tensor | None, batch_size: int) -> None:
    if images.shape[0] == 0:
        raise ValueError("images is empty: there is nothing to evaluate")
    for name, tensor in (("labels", labels), ("sample_ids", sample_ids)):
        if tensor is not None and tensor.shape != images.shape[:1]:
            raise ValueError(f"{name} must have shape ({images.shape[0]},) like images, got {tuple(tensor.shape)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

"""One batch of which some samples are attacked towards a target and the others away from their labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fairtat.attacks import fast_pgd, fast_targeted_pgd

__all__ = ["mixed_pgd"]


def mixed_pgd(
    model: nn.Module,
    x: Tensor,  # (N, ...)
    goal: Tensor,  # (N,)
    targeted: Tensor,  # (N,)
    *,
    y: Tensor,  # (N,)
    loss: tuple[str, str],
    eps: Tensor,  # (N,)
    step_size: float | Tensor,  # scalar or (N,)
    sample_ids: Tensor,  # (N,)
    init: str | Tensor,  # or (N, ...)
    clean_logits: Tensor | None = None,  # (N, C)
    **options: Any,
) -> Tensor:
    """`fast_targeted_pgd` towards ``goal`` where ``targeted``, `fast_pgd` away from the label elsewhere.

    Two attacks, of the two parts of the batch: with BatchNorm in a train mode each part has its own statistics, and on
    a GPU their sizes are waited for.

    Args:
        loss: of the targeted samples, and of the others.
        clean_logits: for the loss "kl" of the others.
        options: as both attacks take them.
    """
    x_adv = x.clone()
    for towards in (True, False):
        rows = (targeted == towards).nonzero()[:, 0]
        if not len(rows):
            continue
        part = {
            **options,
            "loss": loss[0] if towards else loss[1],
            "eps": eps[rows],
            "step_size": step_size[rows] if isinstance(step_size, Tensor) else step_size,
            "sample_ids": sample_ids[rows],
            "init": init[rows] if isinstance(init, Tensor) else init,
        }
        if towards:
            x_adv[rows] = fast_targeted_pgd(model, x[rows], goal[rows], y=y[rows], **part)
        else:
            clean = clean_logits[rows] if clean_logits is not None and loss[1] == "kl" else None
            x_adv[rows] = fast_pgd(model, x[rows], y[rows], clean_logits=clean, **part)
    return x_adv

"""APGD as the attack of training: the example of the largest loss of every sample, fooled or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairtat.attacks.autoattack.apgd_steps import APGDSteps, start
from fairtat.attacks.autoattack.arena import arena

__all__ = ["apgd_examples"]

_STREAM = 0


def apgd_examples(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    target: Tensor | None,
    *,
    eps: Tensor,
    steps: int,
    norm: str,
    loss: str,
    from_image: bool,
    amp: torch.dtype | None,
    engine: str,
    engine_check: str,
    seed: int,
    sample_ids: Tensor,
) -> Tensor:
    """``argmax_k J(x_k)`` over the points x_0, ..., x_K of APGD (see `fairtat.apgd`, which has its steps).

    `fairtat.apgd` returns an image that is wrong, or the image itself. For training a point counts by its loss alone,
    and no sample leaves the batch. J is the label's loss or, targeted, minus the target's.

    Args:
        model: attacked in eval mode, and left as it was found.
        x: (N, C_in, H, W) images in [0, 1].
        y: (N,) int64 labels.
        target: (N,) int64 classes to move towards, or None to move away from the label.
        eps: (N,) radii in pixel units; the first step is 2 eps.
        steps: K >= 1.
        norm: "linf" or "l2".
        loss: "ce", "dlr" or "margin".
        from_image: whether x_0 is the image; else a random point on the edge of the ball.
        amp, engine, engine_check, seed, sample_ids: as for `fairtat.fast_pgd`.

    Returns:
        (N, C_in, H, W), without a graph.

    Raises:
        ValueError: the loss needs more classes than the model has.

    Source: Croce and Hein, ICML 2020 (arXiv:2003.01690).
    """
    with arena(
        model, x, y, target=target, sample_ids=sample_ids, eps=eps, norm=norm, bounds=(0.0, 1.0), normalize=None,
        amp=amp, gradient="autograd", seed=seed, engine=engine, engine_check=engine_check, chunk_size=None, check=False,
    ) as here:  # fmt: skip
        classes, needed = here.classes, 3 if target is None else 4
        if loss == "dlr" and classes < needed:
            raise ValueError(f"loss dlr needs {needed} classes, got {classes}; margin and ce do not")
        rows = torch.arange(len(x), device=x.device)
        columns = start(here, rows, here.goal, _STREAM, steps)
        if from_image:
            for name in ("x_adv", "x_found", "x_best", "x_old"):
                columns[name] = here.x.clone()
        after = here.run(APGDSteps(here, columns, steps + 1, loss=loss, n_iter=steps, rho=0.75, eot_iter=1))
        return after["x_best"].detach()

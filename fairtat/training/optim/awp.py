"""Adversarial weight perturbation: a step's gradient is taken where the weights hurt most nearby."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from fairtat.training.config import AwpConfig

__all__ = ["Awp", "make_awp"]

_TINY = 1e-20  # under a gradient's norm, as in the authors' code: a tensor without gradient stays where it is


class Awp:
    """Moves each weight tensor w by ``gamma * ||w|| * g / ||g||`` while a step's gradient is computed.

    g is the gradient of the step's loss, so the move climbs. As in the authors' code, only parameters with "weight" in
    their names and two dimensions or more move: that leaves out biases and BatchNorm, and the position embeddings and
    class tokens of a transformer. A step is::

        with awp.perturbed(lambda: objective.loss(model, batch, examples, fair=fair).loss):
            value = objective.loss(model, batch, examples, fair=fair)
            value.loss.backward()
        optimizer.step()                                        # from the weights as they were

    It costs one more forward and backward pass, and a copy of the weights. The optimizer's weight decay acts on w; in
    the authors' code, which takes the optimizer's step before it moves back, on the moved weights: the difference is
    gamma times the decay, with the step's learning rate.

    Args:
        model: the plain module whose weights move; the loss may run it inside a wrapper.
        gamma: relative size of the move, >= 0.

    Source: Wu, Xia and Wang, NeurIPS 2020 (arXiv:2004.05884).
    """

    def __init__(self, model: nn.Module, gamma: float) -> None:
        self._model = model
        self._gamma = gamma

    @contextmanager
    def perturbed(self, loss: Callable[[], Tensor]) -> Iterator[None]:
        """Within, the weights are moved; on the way out they are restored to the bit, also after an exception.

        The pass that finds the move leaves no trace: buffers are put back, ``.grad`` is not touched. With several
        processes every one must come here; they share one move, that of the summed gradients.

        Args:
            loss: computes the loss, (), with a graph to the weights. A positive factor on it (a scaler's) changes
                nothing; with several processes it must be scaled as for the training step, so that the sum of the
                gradients is a multiple of the whole batch's.
        """
        weights: list[Tensor] = [
            w for name, w in self._model.named_parameters() if "weight" in name and w.requires_grad and w.ndim > 1
        ]
        gradients = self._gradients(loss, weights)
        before = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                sizes = torch._foreach_norm(weights)
                slopes = torch._foreach_add(torch._foreach_norm(gradients), _TINY)
                scale = torch._foreach_mul(torch._foreach_div(sizes, slopes), self._gamma)
                torch._foreach_add_(weights, list(torch._foreach_mul(gradients, scale)))
            yield
        finally:
            # A copy: subtracting the move again would leave rounding errors behind at every step.
            with torch.no_grad():
                torch._foreach_copy_(weights, before)

    def _gradients(self, loss: Callable[[], Tensor], weights: list[Tensor]) -> list[Tensor]:
        buffers = list(self._model.buffers())
        before = [buffer.clone() for buffer in buffers]
        try:
            found = torch.autograd.grad(loss(), weights, allow_unused=True)
        finally:
            with torch.no_grad():
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)
        gradients = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
        if distributed.is_available() and distributed.is_initialized():
            gradients = _summed(gradients)
        return gradients


def make_awp(config: AwpConfig, model: nn.Module) -> Awp | None:
    """Weight perturbation as configured, or None where gamma is 0. The trainer waits for ``config.begin``."""
    return Awp(model, float(config.gamma)) if config.gamma > 0 else None


def _summed(gradients: list[Tensor]) -> list[Tensor]:
    """Over all processes, in one collective."""
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = flat.split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]

"""Running averages of a model's weights: EMA, CFA's FAWA, which leaves unfair epochs out, and SWA."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from fairtat.training.config import AveragingConfig

__all__ = ["WeightAveraging", "make_averaging"]


class WeightAveraging:
    """``average = decay * average + (1 - decay) * weights``, after each step or epoch.

    SWA takes the plain mean: its n-th update has ``decay = (n - 1) / n``. Where BatchNorm's statistics are estimated
    for the average, the trainer calls `estimate_batchnorm` before it validates `model`.

    Parameters and floating-point buffers (BatchNorm's statistics) are averaged; integer buffers are copied. The first
    update, in epoch ``begin`` or, for FAWA, in the first epoch from there on that is fair enough, copies everything;
    until then `model` is the plain model as it was after the last epoch.

    FAWA updates after an epoch whose *plain* weights reach the threshold on validation data, as CFA's code does (were
    the average itself judged, one bad average could never recover). So the order of an epoch's end is: validate the
    plain model, `after_epoch`, validate `model`.

    Args:
        config: the averaging section.
        model: the plain module that is trained, not a wrapper of it. It is copied here and read at every update.

    Attributes:
        model: the averaged weights, in eval mode and without gradients.
        needs_validation: whether `after_epoch` reads ``worst_robust``.

    Source: FAWA: Wei et al., CVPR 2023 (arXiv:2303.14460). SWA: Izmailov et al., UAI 2018 (arXiv:1803.05407); in
    adversarial training: Chen et al., ICLR 2021.
    """

    def __init__(self, config: AveragingConfig, model: nn.Module) -> None:
        self._config = config
        self._decay = float(config.decay)
        self._source = model
        self._started = False
        self._count = 0  # updates so far, of which SWA is the mean
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.needs_validation = config.name == "fawa"
        estimated = config.name == "swa" if config.batchnorm == "auto" else config.batchnorm == "estimate"
        self._estimates = estimated and any(isinstance(layer, _BatchNorm) for layer in model.modules())

    def after_step(self, epoch: int) -> None:
        """Call after each optimizer step; ``epoch`` counts from 0."""
        if self._config.every == "step" and epoch >= self._config.begin:
            self._update()

    def after_epoch(self, epoch: int, worst_robust: float) -> None:
        """Call at the end of each epoch.

        Args:
            epoch: which has ended, counted from 0.
            worst_robust: lowest robust accuracy of a class that the plain model reached on validation data, in [0, 1].
        """
        if self._config.every == "epoch" and epoch >= self._config.begin and self._admits(worst_robust):
            self._update()
        elif not self._started:
            self._copy()

    def estimate_batchnorm(self, images: Iterable[Tensor]) -> None:
        """Set BatchNorm's statistics to the mean over batches (N, C_in, H, W), none empty, where they are estimated.

        Until averaging has begun, `model` keeps those of the plain model.
        """
        if self._estimates and self._started:
            update_bn(images, self.model)

    def state_dict(self) -> dict[str, Any]:
        """All that later updates depend on, the plain model apart; tensors are shared, not copied."""
        count = {"count": self._count} if self._config.name == "swa" else {}
        return {"started": self._started, "model": self.model.state_dict(), **count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the averaging that made ``state`` would have, to the same bits."""
        self.model.load_state_dict(state["model"])
        self._started = bool(state["started"])
        if self._config.name == "swa":
            self._count = int(state["count"])

    def _admits(self, worst_robust: float) -> bool:
        return self._config.name != "fawa" or worst_robust >= self._config.threshold

    @torch.no_grad()
    def _update(self) -> None:
        self._count += 1
        if not self._started:
            self._started = True
            self._copy()
            return
        average, weights = _tensors(self.model), _tensors(self._source)
        share = 1 / self._count if self._config.name == "swa" else 1 - self._decay
        torch._foreach_lerp_(_floating(average), _floating(weights), share)
        for ours, theirs in zip(average, weights, strict=True):
            if not ours.is_floating_point():
                ours.copy_(theirs)

    @torch.no_grad()
    def _copy(self) -> None:
        torch._foreach_copy_(_tensors(self.model), _tensors(self._source))


def make_averaging(config: AveragingConfig, model: nn.Module) -> WeightAveraging | None:
    """The averaging that the configuration names, or None."""
    return None if config.name == "none" else WeightAveraging(config, model)


def _tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, each once, in an order that a copy of the model shares."""
    return [*model.parameters(), *model.buffers()]


def _floating(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.is_floating_point()]

"""Running averages of a model's weights: EMA, and CFA's FAWA, which leaves unfair epochs out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.training.config import AveragingConfig

__all__ = ["WeightAveraging", "make_averaging"]


class WeightAveraging:
    """``average = decay * average + (1 - decay) * weights``, after each step or epoch.

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

    Source: FAWA: Wei et al., CVPR 2023 (arXiv:2303.14460).
    """

    def __init__(self, config: AveragingConfig, model: nn.Module) -> None:
        self._config = config
        self._decay = float(config.decay)
        self._source = model
        self._started = False
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.needs_validation = config.name == "fawa"

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

    def state_dict(self) -> dict[str, Any]:
        """All that later updates depend on, the plain model apart; tensors are shared, not copied."""
        return {"started": self._started, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the averaging that made ``state`` would have, to the same bits."""
        self.model.load_state_dict(state["model"])
        self._started = bool(state["started"])

    def _admits(self, worst_robust: float) -> bool:
        return self._config.name != "fawa" or worst_robust >= self._config.threshold

    @torch.no_grad()
    def _update(self) -> None:
        if not self._started:
            self._started = True
            self._copy()
            return
        average, weights = _tensors(self.model), _tensors(self._source)
        torch._foreach_lerp_(_floating(average), _floating(weights), 1 - self._decay)
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

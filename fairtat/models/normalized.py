"""A network that normalizes its own input, so that images and radii stay in pixel units."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["Normalized"]


class Normalized(nn.Module):
    """x (N, C, H, W) in [0, 1] -> model((x - mean[c]) / std[c]), one mean and one std per channel.

    Its state dict has the keys of ``model`` itself, so saved weights load into the plain network and the other way
    round.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)
        self.register_state_dict_post_hook(_without_wrapper)
        self.register_load_state_dict_pre_hook(_with_wrapper)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.model((x - self.mean) / self.std))


_WRAPPER = "model."


def _without_wrapper(module: nn.Module, state: MutableMapping[str, Any], prefix: str, metadata: object) -> None:
    inside = prefix + _WRAPPER
    for key in [key for key in state if key.startswith(inside)]:
        state[prefix + key.removeprefix(inside)] = state.pop(key)


def _with_wrapper(module: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: object) -> None:
    assert isinstance(module.model, nn.Module)
    # Only names of the network itself: weights saved by an earlier version have the wrapper's names already.
    for name in module.model.state_dict():
        if prefix + name in state:
            state[prefix + _WRAPPER + name] = state.pop(prefix + name)

"""The network that robust distillation learns from."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from fairtat.data.stream import Data
from fairtat.errors import UserError
from fairtat.extension import names_code
from fairtat.logits import logits_of
from fairtat.models import find_weights
from fairtat.training.build import build_model
from fairtat.training.config import ModelConfig, TrainConfig
from fairtat.training.precision import AMP_DTYPES
from fairtat.weights import load_weights

__all__ = ["Teacher"]


class Teacher:
    """The network of ``distill``, in eval mode and frozen; a call gives its logits (N, C) for images, in float32.

    Attributes:
        digest: SHA-256 of its weights, by which a resumed run knows its teacher again.

    Raises:
        UserError: no weights are given, or they do not fit the network or the data.
    """

    def __init__(self, config: TrainConfig, data: Data) -> None:
        distill = config.distill
        network = (
            config.model
            if distill.teacher is None
            else ModelConfig(name=distill.teacher, options=distill.options, mean=distill.mean, std=distill.std)
        )
        from_timm = network.name.startswith("timm:")
        knows = bool(network.options.get("pretrained")) if from_timm else names_code(network.name)
        if distill.weights is None and not knows:
            raise UserError(
                f"distill.weights is null; expected the teacher's weights for objective.name {config.objective.name}, "
                "a file or a run folder"
            )
        model = build_model(network, data.num_classes, data.image_shape, fetch=distill.weights is None, new_head=False)
        if distill.weights is not None:
            load_weights(model, find_weights(distill.weights), num_classes=data.num_classes)
        self.digest = _digest(model.state_dict())
        self._model = model.to(data.device).eval().requires_grad_(False)
        if config.channels_last:
            self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._dtype = AMP_DTYPES[config.amp]
        self._classes = data.num_classes

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=self._dtype, enabled=self._dtype is not None):
            logits = logits_of(self._model(x))
        if logits.shape != (len(x), self._classes):
            raise UserError(
                f"the teacher returns logits of shape {tuple(logits.shape)}; expected ({len(x)}, {self._classes})"
            )
        return logits.float()


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

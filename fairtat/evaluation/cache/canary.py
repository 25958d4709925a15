"""A few images on which a model must compute what it computed when an answer was kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fairtat.engines.operations import OperationCount, countable
from fairtat.evaluation.attacks.classifier import Classifier
from fairtat.evaluation.attacks.settings import AttackSettings
from fairtat.evaluation.cache.fingerprint import tensor_bytes
from fairtat.evaluation.images import Images

CANARIES = 8
TOLERANCE = 1e-5
"""Of a step along the gradient, whose sums a GPU takes in no fixed order; logits must agree bit for bit."""


class Canary:
    """Images that are classified again before any kept answer is reused.

    As they are: a digest of their logits is part of the name of every answer, so that answers of a model with others
    are never found. With an answer are kept images that its attack has moved, with their logits, and the images one
    step along the gradient; `agrees` compares.
    """

    def __init__(self, classifier: Classifier, images: Images) -> None:
        rows = torch.from_numpy(np.linspace(0, len(images) - 1, min(CANARIES, len(images))).astype(np.int64))
        self._x, self._y, self._ids = images.draw(rows, classifier.device)
        self._classifier = classifier
        counts = classifier.engine == "auto" and countable(classifier.model, classifier.device)
        count = OperationCount() if counts else None
        with count or nullcontext():
            logits = classifier.logits(self._x)
        # Of a pass forward, per image; where the engine is left to them.
        self.operations = 0.0 if count is None else count.total / len(self._x)
        self.num_classes = logits.shape[1]
        self._logits = logits

    @cached_property
    def digest(self) -> str:
        """Of the logits of the images as they are."""
        return hashlib.sha256(tensor_bytes(self._logits)).hexdigest()

    def blank(self, gradient: bool) -> dict[str, np.ndarray]:
        """The arrays that go with an answer before `note`; ``gradient``: whether the answer depends on gradients."""
        arrays = {name: array.copy() for name, array in self._unmoved.items()}
        if gradient:
            arrays["step"] = self._step.copy()
        return arrays

    def note(self, arrays: Mapping[str, np.ndarray], x: Tensor) -> None:
        """Take images (n, ...) that the model was judged on, as many as there is room for, and their logits."""
        seen = arrays["seen"].copy()
        taken = x[: len(seen)].float().cpu().numpy()
        seen[: len(taken)] = taken
        logits = self._judged(seen)  # before either array changes: Ctrl-C may come meanwhile
        arrays["seen"][...], arrays["seen_logits"][...] = seen, logits

    def agrees(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether the model still answers as it did when the arrays were noted."""
        if "step" in arrays:
            low, high = self._classifier.bounds
            far = TOLERANCE * (high - low)
            if not np.allclose(arrays["step"], self._step, rtol=0, atol=far, equal_nan=True):
                return False
        return self._judged(arrays["seen"]).tobytes() == arrays["seen_logits"].tobytes()

    def _judged(self, images: np.ndarray) -> np.ndarray:
        """Logits (n, C) as float64, which holds those of every dtype."""
        x = torch.from_numpy(images).to(self._x)
        return self._classifier.logits(x).double().cpu().numpy()

    @cached_property
    def _unmoved(self) -> dict[str, np.ndarray]:
        seen = self._x.float().cpu().numpy()
        return {"seen": seen, "seen_logits": self._judged(seen)}

    @cached_property
    def _step(self) -> np.ndarray:
        low, high = self._classifier.bounds
        # In l2 the step is the gradient itself, scaled; in linf only its signs would show.
        settings = AttackSettings("fgsm", eps=high - low, norm="l2", steps=1)
        return self._classifier.adversarial(self._x, self._y, self._ids, settings).x_adv.float().cpu().numpy()

"""The model under evaluation, and the attacks on a batch of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairtat.attacks import AttackResult, fast_pgd, fast_targeted_pgd
from fairtat.engines.model.network import logits_of, may_write
from fairtat.evaluation.fingerprint import fingerprint
from fairtat.evaluation.library import library_attack
from fairtat.evaluation.samples import NONE
from fairtat.evaluation.settings import ATTACKS, AttackSettings

Normalize = tuple[Sequence[float], Sequence[float]]


class Judged(NamedTuple):
    """What the model makes of a batch, ``x`` (n, ...): as it came, or as an attack has left it.

    ``pred`` (n,) int64 as in `predictions`, ``margin`` (n,) float32 as in `margins`; ``zero_grad`` (n,) int64 counts an
    attack's steps without gradient.
    """

    x: Tensor
    pred: Tensor
    margin: Tensor
    zero_grad: Tensor


@dataclass(frozen=True)
class Subject:
    """A model and how it is called: in eval mode, on images in ``bounds``, and left as it was found."""

    model: nn.Module | Callable[[Tensor], Any]
    device: torch.device
    num_classes: int = 0  # known once the model has been called
    normalize: Normalize | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    backend: str = "auto"
    engine: str = "auto"

    def logits(self, x: Tensor, seed: int = 0) -> Tensor:
        """Logits (n, C) of images (n, ...)."""
        # No steps from no noise is the clean image, with the attack's care for normalisation and modes.
        options = self._options(seed, torch.zeros(len(x), dtype=torch.int64, device=x.device))
        y = options["sample_ids"]
        result: AttackResult = fast_pgd(self.model, x, y, eps=0.0, steps=0, init="zero", check=False, **options)
        return result.logits

    def judge(self, x: Tensor, y: Tensor, seed: int = 0) -> Judged:
        """The verdict on images as they are."""
        logits = self.logits(x, seed)
        return Judged(x, predictions(logits), margins(logits, y), torch.zeros_like(y))

    def attack(self, x: Tensor, y: Tensor, ids: Tensor, settings: AttackSettings) -> Judged:
        """The verdict on adversarial images; what is returned depends on each image alone, not on the batch.

        But for the attacks of a library, whose random numbers go by batch.
        """
        if ATTACKS[settings.attack].from_library:
            x_adv = library_attack(self.model, self.callable(), x, y, settings, self.num_classes)
            return self.judge(x_adv, y)
        result = self.adversarial(x, y, ids, settings)
        return Judged(result.x_adv, predictions(result.logits), margins(result.logits, y), result.zero_grad)

    def adversarial(self, x: Tensor, y: Tensor, ids: Tensor, settings: AttackSettings) -> AttackResult:
        """The adversarial images of one of fairtat's own attacks."""
        single = settings.attack == "fgsm"
        result: AttackResult = fast_pgd(
            self.model,
            x,
            y,
            eps=settings.eps,
            # A step of eps from the image itself; noise takes no step at all.
            step_size=settings.eps if settings.step_size is None else settings.step_size,
            steps=0 if settings.attack == "noise" else settings.steps,
            norm=settings.norm,
            loss="margin" if settings.attack in ("cw", "noise") else "ce",
            init="zero" if single else "uniform",
            restarts=settings.steps if settings.attack == "noise" else settings.restarts,
            early_stop=settings.active_set and not single,
            **self._options(settings.seed, ids),
        )
        return result

    def attack_towards(self, x: Tensor, y: Tensor, target: Tensor, ids: Tensor, settings: AttackSettings) -> Judged:
        """The verdict on images that were moved towards ``target``, whose margins these are."""
        result = self.adversarial_towards(x, y, target, ids, settings)
        return Judged(result.x_adv, predictions(result.logits), margins(result.logits, target), result.zero_grad)

    def adversarial_towards(
        self, x: Tensor, y: Tensor, target: Tensor, ids: Tensor, settings: AttackSettings
    ) -> AttackResult:
        """Images (n, ...) moved towards the classes ``target`` (n,)."""
        result: AttackResult = fast_targeted_pgd(
            self.model,
            x,
            target,
            y=y,
            eps=settings.eps,
            step_size=settings.eps if settings.step_size is None else settings.step_size,
            steps=settings.steps,
            norm=settings.norm,
            loss="margin" if settings.attack == "cw" else "ce",
            restarts=settings.restarts,
            early_stop=settings.active_set,
            **self._options(settings.seed, ids),
        )
        return result

    def callable(self) -> Callable[[Tensor], Tensor]:
        """Images in [0, 1] to logits, for other people's attacks; the caller sets the model's mode."""
        normalize = self.normalize

        def call(x: Tensor) -> Tensor:
            if normalize is not None:
                mean, std = (torch.as_tensor(v, device=x.device, dtype=x.dtype).view(1, -1, 1, 1) for v in normalize)
                x = (x - mean) / std
            elif may_write(self.model):
                x = x.clone()
            return logits_of(self.model(x))

        return call

    def _options(self, seed: int, ids: Tensor) -> dict[str, Any]:
        return {
            "seed": seed,
            "sample_ids": ids,
            "normalize": self.normalize,
            "bounds": self.bounds,
            "bn_mode": "eval",
            "backend": self.backend,
            "engine": self.engine,
            "return_info": True,
        }

    def digest(self) -> str | None:
        """A fingerprint of the model and of how it is called; None for a callable that is not a module."""
        if not isinstance(self.model, nn.Module):
            return None
        return hashlib.sha256(f"{fingerprint(self.model)} {self.normalize} {self.bounds}".encode()).hexdigest()


def predictions(logits: Tensor) -> Tensor:
    """The class of the largest logit, (n,) int64; `NONE` where a logit is NaN or the largest one is infinite.

    Other logits may be -inf: so are those of classes that a model rules out.
    """
    largest, named = logits.max(1)
    return torch.where(largest.isfinite(), named, NONE)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """The logit of class ``y`` (n,) less the largest other one, (n,) float32; NaN without a prediction."""
    named = predictions(logits) != NONE
    logits = logits.float()
    own = logits.gather(1, y[:, None])[:, 0]
    return torch.where(named, own - logits.scatter(1, y[:, None], -torch.inf).amax(1), torch.nan)

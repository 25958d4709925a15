"""The model under evaluation, and the attacks on a batch of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairtat.attacks import AttackResult, fast_pgd, fast_targeted_pgd
from fairtat.engines.patient import settled
from fairtat.evaluation.attacks.kinds import ATTACKS
from fairtat.evaluation.attacks.pooled import pooled_result
from fairtat.evaluation.attacks.settings import AMP, AttackSettings
from fairtat.evaluation.cache.fingerprint import fingerprint
from fairtat.evaluation.samples import NONE

Normalize = tuple[Sequence[float], Sequence[float]]


class BatchPredictions(NamedTuple):
    """The model's predictions on a batch ``x`` (n, ...), clean or adversarial.

    ``pred`` (n,) int64 as in `predicted_classes`, ``margin`` (n,) float32 as in `margins`; ``zero_grad`` (n,) int64
    counts an attack's steps without gradient.
    """

    x: Tensor
    pred: Tensor
    margin: Tensor
    zero_grad: Tensor


@dataclass(frozen=True)
class Classifier:
    """A model and how it is called: in eval mode, on images in ``bounds``, and left as it was found."""

    model: nn.Module | Callable[[Tensor], Any]
    device: torch.device
    num_classes: int = 0  # known once the model has been called
    normalize: Normalize | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    backend: str = "auto"
    engine: str = "auto"
    requested: bool = True  # the engine, by name
    batch_size: int | None = None  # of the images that come at a time

    def logits(self, x: Tensor, seed: int = 0) -> Tensor:
        """Logits (n, C) of images (n, ...)."""
        # No steps from no noise is the clean image, with the attack's care for normalization and modes.
        options = self._options(seed, torch.zeros(len(x), dtype=torch.int64, device=x.device))
        y = options["sample_ids"]
        result: AttackResult = fast_pgd(self.model, x, y, eps=0.0, steps=0, init="zero", check=False, **options)
        return result.logits

    def judge(self, x: Tensor, y: Tensor, seed: int = 0) -> BatchPredictions:
        """The predictions on images as they are."""
        logits = self.logits(x, seed)
        return BatchPredictions(x, predicted_classes(logits), margins(logits, y), torch.zeros_like(y))

    def attack(self, x: Tensor, y: Tensor, ids: Tensor, settings: AttackSettings) -> BatchPredictions:
        """The predictions on adversarial images. The result for an image does not depend on its batch."""
        if ATTACKS[settings.attack].pooled:
            result = self.fooled(x, y, ids, settings)
        else:
            result = self.adversarial(x, y, ids, settings)
        return _of_attack(result, y)

    def fooled(self, x: Tensor, y: Tensor, ids: Tensor, settings: AttackSettings) -> AttackResult:
        """What a pooled attack finds. Where it finds nothing: the image itself, or of mt its best point."""
        return pooled_result(
            self.model,
            x,
            y,
            settings,
            sample_ids=ids,
            normalize=self.normalize,
            bounds=self.bounds,
            amp=AMP[settings.amp],
            engine=self.engine,
            requested=self.requested,
            chunk_size=self.batch_size,
        )

    def adversarial(self, x: Tensor, y: Tensor, ids: Tensor, settings: AttackSettings) -> AttackResult:
        """The adversarial images of one of the other attacks."""
        kind = ATTACKS[settings.attack]
        draws = not kind.gradient  # the best of several random points: restarts without a step
        return self._attacked(
            fast_pgd,
            {"x": x, "y": y},
            ids,
            settings,
            steps=0 if draws else settings.steps,
            init="zero" if kind.single_step else "uniform",
            restarts=settings.steps if draws else settings.restarts,
            early_stop=settings.active_set and not kind.single_step,
        )

    def attack_towards(
        self, x: Tensor, y: Tensor, target: Tensor, ids: Tensor, settings: AttackSettings
    ) -> BatchPredictions:
        """The predictions on images moved towards ``target``, with the margins of that class."""
        return _of_attack(self.adversarial_towards(x, y, target, ids, settings), target)

    def adversarial_towards(
        self, x: Tensor, y: Tensor, target: Tensor, ids: Tensor, settings: AttackSettings
    ) -> AttackResult:
        """Images (n, ...) moved towards the classes ``target`` (n,)."""
        return self._attacked(
            fast_targeted_pgd,
            {"x": x, "target": target, "y": y},
            ids,
            settings,
            steps=settings.steps,
            restarts=settings.restarts,
            early_stop=settings.active_set,
        )

    def _attacked(
        self,
        attack: Callable[..., Any],
        samples: dict[str, Tensor],
        ids: Tensor,
        settings: AttackSettings,
        **options: Any,
    ) -> AttackResult:
        """What ``attack`` finds for these samples; all but ``x_adv``, ``zero_grad`` and ``steps`` is float32's.

        A sample that stopped in lower precision, but is not at its goal in float32, is attacked again in float32.
        """
        eps = settings.eps
        options |= {
            "eps": eps,
            "step_size": eps if settings.step_size is None else settings.step_size,  # a single step is eps long
            "norm": settings.norm,
            "loss": ATTACKS[settings.attack].loss,
        }

        def run(some: Any, **changed: Any) -> AttackResult:
            given = {**self._options(settings.seed, ids[some]), **options, **changed}
            here = {name: each[some] for name, each in samples.items()}
            found: AttackResult = attack(self.model, **here, **given)
            return found

        found = run(slice(None), amp=AMP[settings.amp])
        if settings.amp == "none":
            return found
        at_rest = {"eps": 0.0, "steps": 0, "init": "zero", "restarts": 1, "early_stop": False, "check": False}
        judged: AttackResult = attack(
            self.model,
            **{**samples, "x": found.x_adv},
            **{**self._options(settings.seed, ids), **options, **at_rest},
        )
        judged = replace(judged, x_adv=found.x_adv, zero_grad=found.zero_grad, steps=found.steps)
        again = (found.reached & ~judged.reached).nonzero()[:, 0]
        if len(again):
            exact = run(again)
            for each in fields(AttackResult):
                getattr(judged, each.name)[again] = getattr(exact, each.name)
        return judged

    def _options(self, seed: int, ids: Tensor) -> dict[str, Any]:
        return {
            "seed": seed,
            "sample_ids": ids,
            "normalize": self.normalize,
            "bounds": self.bounds,
            "bn_mode": "eval",
            "backend": self.backend,
            "engine": settled(self.engine, self.device),
            "return_info": True,
        }

    def computed_by(self) -> dict[str, str]:
        """What attacks an image: part of the question, since the answers of two may differ in the last bit."""
        return {"engine": settled(self.engine, self.device), "backend": self.backend}

    def digest(self) -> str | None:
        """A fingerprint of the model and of how it is called; None for a callable that is not a module."""
        if not isinstance(self.model, nn.Module):
            return None
        return hashlib.sha256(f"{fingerprint(self.model)} {self.normalize} {self.bounds}".encode()).hexdigest()


def _of_attack(result: AttackResult, y: Tensor) -> BatchPredictions:
    """The predictions on adversarial images, with margins of the classes ``y``."""
    return BatchPredictions(result.x_adv, predicted_classes(result.logits), margins(result.logits, y), result.zero_grad)


def predicted_classes(logits: Tensor) -> Tensor:
    """The class of the largest logit, (n,) int64; `NONE` where a logit is NaN or the largest one is infinite.

    Other logits may be -inf: so are those of classes that a model rules out.
    """
    largest, named = logits.max(1)
    return torch.where(largest.isfinite(), named, NONE)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """The logit of class ``y`` (n,) less the largest other one, (n,) float32; NaN without a prediction."""
    named = predicted_classes(logits) != NONE
    logits = logits.float()
    own = logits.gather(1, y[:, None])[:, 0]
    return torch.where(named, own - logits.scatter(1, y[:, None], -torch.inf).amax(1), torch.nan)

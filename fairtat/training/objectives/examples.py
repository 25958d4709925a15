"""The attack that makes training examples: the configuration's options, class by class as the rules have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairtat import ops
from fairtat.attacks import AttackResult, fast_mixed_pgd, fast_pgd, fast_targeted_pgd
from fairtat.data import Batch
from fairtat.errors import UserError
from fairtat.extension import import_code, names_code
from fairtat.fairness import FairTAT, in_easy_class, worst_class_weight
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.apgd import apgd_examples
from fairtat.training.objectives.base import Examples
from fairtat.training.precision import AMP_DTYPES

__all__ = ["ExampleMaker", "PGDObjective", "Watch"]

Watch = Callable[[int, Tensor, Tensor], None]  # as the option of `fairtat.fast_pgd`


class _Resistance:
    """Counts, for each sample, the images before a step that the model gets right, and tells another watcher."""

    def __init__(self, y: Tensor, other: Watch | None) -> None:
        self._y, self._other = y, other
        self.steps = torch.zeros_like(y)  # (N,)

    def __call__(self, step: int, x_adv: Tensor, logits: Tensor) -> None:
        if step == 0:
            self.steps.zero_()
        self.steps += logits.argmax(dim=1) == self._y
        if self._other is not None:
            self._other(step, x_adv, logits)


class ExampleMaker:
    """Runs PGD with the radius ``fair.eps_for(y)`` and the step ``step_size * fair.step_scale_for(y)`` of each sample.

    Args:
        config: its attack, and amp.
        init: the start where ``attack.init`` is auto.
        divergence: where ``attack.loss`` is auto, an untargeted attack maximizes the divergence from the clean
            prediction, as TRADES does; cross-entropy otherwise.
        options: of the attack, beyond those of the configuration.
    """

    def __init__(self, config: TrainConfig, *, init: str = "uniform", divergence: bool = False, **options: Any) -> None:
        attack = config.attack
        self._step_size = float(attack.step_size)
        self._divergence = divergence and attack.loss == "auto"
        self._rel_step = None if attack.rel_step is None else float(attack.rel_step)
        self._noise = None if attack.noise is None else float(attack.noise)
        self._apgd = attack.name == "apgd"
        self._easy_only = config.fairness.targeted == "easy"
        # Shared by the attack and the clean pass that its divergence needs: mode, precision and kernels of the model.
        # check: the data were checked when they were loaded.
        self._passes: dict[str, Any] = {
            "bn_mode": attack.bn_mode,
            "amp": AMP_DTYPES[config.amp],
            "backend": attack.backend,
            "check": False,
        }
        self._options: dict[str, Any] = {
            "steps": attack.steps,
            "loss": _loss(attack.loss),
            "momentum": float(attack.momentum),
            "eot": attack.eot,
            "init": init if attack.init == "auto" else attack.init,
            "restarts": attack.restarts,
            **attack.shared_options,
            **options,
        }

    def __call__(
        self,
        model: nn.Module,
        batch: Batch,
        *,
        fair: FairTAT,
        target: Tensor | None,
        seed: int,
        reference: Tensor | None = None,
        watch: Watch | None = None,
        **more: Any,
    ) -> Examples:
        """Adversarial examples; arguments and errors as `Objective.attack`.

        Args:
            reference: (N, C) logits that a divergence is measured from, in place of the clean prediction's.
            watch: told of each step, which only the eager engine can.
            more: options of this attack alone.
        """
        rule = fair.weight_rule
        if rule is None or not rule.counts_steps:
            return Examples(self._attacked(model, batch, fair, target, seed, reference, watch, more))
        resistance = _Resistance(batch.y, watch)
        x_adv = self._attacked(model, batch, fair, target, seed, reference, resistance, more)
        rule.observe_steps(resistance.steps[: batch.own], batch.y[: batch.own])  # extra images say nothing of a class
        return Examples(x_adv)

    def _attacked(
        self,
        model: nn.Module,
        batch: Batch,
        fair: FairTAT,
        target: Tensor | None,
        seed: int,
        reference: Tensor | None,
        watch: Watch | None,
        more: dict[str, Any],
    ) -> Tensor:
        if self._apgd:
            if watch is not None:
                raise UserError("attack.name is apgd; expected pgd with a weight rule that counts the attack's steps")
            return self._by_apgd(model, batch, fair, target, seed)
        options = self._options_for(batch, fair, seed) | more
        if watch is not None:
            options |= {"watch": watch, "engine": "eager"}
        if target is not None and self._easy_only:
            return self._mixed(model, batch, target, seed, options)
        if target is not None:
            x_adv: Tensor = fast_targeted_pgd(model, batch.x, target, y=batch.y, **options)
        else:
            x_adv = fast_pgd(model, batch.x, batch.y, **options | self._untargeted(model, batch, seed, reference))
        return x_adv

    def _by_apgd(self, model: nn.Module, batch: Batch, fair: FairTAT, target: Tensor | None, seed: int) -> Tensor:
        return apgd_examples(
            model, batch.x, batch.y, target, eps=fair.eps_for(batch.y), from_image=self._options["init"] == "zero",
            amp=self._passes["amp"], seed=seed, sample_ids=batch.ids,
            **{name: self._options[name] for name in ("steps", "norm", "loss", "engine", "engine_check")},
        )  # fmt: skip

    def _mixed(self, model: nn.Module, batch: Batch, target: Tensor, seed: int, options: dict[str, Any]) -> Tensor:
        """Easy classes towards their targets, the others away from their labels."""
        clean_logits = self._clean_logits(model, batch, seed)
        targeted = in_easy_class(clean_logits, batch.y)
        towards = options.pop("loss")
        x_adv: Tensor = fast_mixed_pgd(
            model,
            batch.x,
            torch.where(targeted, target, batch.y),
            targeted,
            y=batch.y,
            loss=(towards, "kl" if self._divergence else towards),
            clean_logits=clean_logits if self._divergence else None,
            **options,
        )
        return x_adv

    def _options_for(self, batch: Batch, fair: FairTAT, seed: int) -> dict[str, Any]:
        eps, scale = fair.eps_for(batch.y), fair.step_scale_for(batch.y)
        step: float | Tensor = self._step_size if scale is None else self._step_size * scale
        if self._rel_step is not None:
            step = self._rel_step * eps
        options = {
            **self._passes,
            **self._options,
            "eps": eps,
            "step_size": step,
            "seed": seed,
            "sample_ids": batch.ids,
        }
        if self._noise is not None:
            options["init"] = ops.pgd_init(
                batch.x,
                self._noise * eps,
                seed=seed,
                sample_ids=batch.ids,
                norm=options["norm"],
                backend=options["backend"],
            )
            options["eps"] = self._noise * eps + options["steps"] * step  # as far as the steps can go
        return options

    def _untargeted(self, model: nn.Module, batch: Batch, seed: int, reference: Tensor | None = None) -> dict[str, Any]:
        """What untargeted attacks differ in from targeted ones."""
        if not self._divergence:
            return {}
        return {
            "loss": "kl",
            "clean_logits": self._clean_logits(model, batch, seed) if reference is None else reference,
        }

    def _clean_logits(self, model: nn.Module, batch: Batch, seed: int) -> Tensor:
        """An attack of no steps: one pass without gradients, which leaves the model as the attack itself does."""
        result: AttackResult = fast_pgd(
            model, batch.x, batch.y, steps=0, init="zero", engine="eager", seed=seed, return_info=True, **self._passes
        )
        return result.logits


def _loss(name: str) -> str | Callable[..., Any]:
    """What `fairtat.fast_pgd` takes as its loss."""
    if names_code(name):
        return import_code("attack loss", name)
    return "ce" if name == "auto" else name


class PGDObjective:
    """What the objectives share: the attack of the configuration, with ``options`` of `ExampleMaker`."""

    def __init__(self, config: TrainConfig, **options: Any) -> None:
        self._examples = ExampleMaker(config, **options)
        self._beta = float(config.objective.beta)
        self._label_smoothing = float(config.objective.label_smoothing)
        self._faal = None if config.objective.faal is None else float(config.objective.faal)

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        """As `Objective.attack`."""
        return self._examples(model, batch, fair=fair, target=target, seed=seed)

    def _worst_case(self, logits: Tensor, y: Tensor) -> Tensor | None:
        """(N,) FAAL's weights for the adversarial logits (N, C) of a batch; None where they are not asked for."""
        return None if self._faal is None else worst_class_weight(logits, y, self._faal)

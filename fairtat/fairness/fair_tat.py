"""The rules of FAIR-TAT for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fairtat import checks, ops
from fairtat.checks import check_bounds, check_choice, check_seed
from fairtat.fairness._collective import sum_over_processes
from fairtat.fairness._finite import check_finite
from fairtat.fairness.by_class import ByClass
from fairtat.fairness.class_stats import ClassStats, blame_labels
from fairtat.fairness.margins import (
    check_clamp,
    check_combine,
    check_margins,
    check_mean_eps,
    class_radii,
    per_rule,
)
from fairtat.fairness.targets import UNTARGETED, check_targets, check_tau, check_tau_ratio, target_weight
from fairtat.fairness.weights import UNWEIGHTED, ClassFactors, WeightRule, Weights, make_weights
from fairtat.ops.pgd_init import NORMS
from fairtat.radius import check_radius

_STATE_KEYS = ("num_classes", "epoch", "next_sample_id", "stats", "last", "weights")


class FairTAT(ByClass):
    """Targets and radii that follow, epoch by epoch, how the classes fared under attack.

    From the training adversarial examples of the previous epoch, with t != y:

        p(t | y) ~ exp(tau * CFPS_t)        eps_k = (lam + scale * A_k) * eps

    and likewise for the other rules of `target_weight` and `class_radii`. Until `begin` epochs have finished, targets
    are uniform over the other classes and every radius is the plain eps. A loop is::

        fair = fairtat.FairTAT(num_classes=10)
        for epoch in range(epochs):
            for x, y, sample_ids in loader:
                target = fair.sample_targets(y, sample_ids)
                x_adv = fairtat.fast_targeted_pgd(model, x, target, y=y, eps=fair.eps_for(y))
                logits = model(x_adv)
                ...                                  # loss, backward, optimizer step
                fair.update(logits, y, target)
            fair.end_epoch()

    A rule of `weights` multiplies, class by class, the radius, the step of the attack and the terms of the loss; a loop
    that uses one asks for these as well, and takes 1 where the answer is None::

        step_size * fair.step_scale_for(y)           # and eps=fair.eps_for(y), which has the rule's factor in it
        (fair.weight_for(y) * cross_entropy).mean()  # fair.robust_weight_for(y) for a divergence
        if fair.needs_validation:
            fair.observe_validation(clean, robust)   # ClassStats of the validation images, before end_epoch

    `end_epoch` waits for the device, `observe_validation` where it is needed, and nothing else. Within an epoch a
    sample's target depends on the seed and on its label and id: not on its batch or rank.

    Args:
        num_classes: C >= 2.
        eps: plain radius >= 0, in pixel units.
        targets: "none" (untargeted attacks), "random", "cfps" or "confusion".
        margins: "fixed", "G-rob", "G-cfps", "G-cfns", "T-rob", "T-cfps", "T-cfns", or a sequence of them.
        lam: lambda >= 0 of the radii; one for all margins, or one per margin.
        scale: >= 0, what the scores of the margins are multiplied by; one for all, or one per margin.
        tau: temperature of the targets, |tau| <= 700, or "auto" (see `target_weight`).
        tau_ratio: largest to smallest probability of a target with tau="auto", >= 1.
        combine: "avg" or "min", for several margins.
        clamp: (low, high) bounds of the adapted radii, in pixel units as eps (see `class_radii`).
        mean_eps: "free", or "keep": radii are rescaled so that their mean over the samples is eps (see `class_radii`).
        begin: how many epochs finish before targets and radii follow the rules, >= 1. Weights have a warm-up of their
            own.
        weights: "none", "dafa", "frl", "wat", "cfol", "fair_ard", "even_success" (see `fairtat.fairness.weights`), or a
            rule of your own: a `WeightRule`, its class, or "module:class" to import it from.
        weight_options: settings of that rule, for example {"warmup": 70, "lam": 1.0} for "dafa".
        seed: of the targets, in [-2**63, 2**64).
        device: where statistics, radii and targets live.
        norm, bounds: of the attacks: in Linf, an eps above the range of the bounds is an error.

    Attributes:
        stats: the `ClassStats` of the running epoch.
        last: that of the last finished epoch, over all processes; None before there is one.
        class_eps: (C,) float32, the radius of each class: that of the margins, times the factor of the weights.
        class_step: (C,) float32, what the step of the attack is multiplied by; None for 1.
        class_weight: (C,) float32, what the cross-entropy is multiplied by; None for 1.
        class_robust_weight: (C,) float32, what a divergence is multiplied by; None for 1.
        weight_rule: the `WeightRule` behind these, None for weights="none".
        target_weight: (C,) or (C, C) float64, unnormalized; None for targets="none".
        epoch: how many epochs have finished.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range, an unknown rule (the nearest one is named),
            or a T- margin together with targets="none".
        UserError: a "module:class" that cannot be imported.

    Source: FAIR-TAT (Medi, Jung, Keuper, WACV 2025, arXiv:2410.23142); targets="none" with margins="G-rob" and
    begin=10 are the radii of CFA (Wei et al., CVPR 2023, arXiv:2303.14460).
    """

    stats: ClassStats
    last: ClassStats | None
    weight_rule: WeightRule | None
    target_weight: Tensor | None

    def __init__(
        self,
        num_classes: int,
        eps: float = 8 / 255,
        *,
        targets: str = "cfps",
        margins: str | Sequence[str] = "G-rob",
        lam: float | Sequence[float] = 0.5,
        scale: float | Sequence[float] = 1.0,
        tau: float | str = 2.0,
        tau_ratio: float = 4.0,
        combine: str = "avg",
        clamp: Sequence[float] | None = None,
        mean_eps: str = "free",
        begin: int = 1,
        weights: Weights = UNWEIGHTED,
        weight_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        norm: str = "linf",
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.stats = ClassStats(num_classes, device=device)
        self.last = None
        self.eps = checks.real("eps", eps, low=0.0)
        check_choice("norm", norm, NORMS)
        check_radius("eps", self.eps, norm, check_bounds(bounds))
        self.targets = check_targets(targets)
        self.margins = check_margins(margins)
        self.lam = _number_or_tuple(lam, per_rule("lam", lam, self.margins))
        self.scale = _number_or_tuple(scale, per_rule("scale", scale, self.margins))
        self.tau = check_tau(tau)
        self.tau_ratio = check_tau_ratio(tau_ratio)
        self.combine = check_combine(combine)
        self.clamp = check_clamp(clamp)
        check_mean_eps(mean_eps, self.clamp)
        self.mean_eps = mean_eps
        self.begin = checks.integer("begin", begin, low=1)
        self.weight_rule = make_weights(weights, self.num_classes, weight_options, device=self.device)
        self.weights = UNWEIGHTED if self.weight_rule is None else self.weight_rule.name
        check_seed(seed, stream=0)
        self.seed = int(seed)
        self.epoch = 0
        self._next_sample_id = 0
        self._needs_target = any(name.startswith("T-") for name in self.margins)
        if self._needs_target and self.targets == UNTARGETED:
            raise ValueError(
                f"margins {list(self.margins)} are relative to the target, so targets must be random, cfps or "
                f"confusion, got targets={self.targets!r}"
            )
        self._apply_rules()

    @property
    def num_classes(self) -> int:
        return self.stats.num_classes

    @property
    def device(self) -> torch.device:
        return self.stats.device

    def __repr__(self) -> str:
        return (
            f"FairTAT(num_classes={self.num_classes}, eps={self.eps:.6g}, targets={self.targets!r}, "
            f"margins={'+'.join(self.margins)!r}, lam={_text(self.lam)}, scale={_text(self.scale)}, "
            f"tau={_text(self.tau)}, combine={self.combine!r}, clamp={self.clamp}, mean_eps={self.mean_eps!r}, "
            f"begin={self.begin}, weights={self.weights!r}, seed={self.seed}, "
            f"device={str(self.device)!r}, epoch={self.epoch})"
        )

    def sample_targets(self, y: Tensor, sample_ids: Tensor | None = None) -> Tensor | None:
        """A target for each sample, never its own label; None for targets="none".

        Each epoch draws new ones for the same ids. Without ids, samples are numbered as they come within
        the epoch, so two batches do not get the same draws, and the numbering is part of `state_dict`. Several
        processes would all number theirs from 0: there, pass the samples' indices in the data set.

        Args:
            y: (N,) int64 labels.
            sample_ids: (N,) int64.

        Returns:
            (N,) int64.

        Raises:
            TypeError, ValueError: y is not (N,) int64 on the device of these rules, or as `ops.sample_targets`.
        """
        self._check_labels(y)
        if self._table is None:
            return None
        numbered = sample_ids is None
        if sample_ids is None:
            first = self._next_sample_id
            sample_ids = torch.arange(first, first + y.shape[0], device=self.device)
        try:
            target = ops.sample_targets(y, self._table, seed=self.seed, sample_ids=sample_ids, stream=self.epoch)
        except ValueError:
            blame_labels("y", y, self.num_classes)
            raise
        if numbered:
            self._next_sample_id += y.shape[0]
        return target

    @property
    def needs_validation(self) -> bool:
        """Whether `observe_validation` must be called before the next `end_epoch`: the weights learn from it."""
        return self.weight_rule is not None and self.weight_rule.needs_validation

    def observe_validation(self, clean: ClassStats, robust: ClassStats) -> None:
        """Take note of an epoch's validation statistics, for rules that follow them; others ignore the call.

        With several processes they must be the same on all: over all validation samples.

        Args:
            clean: statistics of the clean images.
            robust: statistics of the attacked images, with the same radius for every class.

        Raises:
            TypeError, ValueError: not `ClassStats`, of another number of classes, or with too many losses that are not
                finite, by the rule of `end_epoch`.
        """
        rule = self.weight_rule
        if rule is None:
            return
        rule.observe_validation(clean, robust)
        if rule.follows_validation:
            check_finite("clean validation", clean)
            check_finite("robust validation", robust)

    def update(self, logits: Tensor, y: Tensor, target: Tensor | None = None) -> None:
        """Count a batch of the running epoch: logits (N, C), y (N,) int64, target (N,) int64 as drawn, if any.

        Raises:
            ValueError: a T- margin is in use and no target is given.
            TypeError, ValueError: as `ClassStats.update`.
        """
        self._check_labels(y)
        if self._needs_target and target is None:
            raise ValueError(f"target must be given: margins {list(self.margins)} are relative to it, got None")
        try:
            self.stats.update(logits, y, target)
        except ValueError:
            blame_labels("y", y, self.num_classes)
            raise
        if self.weight_rule is not None:
            self.weight_rule.update(logits, y)

    def end_epoch(self) -> None:
        """Finish the epoch: sum over all processes, set targets, radii and weights for the next one, count afresh.

        One collective if torch.distributed is initialized, so every process must call it. It reads back how many
        samples had no finite loss, and building the target table checks values: the only times in an epoch that the
        host waits for the device.

        Samples whose loss was not finite count as wrong (`ClassStats.nonfinite`), so each one lowers the A_k of its
        class. Up to 1 in 100 samples of every class that is a RuntimeWarning; beyond it no process adapts anything.

        Raises:
            ValueError: `needs_validation`, and `observe_validation` has not been called in this epoch; or more than 1
                in 100 samples of a class had a loss that is not finite. After the latter, continue from an earlier
                `state_dict`: the statistics have been summed, and the epoch has not ended.
        """
        rule = self.weight_rule
        if rule is not None:
            rule.check_ready()  # before the collective, in which the other processes would be left waiting
        sum_over_processes([self.stats.buffer] if rule is None else [self.stats.buffer, *rule.sums])
        check_finite(f"epoch {self.epoch}", self.stats)
        if rule is not None:
            rule.end_epoch(self.stats)
        self.last = self.stats
        self.stats = ClassStats(self.num_classes, device=self.device)
        self.epoch += 1
        self._next_sample_id = 0
        self._apply_rules()

    def state_dict(self) -> dict[str, Any]:
        """A copy of what the epochs have left, which torch.load(weights_only=True) reads.

        It resumes to the same bits, also in the middle of an epoch. With several processes the running epoch is each
        process's own, so a state from the middle of an epoch belongs to the rank that made it; between epochs the state
        is the same on all.
        """
        return {
            "num_classes": self.num_classes,
            "epoch": self.epoch,
            "next_sample_id": self._next_sample_id,
            "stats": self.stats.state_dict(),
            "last": None if self.last is None else self.last.state_dict(),
            "weights": None if self.weight_rule is None else self.weight_rule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict`, from any device; on an error nothing has changed.

        The settings stay those of the constructor: radii, targets and weights are computed again, by them, from the
        state's statistics.

        Raises:
            TypeError, ValueError: the state has other keys, another number of classes, another rule of weights, or
                values that cannot be.
        """
        checks.state_keys("FairTAT", state, _STATE_KEYS)
        if state["num_classes"] != self.num_classes:
            raise ValueError(f"FairTAT state must have num_classes={self.num_classes}, got {state['num_classes']!r}")
        epoch = checks.integer("FairTAT state epoch", state["epoch"], low=0)
        next_sample_id = checks.integer("FairTAT state next_sample_id", state["next_sample_id"], low=0)
        if (epoch == 0) != (state["last"] is None):
            raise ValueError(
                f"FairTAT state must have statistics in 'last' after epoch 0 and only then, got epoch {epoch} with "
                f"{'none' if state['last'] is None else 'some'}"
            )
        stats, last = self._loaded(state["stats"]), None if epoch == 0 else self._loaded(state["last"])
        self._load_weights(state["weights"])  # checks before it changes anything; after it nothing can fail

        self.epoch, self._next_sample_id = epoch, next_sample_id
        self.stats, self.last = stats, last
        self._apply_rules()

    def _loaded(self, state: Mapping[str, Any]) -> ClassStats:
        stats = ClassStats(self.num_classes, device=self.device)
        stats.load_state_dict(state)
        return stats

    def _load_weights(self, state: Mapping[str, Any] | None) -> None:
        if self.weight_rule is not None and state is not None:
            self.weight_rule.load_state_dict(state)
        elif self.weight_rule is not None or state is not None:
            found = state.get("rule") if isinstance(state, Mapping) else state
            raise ValueError(f"FairTAT state must have the weights {self.weights!r}, got {found!r}")

    def _apply_rules(self) -> None:
        """Radii, targets and weights of the running epoch. float64 throughout; only the results are rounded."""
        if self.last is None or self.epoch < self.begin:
            radii = torch.full((self.num_classes,), self.eps, dtype=torch.float64, device=self.device)
            targets, stats = (UNTARGETED if self.targets == UNTARGETED else "random"), self.stats
            self._class_robust = None
        else:
            radii = class_radii(
                self.last,
                self.eps,
                self.margins,
                lam=self.lam,
                scale=self.scale,
                combine=self.combine,
                clamp=self.clamp,
                mean_eps=self.mean_eps,
            )
            targets, stats = self.targets, self.last
            self._class_robust = self.last.accuracy
        factors = ClassFactors() if self.weight_rule is None else self.weight_rule.factors
        self.class_eps = (radii if factors.eps is None else radii * factors.eps).float()
        self.class_step = None if factors.step is None else factors.step.float()
        self.class_weight = None if factors.weight is None else factors.weight.float()
        self.class_robust_weight = None if factors.robust_weight is None else factors.robust_weight.float()
        self.target_weight = target_weight(stats, targets, tau=self.tau, tau_ratio=self.tau_ratio)
        self._table = None if self.target_weight is None else ops.target_table(self.target_weight)


def _number_or_tuple(given: float | Sequence[float], per_margin: list[float]) -> float | tuple[float, ...]:
    return tuple(per_margin) if isinstance(given, Sequence) else per_margin[0]


def _text(value: float | str | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(f'{number:g}' for number in value)})"
    return repr(value) if isinstance(value, str) else f"{value:g}"

"""What every weighting rule has in common: when it learns, what it asks for, and how its memory is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import TypedDict

from fairtat import checks
from fairtat.fairness.class_stats import ClassStats
from fairtat.keywords import shows_options


class ClassFactors(NamedTuple):
    """What a rule multiplies a class by, each (C,) float64; None means 1 for every class."""

    weight: Tensor | None = None  # the cross-entropy
    robust_weight: Tensor | None = None  # the divergence between clean and adversarial predictions
    eps: Tensor | None = None  # the radius of the attack
    step: Tensor | None = None  # the step of the attack


class RuleKeywords(TypedDict, total=False):
    """The settings that every rule takes."""

    warmup: int
    device: torch.device | str


shows_rule_options = shows_options((("warmup", 1, "int"), ("device", "cpu", "torch.device | str")))


class WeightRule:
    """A rule that weights classes by how they fared: the base of DAFA, FRL, WAT, CFOL, FairARD and EvenSuccess.

    `FairTAT` drives it; a loop of one's own may do the same::

        rule.update(logits, y)                         # every batch: adversarial logits and labels
        rule.observe_validation(clean, robust)         # once per epoch, if rule.needs_validation
        rule.end_epoch(stats)                          # the epoch's training statistics, over all processes
        rule.factors                                   # for the next epoch

    With several processes, `sums` has to be summed over them before `end_epoch`. Nothing here waits for the device.
    A subclass implements `learn` and `make_factors`, and names the tensors that it remembers in `memory`.

    Args:
        num_classes: C >= 2.
        warmup: how many epochs are trained without weights, >= 1; the last of them is the first that counts.
        device: where the tensors live.
    """

    name: ClassVar[str]
    """What states and messages call the rule; by default the name of its class."""

    memory: ClassVar[tuple[str, ...]] = ()
    """Attributes that hold all that the rule has learned, tensors of constant shape and dtype."""

    fixed: ClassVar[tuple[str, ...]] = ("num_classes",)
    """Settings that a state must share with the rule that loads it."""

    follows_validation: ClassVar[bool] = False
    """Whether the rule learns from validation statistics; otherwise it learns from the training attack."""

    counts_steps: ClassVar[bool] = False
    """Whether the rule learns from `observe_steps`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __init__(self, num_classes: int, *, warmup: int = 1, device: torch.device | str = "cpu") -> None:
        self.num_classes = checks.integer("num_classes", num_classes, low=2)
        self.warmup = checks.integer("warmup", warmup, low=1)
        self.device = torch.device(device)
        self.epoch = 0  # how many epochs have finished

    @property
    def factors(self) -> ClassFactors:
        """What each class is multiplied by in the running epoch; all None during the warm-up."""
        return ClassFactors() if self.epoch < self.warmup else self.make_factors()

    @property
    def sums(self) -> tuple[Tensor, ...]:
        """int64 sums of this process that the next `end_epoch` needs over all processes; it takes them in place."""
        return ()

    @property
    def needs_validation(self) -> bool:
        """Whether the next `end_epoch` learns from validation statistics, so that they must be observed before it."""
        return self.follows_validation and self._counts

    @property
    def class_shares(self) -> Tensor | None:
        """(C,) float64 by which the classes of the running epoch's samples are to be drawn; None: as the data are."""
        return None

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Take note of a batch of adversarial logits (N, C) with labels y (N,) int64."""

    def observe_steps(self, resisted: Tensor, y: Tensor) -> None:
        """Take note of a batch: on how many images on the way of its attack each sample (N,) int64 was still right."""

    def observe_validation(self, clean: ClassStats, robust: ClassStats) -> None:
        """Take note of an epoch's validation statistics, over all processes."""

    def check_ready(self) -> None:
        """A ValueError if `needs_validation` and nothing has been observed in this epoch."""

    def end_epoch(self, train: ClassStats) -> None:
        """Learn from the epoch that ends: `train` are the statistics of its training attack, over all processes.

        Raises:
            ValueError: as `check_ready`.
        """
        self.check_ready()
        if self._counts:
            self.learn(train)
        self.epoch += 1

    @property
    def _counts(self) -> bool:
        """Whether the rule learns from the running epoch."""
        return self.epoch + 1 >= self.warmup

    def learn(self, train: ClassStats) -> None:
        """Learn from an epoch that counts; ``train`` are the statistics of its training attack, over all processes."""
        raise NotImplementedError

    def make_factors(self) -> ClassFactors:
        """What each class is multiplied by, after the warm-up."""
        raise NotImplementedError

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def state_dict(self) -> dict[str, Any]:
        """A copy of what the rule remembers, which torch.load(weights_only=True) reads."""
        settings = {key: getattr(self, key) for key in self.fixed}
        learned = {key: getattr(self, key).clone() for key in self.memory}
        return {"rule": self.name, "epoch": self.epoch, **settings, **learned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict`, from any device; on an error nothing has changed.

        Settings stay those of the constructor.

        Raises:
            TypeError, ValueError: the state is of another rule, has other keys, other values of the `fixed` settings,
                or tensors of another shape or dtype.
        """
        self._check_state(state)
        epoch = checks.integer(f"{self.name} state epoch", state["epoch"], low=0)
        loaded = {key: _like(f"{self.name} state {key}", getattr(self, key), state[key]) for key in self.memory}
        self.epoch = epoch
        for key, value in loaded.items():
            setattr(self, key, value)

    @property
    def _state_keys(self) -> tuple[str, ...]:
        return ("rule", "epoch", *self.fixed, *self.memory)

    def _check_state(self, state: Mapping[str, Any]) -> None:
        if isinstance(state, Mapping) and state.get("rule") != self.name:
            raise ValueError(f"{self.name} state must be one of the rule {self.name!r}, got {state.get('rule')!r}")
        checks.state_keys(self.name, state, self._state_keys)
        for key in self.fixed:
            if state[key] != getattr(self, key):
                raise ValueError(f"{self.name} state must have {key}={getattr(self, key)}, got {state[key]!r}")


class ValidationRule(WeightRule):
    """A rule that learns from validation statistics: a subclass implements `learn_from` in place of `learn`."""

    follows_validation = True

    def __init__(self, num_classes: int, *, warmup: int = 1, device: torch.device | str = "cpu") -> None:
        super().__init__(num_classes, warmup=warmup, device=device)
        self._observed: dict[str, ClassStats] | None = None

    def observe_validation(self, clean: ClassStats, robust: ClassStats) -> None:
        """Take note of an epoch's validation statistics, over all processes; a second call replaces the first.

        Raises:
            TypeError, ValueError: not `ClassStats`, or of another number of classes.
        """
        for argument, stats in (("clean", clean), ("robust", robust)):
            if not isinstance(stats, ClassStats):
                raise TypeError(f"{argument} must be ClassStats, got {type(stats).__name__}")
            if stats.num_classes != self.num_classes:
                raise ValueError(f"{argument} must have num_classes={self.num_classes}, got {stats.num_classes}")
        # Copies, because the caller may reset its own for the next epoch before this one has ended.
        self._observed = {key: self._copy(stats.state_dict()) for key, stats in (("clean", clean), ("robust", robust))}

    def check_ready(self) -> None:
        if self.needs_validation and self._observed is None:
            raise ValueError(
                f"end_epoch needs the validation statistics of epoch {self.epoch} for weights={self.name!r}: "
                "call observe_validation before it"
            )

    def end_epoch(self, train: ClassStats) -> None:
        super().end_epoch(train)
        self._observed = None

    def learn(self, train: ClassStats) -> None:
        assert self._observed is not None  # end_epoch has checked it
        self.learn_from(self._observed["clean"], self._observed["robust"])

    def learn_from(self, clean: ClassStats, robust: ClassStats) -> None:
        """Learn from the validation statistics of an epoch that counts."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        observed = self._observed
        kept = None if observed is None else {key: stats.state_dict() for key, stats in observed.items()}
        return super().state_dict() | {"observed": kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._check_state(state)
        kept = state["observed"]
        if kept is not None:
            checks.state_keys(f"{self.name} observed", kept, ("clean", "robust"))
            kept = {key: self._copy(stats) for key, stats in kept.items()}
        super().load_state_dict(state)
        self._observed = kept

    @property
    def _state_keys(self) -> tuple[str, ...]:
        return (*super()._state_keys, "observed")

    def _copy(self, state: Mapping[str, Any]) -> ClassStats:
        stats = ClassStats(self.num_classes, device=self.device)
        stats.load_state_dict(state)
        return stats


def _like(argument: str, current: Tensor, value: object) -> Tensor:
    """A copy of `value` on the device of `current`, whose shape and dtype it must have."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument} must be a tensor, got {type(value).__name__}")
    if value.shape != current.shape or value.dtype != current.dtype:
        expected = f"{current.dtype} of shape {tuple(current.shape)}"
        raise ValueError(f"{argument} must be {expected}, got {value.dtype} of shape {tuple(value.shape)}")
    return value.to(current.device, copy=True)

"""Every option of PGD, its default, and which values are valid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from fairtat.backends import BACKENDS
from fairtat.checks import amount, channel_numbers, check_bounds, check_choice, check_count, check_seed
from fairtat.engines import ENGINE_CHECKS, ENGINES
from fairtat.errors import did_you_mean
from fairtat.keywords import shows_options
from fairtat.ops.pgd_init import INITS
from fairtat.ops.pgd_step import STEP_NORMS, check_density
from fairtat.radius import check_radius

BN_MODES = ("eval", "train", "train_frozen_stats")
TARGETED_LOSSES = ("ce", "margin", "dlr")
UNTARGETED_LOSSES = (*TARGETED_LOSSES, "kl")
AMP_DTYPES = (torch.bfloat16, torch.float16)

LossFunction = Callable[[Tensor, Tensor], Tensor]  # of logits (N, C) and goals (N,): (N,)
Watch = Callable[[int, Tensor, Tensor], None]  # of the step, x_adv (N, ...) and logits (N, C)
PerChannel = float | Sequence[float] | Tensor


class PGDKeywords(TypedDict, total=False):
    """The types of the options by name, except ``return_info``, which decides the type of the result."""

    eps: float | Tensor  # scalar or (N,)
    step_size: float | Tensor  # scalar or (N,)
    steps: int
    step_schedule: Sequence[float] | Tensor | None  # (steps,)
    momentum: float
    norm: str
    density: float
    loss: str | tuple[str, str] | LossFunction
    eot: int
    init: str | Tensor  # or (N, ...)
    bounds: tuple[float, float]
    normalize: tuple[PerChannel, PerChannel] | None  # (C,), (C,)
    bn_mode: str
    restarts: int
    early_stop: bool
    extra_steps: int
    amp: torch.dtype | None
    seed: int | None
    backend: str
    engine: str
    engine_check: str
    chunk_size: int | None
    watch: Watch | None
    check: bool


class PGDCallKeywords(PGDKeywords, total=False):
    """The same for a call, which may also name its samples."""

    sample_ids: Tensor | None  # (N,)


class ForResult(PGDCallKeywords):
    """A call that returns an AttackResult."""

    return_info: Literal[True]


class ForImages(PGDCallKeywords):
    """A call that returns x_adv alone."""

    return_info: NotRequired[Literal[False]]


class ForEither(PGDCallKeywords):
    """A call of which a type checker cannot tell what it returns."""

    return_info: NotRequired[bool]


@dataclass(frozen=True, kw_only=True, eq=False)
class PGDOptions:
    """How to attack, whatever the batch; validated when made. The meanings are fast_targeted_pgd's.

    Only ``eps``, ``step_size`` and ``init`` may hold tensors of one value or image per sample: those are
    checked together with a batch, and so are the values of other tensors.
    """

    targeted: bool | None = True  # None: each sample of a batch has its own direction
    eps: float | Tensor = 8 / 255  # scalar or (N,)
    step_size: float | Tensor = 2 / 255  # scalar or (N,)
    steps: int = 10
    step_schedule: Sequence[float] | Tensor | None = None  # (steps,)
    momentum: float = 0.0
    norm: str = "linf"
    density: float = 0.01
    loss: str | tuple[str, str] | LossFunction = "ce"  # a pair: (of the targeted samples, of the others)
    eot: int = 1
    init: str | Tensor = "uniform"  # or (N, ...)
    bounds: tuple[float, float] = (0.0, 1.0)
    normalize: tuple[PerChannel, PerChannel] | None = None  # (C,), (C,)
    bn_mode: str = "eval"
    restarts: int = 1
    early_stop: bool = False
    extra_steps: int = 0
    amp: torch.dtype | None = None
    seed: int | None = None
    backend: str = "auto"
    engine: str = "auto"
    engine_check: str = "first"
    chunk_size: int | None = None
    watch: Watch | None = None
    check: bool = True
    return_info: bool = False

    def __post_init__(self) -> None:
        for name in ("eps", "step_size"):
            value = getattr(self, name)
            if not isinstance(value, Tensor):  # which is checked with the batch
                object.__setattr__(self, name, amount(name, value))
        check_count("steps", self.steps, 0)
        if self.step_schedule is not None:
            _check_schedule(self.step_schedule, self.steps)
        amount("momentum", self.momentum, torch.float32, expected="a number")
        check_count("restarts", self.restarts, 1)
        check_count("eot", self.eot, 1)
        if self.restarts >= 2**32:
            raise ValueError(f"restarts must be less than 2**32, got {self.restarts}")
        if self.chunk_size is not None:
            check_count("chunk_size", self.chunk_size, 1)
        for name in ("early_stop", "check", "return_info"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        check_count("extra_steps", self.extra_steps, 0)
        if self.extra_steps and not self.early_stop:
            raise ValueError(f"extra_steps follow an early stop: they need early_stop=True, got {self.extra_steps}")
        if self.watch is not None:
            _check_watch(self)
        _check_name("norm", self.norm, STEP_NORMS)
        check_density(self.density)
        if self.norm == "l1" and not isinstance(self.init, Tensor) and self.init != "zero":
            raise ValueError(
                f"norm='l1' has no random start: init must be 'zero' or the starting x_adv, got {self.init!r}"
            )
        _check_loss(self.loss, self.targeted)
        if not isinstance(self.init, Tensor):
            _check_name("init", self.init, INITS, "or a tensor, the starting x_adv")
        _check_name("bn_mode", self.bn_mode, BN_MODES)
        _check_name("backend", self.backend, ("auto", *BACKENDS))
        _check_name("engine", self.engine, ENGINES)
        _check_name("engine_check", self.engine_check, ENGINE_CHECKS)
        bounds = check_bounds(self.bounds)
        if not isinstance(self.eps, Tensor):
            check_radius("eps", self.eps, self.norm, bounds)
        if self.seed is not None:
            check_seed(self.seed, 0)
            object.__setattr__(self, "seed", int(self.seed))
        if self.amp is not None and self.amp not in AMP_DTYPES:
            error = ValueError if isinstance(self.amp, torch.dtype) else TypeError
            raise error(f"amp must be None, torch.bfloat16 or torch.float16, got {self.amp!r}")
        if self.normalize is not None:
            _check_normalize(self.normalize)

    @property
    def kinds(self) -> tuple[str, str | None] | tuple[None, None]:
        """The loss of all samples and None, or (of the targeted samples, of the others); (None, None) of a function."""
        if not isinstance(self.loss, (str, tuple, list)):
            return None, None
        if isinstance(self.loss, str):
            towards = away = self.loss
        else:
            towards, away = self.loss
        # Towards a target, dlr is another loss than away from a label: it takes y.
        return towards, away if self.targeted is None and (towards != away or towards == "dlr") else None

    @classmethod
    def named(cls, options: Mapping[str, Any], *, targeted: bool | None) -> PGDOptions:
        """Options given by name; an unknown name is a TypeError."""
        _check_names(options)
        return cls(targeted=targeted, **options)

    def updated(self, changes: Mapping[str, Any]) -> PGDOptions:
        """These options with some replaced by name; an unknown name is a TypeError."""
        if not changes:
            return self
        _check_names(changes)
        return replace(self, **changes)


OPTIONS = tuple(field for field in fields(PGDOptions) if field.name != "targeted")
_NAMES = frozenset(field.name for field in OPTIONS)
shows_pgd_options = shows_options((field.name, field.default, field.type) for field in OPTIONS)


def _check_names(options: Mapping[str, Any]) -> None:
    for name in options.keys() - _NAMES:
        raise TypeError(f"{name!r} is not an option of the attack{did_you_mean(name, _NAMES)}")


def _check_name(name: str, value: object, choices: Sequence[str], otherwise: str = "") -> None:
    if not isinstance(value, str):
        listed = ", ".join(map(repr, choices))
        raise TypeError(f"{name} must be one of {listed}{otherwise and ' ' + otherwise}, got {type(value).__name__}")
    check_choice(name, value, choices)


def _check_loss(loss: object, targeted: bool | None) -> None:
    if callable(loss):
        return
    if targeted is not None or isinstance(loss, str):
        choices = UNTARGETED_LOSSES if targeted is False else TARGETED_LOSSES
        _check_name("loss", loss, choices, "or a function of logits and goals")
        return
    if not isinstance(loss, (tuple, list)) or len(loss) != 2:
        raise TypeError(f"loss must be a name or a pair (of the targeted samples, of the others), got {loss!r}")
    _check_name("loss of the targeted samples", loss[0], TARGETED_LOSSES)
    _check_name("loss of the untargeted samples", loss[1], UNTARGETED_LOSSES)


def _check_watch(options: PGDOptions) -> None:
    """What is watched has all samples in every step, in their order."""
    if not callable(options.watch):
        raise TypeError(f"watch must be a function of step, x_adv and logits, or None, got {options.watch!r}")
    wanted = (
        ("restarts", options.restarts, 1), ("early_stop", options.early_stop, False),
        ("chunk_size", options.chunk_size, None),
    )  # fmt: skip
    for name, value, expected in wanted:
        if value != expected:
            raise ValueError(f"{name} must be {expected} where watch is given, got {value}")


def _check_schedule(schedule: object, steps: int) -> None:
    if not isinstance(schedule, Tensor):
        if isinstance(schedule, str) or not isinstance(schedule, Sequence):
            raise TypeError(f"step_schedule must be a sequence or a tensor (steps,), got {type(schedule).__name__}")
        for value in schedule:
            amount("step_schedule", value, expected="numbers")
    shape = tuple(schedule.shape) if isinstance(schedule, Tensor) else (len(schedule),)
    if shape != (steps,):
        raise ValueError(f"step_schedule must have one factor for each of the {steps} steps, got shape {shape}")
    if isinstance(schedule, Tensor) and not schedule.is_floating_point():
        raise TypeError(f"step_schedule must be floating point, got {schedule.dtype}")


def _check_normalize(normalize: object) -> None:
    if not isinstance(normalize, (tuple, list)) or len(normalize) != 2:
        raise TypeError(f"normalize must be a pair (mean, std), got {normalize!r}")
    for name, values in zip(("mean", "std"), normalize, strict=True):
        if isinstance(values, Tensor):
            continue  # its values are read once, with those of the batch
        numbers = channel_numbers(f"normalize: {name}", values if isinstance(values, Sequence) else (values,))
        if name == "std" and min(numbers, default=1.0) <= 0:
            raise ValueError(f"normalize: std must be finite and positive, got {values!r}")

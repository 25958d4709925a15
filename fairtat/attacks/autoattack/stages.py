"""What apgd, fab and square do in one arena: their restarts and targets, one after another, on the samples left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from fairtat.attacks.autoattack import apgd_steps, fab_steps, square_steps
from fairtat.attacks.autoattack.arena import Arena
from fairtat.attacks.autoattack.pool import Outcome, Run, fitted, run, steps_per_round
from fairtat.attacks.autoattack.resumable import Columns
from fairtat.checks import check_choice, check_count, real
from fairtat.engines.operations import BACKWARD

LOSSES = ("ce", "dlr", "dlr-targeted", "margin", "margin-targeted")
MAX_RESTARTS = 1 << 16
# Which attack a random number is for, in the high bits of its stream; targets and restarts are in the others.
_STREAMS = {name: k << 28 for k, name in enumerate((*LOSSES, "fab", "fab-t", "square", "square-start", "mt"), 1)}


def stream_of(name: str, target: int, restart: int) -> int:
    return _STREAMS[name] + target % (1 << 12) * MAX_RESTARTS + restart


def check_restarts(n_restarts: int) -> None:
    check_count("n_restarts", n_restarts, 1)
    if n_restarts >= MAX_RESTARTS:
        raise ValueError(f"n_restarts must be less than {MAX_RESTARTS}, got {n_restarts}")


def goals(arena: Arena, targeted: bool, n_target_classes: int) -> Iterator[tuple[int, Tensor]]:
    """(number, (N,) classes): the given target; else the other classes in the order of the image's own logits."""
    if arena.target is not None or not targeted:
        yield 0, arena.goal
        return
    for k, goal in enumerate(likely_others(arena, n_target_classes).unbind(1), 1):
        yield k, goal.contiguous()


def likely_others(arena: Arena, most: int) -> Tensor:
    """(N, T) at most so many classes other than the label, in the order of the image's own logits."""
    label_first = arena.logits.float().scatter(1, arena.y[:, None], torch.inf)
    return label_first.sort(dim=1, descending=True, stable=True).indices[:, 1 : 1 + most]


@dataclass(frozen=True)
class APGD:
    """APGD with its options, as :func:`fairtat.attacks.apgd`."""

    loss: str = "ce"
    n_iter: int = 100
    n_restarts: int = 1
    n_target_classes: int = 9
    eot_iter: int = 1
    rho: float = 0.75

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_restarts(self.n_restarts)
        for name in ("n_iter", "n_target_classes", "eot_iter"):
            check_count(name, getattr(self, name), 1)
        real("rho", self.rho, low=0.0, high=1.0)

    def loss_for(self, classes: int, *, target_given: bool) -> str:
        """The loss for a model of few classes: the margin where DLR has none to divide by."""
        targeted = self.loss.endswith("-targeted") or target_given
        if self.loss.startswith("dlr") and classes < (4 if targeted else 3):
            return self.loss.replace("dlr", "margin")
        return self.loss

    def notes(self, classes: int, *, target_given: bool) -> Iterator[str]:
        """What is not as in the papers, for a model of few classes."""
        if self.loss_for(classes, target_given=target_given) != self.loss:
            yield f"{classes} classes are too few for the loss {self.loss!r}: the margin took its place"
        if self.loss.endswith("-targeted") and not target_given:
            yield from fewer_targets(self.n_target_classes, classes)

    def passes(self, classes: int, *, target_given: bool = False) -> float:
        """At most so many passes forward per image; one forward and back counts as `BACKWARD`."""
        loss = self.loss_for(classes, target_given=target_given)
        aims = aimed_at(loss.endswith("-targeted"), self.n_target_classes, classes, target_given)
        return float(self.n_restarts * aims * (self.n_iter + 1) * self.eot_iter * BACKWARD)

    def attack(self, arena: Arena, outcome: Outcome) -> None:
        loss = self.loss_for(arena.classes, target_given=arena.target is not None)
        looks = self.n_iter + 1
        for k, goal in goals(arena, loss.endswith("-targeted"), self.n_target_classes):
            for restart in range(self.n_restarts):
                self._run(arena, outcome, loss, goal, stream_of(loss, k, restart), looks)

    def _run(self, arena: Arena, outcome: Outcome, loss: str, goal: Tensor, stream: int, looks: int) -> None:
        def start(rows: Tensor) -> Columns:
            return apgd_steps.start(arena, rows, goal[rows], stream, self.n_iter)

        steps = partial(
            apgd_steps.APGDSteps, arena, loss=loss, n_iter=self.n_iter, rho=self.rho, eot_iter=self.eot_iter
        )
        # A model that draws random numbers is judged once, at the end, or it would be tried until it fails.
        work = Run(start, steps, steps_per_round(looks, 5, 10), looks, "x_found", once=self.eot_iter > 1)
        run(arena, work, outcome)


@dataclass(frozen=True)
class FAB:
    """FAB with its options, as :func:`fairtat.attacks.fab`."""

    targeted: bool = False
    n_iter: int = 100
    n_restarts: int = 1
    n_target_classes: int = 9
    rates: fab_steps.Rates = field(default_factory=fab_steps.Rates)

    def __post_init__(self) -> None:
        check_restarts(self.n_restarts)
        for name in ("n_iter", "n_target_classes"):
            check_count(name, getattr(self, name), 1)
        for name, value, high in zip(("alpha_max", "eta", "beta"), self.rates, (1.0, torch.inf, 1.0), strict=True):
            real(name, value, low=0.0, high=high)

    def notes(self, classes: int, *, target_given: bool) -> Iterator[str]:
        """What is not as in the papers, for a model of few classes."""
        if self.targeted and not target_given:
            yield from fewer_targets(self.n_target_classes, classes)

    def passes(self, classes: int, *, target_given: bool = False) -> float:
        """As of :class:`APGD`: a pass forward judges each step; untargeted, there is a pass back for each class."""
        aims = aimed_at(self.targeted, self.n_target_classes, classes, target_given)
        looked_at = 1 if self.targeted or target_given else classes - 1
        return float(self.n_restarts * aims * self.n_iter * (2 + (BACKWARD - 1) * looked_at))

    def attack(self, arena: Arena, outcome: Outcome) -> None:
        nearest = not self.targeted and arena.target is None
        for k, goal in goals(arena, self.targeted, self.n_target_classes):
            for restart in range(self.n_restarts):
                stream = stream_of("fab-t" if self.targeted else "fab", k, restart)

                def start(rows: Tensor, goal: Tensor = goal, restart: int = restart, stream: int = stream) -> Columns:
                    return fab_steps.start(arena, rows, goal[rows], stream, at_random=restart > 0)

                steps = partial(fab_steps.FABSteps, arena, n_iter=self.n_iter, rates=self.rates, nearest_class=nearest)
                work = Run(start, steps, steps_per_round(self.n_iter, 5, 10), self.n_iter, "x_found")
                run(arena, work, outcome)


@dataclass(frozen=True)
class Square:
    """The square attack with its options, as :func:`fairtat.attacks.square`."""

    n_queries: int = 5000
    n_restarts: int = 1
    p_init: float = 0.8
    resc_schedule: bool = False

    def __post_init__(self) -> None:
        check_restarts(self.n_restarts)
        check_count("n_queries", self.n_queries, 1)
        if self.n_queries >= 1 << 26:
            raise ValueError(f"n_queries must be less than {1 << 26}, got {self.n_queries}")
        real("p_init", self.p_init, low=0.0, high=1.0)
        if not isinstance(self.resc_schedule, bool):
            raise TypeError(f"resc_schedule must be True or False, got {self.resc_schedule!r}")

    def notes(self, classes: int, *, target_given: bool) -> Iterator[str]:
        """Few classes make no difference to it."""
        yield from ()

    def passes(self, classes: int, *, target_given: bool = False) -> float:
        """As of :class:`APGD`; there are none back."""
        return float(self.n_restarts * (self.n_queries + 1))

    def attack(self, arena: Arena, outcome: Outcome) -> None:
        if arena.x.ndim != 4:
            raise ValueError(f"square needs images (N, C, H, W), got shape {tuple(arena.x.shape)}")
        channels, h, w = arena.x.shape[1:]
        windows = square_steps.Windows(h, w, arena.norm, self.p_init, self.n_queries, self.resc_schedule)
        looks = self.n_queries + 1
        for restart in range(self.n_restarts):

            def start(rows: Tensor, restart: int = restart) -> Columns:
                return square_steps.start(arena, rows, stream_of("square-start", 0, restart))

            def steps(columns: Columns, number: int, restart: int = restart) -> square_steps.SquareSteps:
                queries = columns["step"]
                most = number * (1 + square_steps.passed_over(channels, arena.norm))
                words = square_steps.query_words(
                    arena, columns["ids"], queries, most, stream_of("square", 0, restart), channels
                )
                given = {**columns, "words": words, "drawn_at": queries.clone()}
                del given["ids"]
                return square_steps.SquareSteps(arena, given, number, windows=windows)

            run(arena, Run(start, steps, steps_per_round(looks, 20, 30), looks, "x_best"), outcome)


def aimed_at(targeted: bool, wanted: int, classes: int, target_given: bool) -> int:
    """How many classes `goals` gives."""
    return min(wanted, classes - 1) if targeted and not target_given else 1


def fewer_targets(wanted: int, classes: int) -> Iterator[str]:
    if wanted > classes - 1:
        yield f"{classes} classes have {classes - 1} targets, not {wanted}"


def carry_out(stage: Stage, arena: Arena, outcome: Outcome) -> None:
    """Attack the images that are left, on the engine that serves this attack."""
    if isinstance(stage, APGD) and stage.eot_iter > 1:  # a program would hold the random numbers of one pass
        here = replace(arena, engine="eager")
    else:
        passes = stage.passes(arena.classes, target_given=arena.target is not None)
        here = fitted(arena, outcome, type(stage).__name__, passes)
    stage.attack(here, outcome)


class Stage(Protocol):
    """An attack with its options."""

    def notes(self, classes: int, *, target_given: bool) -> Iterator[str]:
        """What is not as in the papers, for a model of few classes."""
        ...

    def passes(self, classes: int, *, target_given: bool = False) -> float:
        """What it costs per image at most, in passes forward; one forward and back counts as `BACKWARD`."""
        ...

    def attack(self, arena: Arena, outcome: Outcome) -> None:
        """Attack the images that are left."""
        ...

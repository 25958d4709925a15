"""The pool: keeps a batch full while samples finish at different times.

Samples take some steps together on the engine. Then those that are done leave, and waiting ones take their place, so a
compiled program always sees the batch that it was made for; only when none are waiting the batch shrinks, for such
programs to a few sizes. The host asks the device once per round, not once per step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairtat.attacks.autoattack.arena import Arena
from fairtat.attacks.autoattack.resumable import Columns, Resumable, lengths
from fairtat.engines.operations import engine_for
from fairtat.engines.samples import empty_rows, take

SHRINK = 2  # a compiled batch shrinks by this factor, twice at most: as many sizes as an engine keeps
PARTS = 8  # it begins with as many samples as there are, rounded up by less than one part in so many


@dataclass(frozen=True)
class Run:
    """One run of an attack over some samples."""

    start: Callable[[Tensor], Columns]  # rows of the batch to their columns
    steps: Callable[[Columns, int], Resumable]  # so many steps from there
    per_round: int
    looks: int  # at most so many points are looked at
    adversarial: str  # the column of the point that ``found`` speaks of
    finished: Callable[[Columns], Tensor] | None = None  # (n,) bool: nothing more to do; default: all looks are taken
    stops: bool = True  # whether a sample leaves once its point is confirmed; else nearer ones may follow
    once: bool = False  # whether only the last point found is judged, at the end
    keeps_best: bool = False  # whether ``adversarial`` is worth keeping where nothing was found


class Outcome:
    """What has been found so far, one row per image of the batch."""

    def __init__(self, arena: Arena) -> None:
        self.x_adv = arena.x.clone()
        self.logits = arena.logits.clone()
        self.reached = arena.reached(arena.logits, slice(None))
        self.steps = torch.zeros_like(arena.y)
        self.zero_grad = torch.zeros_like(arena.y)

    def left(self) -> Tensor:
        """Rows of the images that are not at the goal."""
        return (~self.reached).nonzero()[:, 0]

    def distance(self, arena: Arena, rows: Tensor) -> Tensor:
        """(n,) how far away what has been found is; infinitely, where nothing has."""
        away = lengths(self.x_adv[rows] - arena.x[rows], arena.norm)
        return torch.where(self.reached[rows], away, torch.inf)


def fitted(arena: Arena, outcome: Outcome, name: str, passes: float) -> Arena:
    """The arena with the engine that an attack of so many passes per image is left to, and its size of batch.

    A program has the size of the batch built in. All runs of the attack keep it, so that the next target does not build
    a program for one sample less.
    """
    if arena.engine == "auto" and arena.x.device.type == "cpu":
        operations = len(outcome.left()) * passes * arena.operations
        arena = replace(arena, engine=engine_for(arena.network.model, operations, name), requested=False)
    if arena.engine == "eager":
        return arena
    needed = max(len(outcome.left()), 1)
    part = max(2 ** (needed.bit_length() - 1) // PARTS, 1)
    return replace(arena, chunk_size=min(arena.chunk_size, -(-needed // part) * part))


def run(arena: Arena, work: Run, outcome: Outcome) -> None:
    """Attack the samples of ``outcome`` that are left, and add what is found to it."""
    waiting = outcome.left()
    waiting = waiting[arena.eps[waiting] > 0]  # a ball of radius 0 holds the image alone
    live = waiting[:0]
    columns: Columns = {}
    while len(waiting) or len(live):
        new, waiting = waiting.split([n := min(arena.chunk_size - len(live), len(waiting)), len(waiting) - n])
        if len(new):
            fresh = work.start(new)
            columns = {k: _joined(columns[k], t) for k, t in fresh.items()} if len(live) else fresh
            live = torch.cat((live, new))
        columns = _round(arena, work, columns)
        stay = _settle(arena, work, outcome, live, columns)
        if len(stay) < len(live):
            live, columns = live[stay], {name: take(t, stay) for name, t in columns.items()}


def _round(arena: Arena, work: Run, columns: Columns) -> Columns:
    n = len(columns["x"])
    size = _size(arena, n)
    if size > n:
        index = torch.arange(size, device=arena.x.device).clamp_(max=n - 1)
        columns = {name: take(t, index) for name, t in columns.items()}
    steps = work.steps(columns, work.per_round)
    after = {**columns, **arena.run(steps)}
    return {name: t[:n] for name, t in after.items()} if size > n else after


def _size(arena: Arena, n: int) -> int:
    """How many rows to run: as many as there are, or as a program has been built for."""
    if arena.engine == "eager":
        return n
    sizes = [arena.chunk_size, -(-arena.chunk_size // SHRINK), -(-arena.chunk_size // SHRINK**2)]
    return min(size for size in sizes if size >= n)


def _settle(arena: Arena, work: Run, outcome: Outcome, live: Tensor, columns: Columns) -> Tensor:
    """Confirm what was found, write what is done, and return the index of those that stay."""
    finished = columns["step"] >= work.looks if work.finished is None else work.finished(columns)
    shown = columns["found"] & finished if work.once else columns["found"]
    shown = (shown | finished if work.keeps_best else shown).nonzero()[:, 0]
    done = finished.clone()
    if len(shown):
        at = live[shown]
        points = take(columns[work.adversarial], shown)
        logits = arena.judge(points)
        sure = arena.reached(logits, at)
        kept = sure
        if work.keeps_best:
            kept = sure | (arena.margin(logits, at) > arena.margin(outcome.logits[at], at))
        outcome.x_adv[at[kept]], outcome.logits[at[kept]] = points[kept], logits[kept]
        outcome.reached[at[sure]] = True
        # What only low precision or another engine's rounding took for adversarial goes on.
        taken_for = shown[~sure]
        columns["found"][taken_for] = False
        if "distance" in columns:
            columns["distance"][taken_for] = outcome.distance(arena, at[~sure])
        if work.stops:
            done[shown[sure]] = True
        else:
            columns["found"][shown] = False
    gone = done.nonzero()[:, 0]
    if len(gone):
        at = live[gone]
        outcome.steps[at] += columns["step"][gone].clamp_max(work.looks)
        if "zero_grad" in columns:
            outcome.zero_grad[at] += columns["zero_grad"][gone]
    return (~done).nonzero()[:, 0]


def steps_per_round(looks: int, least: int, most: int) -> int:
    """Steps between two looks at who is done: of the numbers in this range, the one that wastes fewest at the end."""
    return min(range(least, most + 1), key=lambda k: (-looks % k, -k))


def _joined(first: Tensor, second: Tensor) -> Tensor:
    out = empty_rows(first, len(first) + len(second))
    out[: len(first)] = first
    out[len(first) :] = second
    return out

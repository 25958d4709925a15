"""Square attack (Andriushchenko et al. 2020, arXiv:1912.00049): random search with squares, without gradients.

A step looks at a candidate, keeps it if it lowers the margin ``z_y - max z_other`` (towards a target: ``max z_other -
z_target``), and draws the next one: the best point with one square of it replaced. Unlike in the usual code, each
sample has a square of its own, drawn from (seed, sample id, restart, query), and the squares reach the last row and
column, as the paper has it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fairtat.attacks.autoattack.arena import Arena
from fairtat.attacks.autoattack.resumable import (
    Columns,
    PausedSamples,
    Resumable,
    before_looking,
    choose,
    lengths,
    per_image,
)
from fairtat.engines.realized import realized
from fairtat.reference.philox import philox4x32

# Of the queries; after each, the share of the image that a square covers is halved again.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TINY = 1e-12
_PASSED_OVER = 2  # queries at most in a step
_FIRST_SIGN = 5  # words of a query: row, column, second row, second column, orientation, signs


@dataclass(frozen=True)
class Windows:
    """The side of the square at each query, for images of h x w pixels."""

    h: int
    w: int
    norm: str
    p_init: float
    n_queries: int
    resc_schedule: bool

    def share(self, query: int) -> float:
        """The share p of the pixels that the square of this query covers."""
        if self.resc_schedule:
            query = int(query / self.n_queries * 10000)
        return self.p_init * 0.5 ** sum(query > after for after in _HALVINGS)

    def side(self, query: int) -> int:
        """Its side in pixels; in L2 odd and at least 3."""
        side = round(math.sqrt(self.share(query) * self.h * self.w))
        if self.norm == "linf":
            side = max(side, 1)
        else:
            side = max(side, 3)
            side += side % 2 == 0
        return min(side, self.h, self.w)

    @cache  # noqa: B019 - a few windows, each of a few numbers
    def changes(self) -> list[tuple[int, int]]:
        """(first query, side from there on), from query 0."""
        found = [(0, self.side(0))]
        for query in range(1, self.n_queries):
            if (side := self.side(query)) != found[-1][1]:
                found.append((query, side))
        return found


@dataclass(kw_only=True)
class SquareSamples(PausedSamples):
    x_best: Tensor  # (N, C, H, W)
    best_loss: Tensor  # (N,) minus the smallest margin
    words: Tensor  # (N, S, W) int64: the random words of the next S queries, as many as the steps can take
    drawn_at: Tensor  # (N,) int64: the query of the first of them


class SquareSteps(Resumable):
    samples_type = SquareSamples
    fixed = Resumable.fixed | {"words", "drawn_at"}

    def __init__(self, arena: Arena, columns: Columns, number: int, *, windows: Windows) -> None:
        super().__init__(arena, columns, number)
        self.windows = windows
        self._changes = windows.changes()
        self._lengths = {side: pattern_length(side) for _, side in self._changes}
        self._sums = inverse_squares(max(windows.h, windows.w) // 2 + 2)

    def losses(self, logits: Tensor, samples: Any) -> tuple[Tensor, Tensor]:
        towards = self.arena.target is not None
        z = logits if logits.dtype == torch.float64 else logits.float()
        own = z.gather(1, samples.goal[:, None])[:, 0]
        classes = torch.arange(z.shape[1], device=z.device)
        other = torch.where(classes == samples.goal[:, None], -torch.inf, z).amax(1)
        return (own - other if towards else other - own), torch.zeros_like(logits)

    def input_gradient(self, logits: Tensor, dlogits: Tensor, leaf: Tensor) -> Tensor:
        """None is needed, so no backward pass is made."""
        return leaf.new_zeros(()).expand(leaf.shape)

    def look(self, samples: PausedSamples) -> Any:
        with torch.no_grad():
            leaf = samples.model_input.detach()
            return leaf, self.score(self.network(leaf), samples)

    def move(self, samples: Any, grad: Tensor) -> Tensor:
        s = samples
        counts = (s.step <= self.windows.n_queries) & ~s.found  # what is found stays, wherever a round ends
        better = counts & ((s.step == 0) | (s.loss > s.best_loss) | s.wrong)
        s.x_best.copy_(choose(better, s.x_adv, s.x_best))
        s.best_loss.copy_(torch.where(better, s.loss, s.best_loss))
        s.found |= s.wrong & counts
        return self.proposal(s)

    def proposal(self, s: Any) -> Tensor:
        """The next candidate. One that is the best point again needs no look: it cannot lower the margin.

        In images of one channel that is half of all squares of one pixel. Each counts as a query.
        """
        for _ in range(passed_over(s.x.shape[1], self.arena.norm)):
            same = (self._candidate(s) == s.x_best).flatten(1).all(1)
            s.step += same & (s.step < self.windows.n_queries)
        return self._candidate(s)

    def _candidate(self, s: Any) -> Tensor:
        """The best point with a square of it replaced."""
        at = (s.step - s.drawn_at).clamp_max(s.words.shape[1] - 1)
        words = s.words.gather(1, at[:, None, None].expand(-1, 1, s.words.shape[2]))[:, 0]
        side = self._by_query(s.step, [(first, float(side)) for first, side in self._changes]).long()
        # In memory: what is drawn once a sample would be computed again for every pixel.
        side, top, left, top2, left2 = realized(
            torch.stack([side, *(scaled(words[:, k], self._room(k, side)) for k in range(4))])
        ).unbind()
        rows, columns = (torch.arange(k, device=s.x.device) for k in s.x.shape[2:])
        row, column = rows - top[:, None], columns - left[:, None]  # (N, H), (N, W) within the window
        window = inside(row, column, side)
        signs = realized(random_signs(words[:, _FIRST_SIGN:], s.x.shape[1]).to(s.x.dtype))[:, :, None, None]
        if self.arena.norm == "linf":
            moved = torch.where(window, s.x + per_image(s.eps, s.x) * signs, s.x_best)
            return torch.clamp(moved, self.arena.lo, self.arena.hi)
        other = inside(rows - top2[:, None], columns - left2[:, None], side)
        return self._moved_energy(s, window, other, self._pattern(row, column, side, words) * signs)

    def _room(self, word: int, side: Tensor) -> Tensor:
        """(N,) how many places a window has, in rows for even words and in columns for odd ones."""
        return (self.windows.w if word % 2 else self.windows.h) - side + 1

    def _moved_energy(self, s: Any, window: Tensor, other: Tensor, pattern: Tensor) -> Tensor:
        """L2: what the other window holds, and what is left of the budget, goes into the window as the pattern."""
        delta, channels = s.x_best - s.x, s.x.shape[1]
        old = torch.where(window, delta, 0.0)
        new = torch.where(window, pattern + old / (_TINY + _energy(old).sqrt()), 0.0)
        left = (per_image(s.eps, s.x) ** 2 - per_image(lengths(delta, "l2"), s.x) ** 2).clamp_min(0.0)
        budget = (left / channels + _energy(torch.where(window | other, delta, 0.0))).sqrt()
        new = new / (_TINY + _energy(new).sqrt()) * budget
        delta = torch.where(window, new, torch.where(other, 0.0, delta))
        delta = delta * per_image(s.eps / (lengths(delta, "l2") + _TINY), s.x)
        return torch.clamp(s.x + delta, self.arena.lo, self.arena.hi)

    def _pattern(self, row: Tensor, column: Tensor, side: Tensor, words: Tensor) -> Tensor:
        """(N, 1, H, W) two pyramids of opposite signs, side by side or one above the other, of length 1."""
        turned = words[:, 4] >= 2**31
        row, column = row[:, :, None], column[:, None, :]
        along = torch.where(turned[:, None, None], column, row)
        across = torch.where(turned[:, None, None], row, column)
        upper, middle = (side // 2)[:, None, None], side[:, None, None] // 2
        first = along < upper
        center = torch.where(first, upper // 2, upper + (side[:, None, None] - upper) // 2)
        sums = torch.tensor(self._sums, dtype=torch.float32, device=side.device)
        distance = torch.maximum((along - center).abs(), (across - middle).abs()).clamp_max(len(self._sums) - 1)
        height = sums[middle + 1] - sums[torch.minimum(distance, middle + 1)]
        sizes = [(q, self._lengths[k]) for q, k in self._changes]
        up = self._by_query_of_side(side, [length[0] for _, length in sizes])[:, None, None]
        low = self._by_query_of_side(side, [length[1] for _, length in sizes])[:, None, None]
        return torch.where(first, height / up, -height / low)[:, None]

    def _by_query(self, query: Tensor, values: list[tuple[int, float]]) -> Tensor:
        """(N,) the value that holds at each query."""
        out = torch.full_like(query, values[0][1], dtype=torch.float32)
        for first, value in values[1:]:
            out = torch.where(query >= first, value, out)
        return out

    def _by_query_of_side(self, side: Tensor, values: list[float]) -> Tensor:
        out = torch.full_like(side, values[0], dtype=torch.float32)
        for (_, k), value in zip(self._changes[1:], values[1:], strict=True):
            out = torch.where(side == k, value, out)
        return out

    def settings(self) -> Hashable:
        return super().settings(), self.windows


def _energy(delta: Tensor) -> Tensor:
    """(N, C, 1, 1) sums of squares."""
    return delta.square().sum((2, 3), keepdim=True)


def scaled(word: Tensor, number: Tensor) -> Tensor:
    """Random words to integers in [0, number)."""
    return (word * number) >> 32


def random_signs(words: Tensor, channels: int) -> Tensor:
    """(N, C) of -1 and 1, a bit each."""
    channel = torch.arange(channels, device=words.device)
    return 2 * ((words[:, channel // 32] >> (channel % 32)) & 1) - 1


def inside(row: Tensor, column: Tensor, side: Tensor) -> Tensor:
    """(N, 1, H, W) bool: within the window, whose corner is where row and column are 0."""
    vertical = (row >= 0) & (row < side[:, None])
    horizontal = (column >= 0) & (column < side[:, None])
    return (vertical[:, :, None] & horizontal[:, None, :])[:, None]


def inverse_squares(number: int) -> list[float]:
    """Sums of 1/i**2 over i = 1..n, for n = 0..number."""
    sums = [0.0]
    for i in range(1, number + 1):
        sums.append(sums[-1] + 1 / i**2)
    return sums


@cache
def pattern_length(side: int) -> tuple[float, float]:
    """By what the two halves of the pattern are divided: each has length 1, and so has the whole."""
    sums = inverse_squares(side + 2)
    halves = []
    for height in (side // 2, side - side // 2):
        squares = sum(
            (sums[side // 2 + 1] - sums[min(max(abs(r - height // 2), abs(c - side // 2)), side // 2 + 1)]) ** 2
            for r in range(height)
            for c in range(side)
        )
        halves.append(math.sqrt(squares) or 1.0)
    whole = math.sqrt(2.0 if side > 1 else 1.0)
    return halves[0] * whole, halves[1] * whole


def passed_over(channels: int, norm: str) -> int:
    """How many queries a step may pass over; with more channels few squares are without effect, in L2 none."""
    return _PASSED_OVER if channels == 1 and norm == "linf" else 0


def query_words(arena: Arena, ids: Tensor, queries: Tensor, number: int, stream: int, channels: int) -> Tensor:
    """(N, S, W) the random words of ``number`` queries from ``queries`` (N,) on."""
    groups = -(-(_FIRST_SIGN + -(-channels // 32)) // 4)
    position = queries[:, None] * groups + torch.arange(number * groups, device=ids.device)
    words = torch.stack(philox4x32(position, stream, ids[:, None], arena.seed), dim=-1)
    return words.reshape(len(ids), number, 4 * groups)


def start(arena: Arena, rows: Tensor, stream: int) -> Columns:
    """Where the search begins: Linf: stripes of +-eps, one sign per column and channel; L2: tiles of patterns."""
    x, eps, ids = arena.x[rows], arena.eps[rows], arena.ids[rows]
    n, channels, _, w = x.shape
    if arena.norm == "linf":
        # As numbers for an image of one row, so that what a sample gets depends on no layout.
        signs = arena.noise(x.new_zeros(n, channels, 1, w), ids, stream, "uniform").sign()
        signs = torch.where(signs == 0, 1.0, signs).to(x.dtype)
        x_adv = (x + per_image(eps, x) * signs).clamp(arena.lo, arena.hi)
    else:
        delta = _tiles(arena, x, ids, stream)
        delta = delta * per_image(eps / (lengths(delta, "l2") + _TINY), x)
        x_adv = (x + delta).clamp(arena.lo, arena.hi)
    x_start = torch.empty_like(x).copy_(x_adv)
    columns = before_looking(arena, rows, arena.goal[rows], x_start)
    return {**columns, "x_best": x_start.clone(), "best_loss": columns["loss"].clone(), "ids": ids}


def _tiles(arena: Arena, x: Tensor, ids: Tensor, stream: int) -> Tensor:
    """5 x 5 patterns of random orientation, with a random sign per channel."""
    n, channels, h, w = x.shape
    side = max(min(h, w) // 5, 1)
    top, left = (h - side * (h // side)) // 2, (w - side * (w // side)) // 2
    down, right = h // side, w // side
    draws = arena.noise(x.new_zeros(n, channels + 1, down, right), ids, stream, "uniform")
    signs = torch.where(draws >= 0, 1.0, -1.0).to(x.dtype)
    plain = torch.tensor(_square_pattern(side), dtype=x.dtype, device=x.device)
    turned = signs[:, channels:, :, None, :, None] > 0
    tiles = torch.where(turned, plain.t()[:, None, :], plain[:, None, :])  # (N, 1, down, side, right, side)
    tiles = tiles * signs[:, :channels, :, None, :, None]
    delta = torch.zeros_like(x)
    delta[:, :, top : top + side * down, left : left + side * right] = tiles.reshape(
        n, channels, side * down, side * right
    )
    return delta


def _square_pattern(side: int) -> list[list[float]]:
    sums, (up, low) = inverse_squares(side + 2), pattern_length(side)
    half = side // 2

    def value(r: int, c: int) -> float:
        first = r < half
        center = half // 2 if first else half + (side - half) // 2
        height = sums[half + 1] - sums[min(max(abs(r - center), abs(c - half)), half + 1)]
        return height / up if first else -height / low

    return [[value(r, c) for c in range(side)] for r in range(side)]

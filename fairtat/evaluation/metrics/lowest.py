"""What can be said of the lowest of C class accuracies, each of which is only estimated.

The smallest of several estimates lies below the smallest true value on average: every class has a chance to be unlucky,
and the minimum takes the unluckiest. And the interval of a class that was chosen because it came out lowest misses more
often than it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LEVEL", "Lowest", "clopper_pearson", "lowest_accuracy", "sidak"]

LEVEL = 0.95
STEPS = 100
"""Most steps towards an end of an interval; Newton's method takes about ten."""
TINY = 1e-15
GRID = 4000
"""Points at which the distribution of a minimum over classes of different sizes is looked at."""


@dataclass(frozen=True)
class Lowest:
    """The lowest of C true accuracies, as far as the counts tell.

    Attributes:
        corrected: the smallest observed accuracy less its estimated bias.
        interval: 95% interval of the lowest true accuracy, whichever class has it.
        simultaneous: 95% interval of each class's true accuracy (C), all of them at once, so that it holds for a class
            that was chosen for its figure too; (0, 1) for a class without samples.
    """

    corrected: float
    interval: tuple[float, float]
    simultaneous: tuple[tuple[float, float], ...]


def lowest_accuracy(correct: Sequence[int], n: Sequence[int]) -> Lowest:
    """Intervals and a bias-corrected estimate for the lowest of the accuracies ``correct / n``, of disjoint samples.

    * Intervals of all C classes at once: Clopper and Pearson's at the level ``0.95^(1/C)`` (Sidak), as classes are
      independent.
    * The lowest true accuracy: at most ``min U_k`` with one-sided limits U_k at ``0.975^(1/C)``; at least ``min L_k``
      with one-sided limits at 0.975 and no correction, because L of the truly worst class alone must hold: ``min L_k
      <= L_worst <= p_worst``. So it is shorter than an interval of the observed worst class.
    * The estimate: ``min p_k - (E[min of samples from q] - min q)``, a parametric bootstrap worked out exactly instead
      of drawn. q are the observed accuracies drawn towards their mean until their variance is what it was without the
      sampling noise; taken as they are, they would lie too far apart, and hide most of the bias. It is never below the
      observed minimum. Where the worst class stands alone there is next to no bias, and next to no correction.

    Args:
        correct, n: (C,) counts of each class; classes with n = 0 are not counted.

    Raises:
        ValueError: no class has samples.

    Source: Sidak 1967, JASA 62; Clopper & Pearson 1934, Biometrika 26; Efron & Tibshirani 1993, "An Introduction to the
    Bootstrap", chapter 10 (bias); Efron & Morris 1975, JASA 70 (shrinkage).
    """
    counts, sizes = np.asarray(correct, dtype=float), np.asarray(n, dtype=float)
    present = sizes > 0
    if not present.any():
        raise ValueError("n must have a class with samples, got none")
    x, size = counts[present], sizes[present]
    classes = len(x)
    low, high = clopper_pearson(x, size, (1 - sidak(LEVEL, classes)) / 2)
    one_sided = 1 - (1 - LEVEL) / 2
    least = clopper_pearson(x, size, 1 - one_sided)[0].min()
    most = clopper_pearson(x, size, 1 - sidak(one_sided, classes))[1].min()
    simultaneous = np.tile((0.0, 1.0), (len(sizes), 1))
    simultaneous[present] = np.stack([low, high], axis=1)
    observed = x / size
    bias = _bias_of_minimum(_shrunken(observed, size), size)
    return Lowest(
        corrected=float(min(max(observed.min() - bias, observed.min()), 1.0)),
        interval=(float(least), float(most)),
        simultaneous=tuple((float(a), float(b)) for a, b in simultaneous),
    )


def sidak(level: float, count: int) -> float:
    """The level at which each of ``count`` independent intervals must hold for all to hold at ``level``."""
    return float(level ** (1 / count))


def clopper_pearson(correct: np.ndarray, n: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """The p at which ``correct`` or more, and ``correct`` or fewer, of ``n`` have the probability ``tail``.

    Args:
        correct, n: (C,) counts with 0 <= correct <= n and n > 0.
        tail: in (0, 1/2), what each end may miss; limits for a two-sided 95% interval have 0.025.

    Returns:
        Lower and upper limits (C,); 0 where nothing, and 1 where everything is right.
    """
    x, size = np.asarray(correct, dtype=float), np.asarray(n, dtype=float)
    if not ((x >= 0) & (x <= size) & (size > 0)).all():
        raise ValueError("correct must be in [0, n] and n above 0")
    low = np.where(x == 0, 0.0, _lower_limit(np.maximum(x, 1), size, tail))
    high = np.where(x == size, 1.0, 1 - _lower_limit(np.maximum(size - x, 1), size, tail))
    return low, high


def _lower_limit(x: np.ndarray, n: np.ndarray, tail: float) -> np.ndarray:
    """p with P(X >= x) = tail, for x > 0, by Newton's method that falls back to halving.

    The derivative of the probability with respect to p is ``x P(X = x) / p``.
    """
    ways, rows = _log_ways(n), np.arange(len(n))
    counted = np.arange(ways.shape[1]) >= x[:, None]
    below, above = np.zeros_like(n), np.ones_like(n)
    p: np.ndarray = x / (n + 1)
    for _ in range(STEPS):
        probability = _pmf(ways, n, p)
        miss = np.sum(probability, axis=1, where=counted) - tail
        below, above = np.where(miss < 0, p, below), np.where(miss > 0, p, above)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = p - miss * p / (x * probability[rows, x.astype(int)])
        following: np.ndarray = np.where((step > below) & (step < above), step, (below + above) / 2)
        if np.abs(following - p).max() < 1e-13:
            break
        p = following
    return p


def _log_ways(n: np.ndarray) -> np.ndarray:
    """(C, max n + 1): log of the binomial coefficients of each n, -inf beyond it."""
    most = int(n.max())
    k = np.arange(most + 1)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    rest = n[:, None].astype(int) - k
    ways = factorial[n.astype(int)][:, None] - factorial - factorial[np.maximum(rest, 0)]
    return np.asarray(np.where(rest >= 0, ways, -np.inf))


def _pmf(ways: np.ndarray, n: np.ndarray, p: np.ndarray) -> np.ndarray:
    """(C, max n + 1): binomial probabilities; p is kept a rounding away from 0 and 1, where its logarithm ends."""
    p = np.clip(p, TINY, 1 - TINY)[:, None]
    k = np.arange(ways.shape[1])
    return np.asarray(np.exp(ways + k * np.log(p) + (n[:, None] - k) * np.log1p(-p)))


def _shrunken(observed: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The accuracies drawn towards their mean until the sampling noise is gone from their variance."""
    if len(observed) < 2:
        return observed
    spread = float(observed.var(ddof=1))
    noise = float(np.mean(observed * (1 - observed) / np.maximum(n - 1, 1)))
    kept = np.sqrt(max(0.0, 1 - noise / spread)) if spread else 1.0
    return np.asarray(observed.mean() + kept * (observed - observed.mean()))


def _bias_of_minimum(p: np.ndarray, n: np.ndarray) -> float:
    """E[min X_k / n_k] - min p_k of independent binomial X_k: the mean of a figure in [0, 1] is the area below
    P(min > t) = prod P(X_k > n_k t)."""
    alike = (n == n[0]).all()
    points = int(n[0]) if alike else GRID  # of one size, the product is constant between multiples of 1 / n
    t = (np.arange(points) + 0.5) / points
    above = np.ones(points)
    for size, cumulative in zip(n, np.cumsum(_pmf(_log_ways(n), n, p), axis=1), strict=True):
        above *= np.clip(1 - cumulative[(t * size).astype(int)], 0.0, 1.0)
    return float(above.mean() - p.min())

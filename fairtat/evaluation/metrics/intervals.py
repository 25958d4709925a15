"""Confidence intervals of accuracies that are counted on a few hundred images per class."""

from __future__ import annotations

import math

Z95 = 1.959963984540054
"""Two-sided 95% quantile of the standard normal distribution."""


def wilson(correct: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson score interval of the proportion ``p = correct / n``.

    ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``. Unlike ``p -+ z sqrt(p(1-p)/n)`` it stays in
    [0, 1] and keeps a width at p = 0 and p = 1, where small classes often are. No samples: ``(0.0, 1.0)``.

    Raises ``ValueError`` unless ``0 <= correct <= n``. Wilson, JASA 22 (1927).
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct must be in [0, n], got correct={correct} with n={n}")
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    scale = 1.0 + z * z / n
    center = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # The formula gives exactly 0 and 1 at the ends; rounding alone misses them by an ulp.
    low = 0.0 if correct == 0 else max(0.0, center - half)
    high = 1.0 if correct == n else min(1.0, center + half)
    return low, high


def newcombe(both: int, only_a: int, only_b: int, neither: int, z: float = Z95) -> tuple[float, float]:
    """Interval of ``p_b - p_a`` for two models judged on the same samples.

    The arguments count the samples that both got right, only a, only b, and neither. With Wilson intervals
    ``(l, u)`` of ``p_a`` and ``p_b``, and phi the correlation of the two outcomes (a positive numerator less n/2):

        low  = d - sqrt((p_b - l_b)^2 - 2 phi (p_b - l_b)(u_a - p_a) + (u_a - p_a)^2)
        high = d + sqrt((u_b - p_b)^2 - 2 phi (u_b - p_b)(p_a - l_a) + (p_a - l_a)^2)

    phi = 0 is the interval for independent samples; models that fail on the same images give a narrower one.
    No samples: ``(-1.0, 1.0)``. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10.
    """
    n = both + only_a + only_b + neither
    if n == 0:
        return -1.0, 1.0
    right_a, right_b = both + only_a, both + only_b
    p_a, p_b = right_a / n, right_b / n
    low_a, high_a = wilson(right_a, n, z)
    low_b, high_b = wilson(right_b, n, z)

    margins = right_a * (n - right_a) * right_b * (n - right_b)
    numerator: float = both * neither - only_a * only_b
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)
    phi = numerator / math.sqrt(margins) if margins else 0.0

    difference = p_b - p_a
    low = difference - _combined(p_b - low_b, high_a - p_a, phi)
    high = difference + _combined(high_b - p_b, p_a - low_a, phi)
    return max(low, -1.0), min(high, 1.0)


def _combined(a: float, b: float, phi: float) -> float:
    # Not negative for |phi| <= 1, but rounding can make it so when a = b and phi = 1.
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


class Difference:
    """A figure that is compared between two runs; the interval is that of the difference."""

    before: float
    after: float
    interval: tuple[float, float]

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval[0] > 0 or self.interval[1] < 0

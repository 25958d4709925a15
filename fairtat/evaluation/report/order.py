"""An order of classes in which those that are taken for each other stand side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairtat.evaluation.metrics.figures import ClassFigures

__all__ = ["confusion_shares", "order_by_confusion", "seriated"]


def confusion_shares(figures: ClassFigures) -> np.ndarray:
    """(C, C) confusion in shares of the label's images; NaN for a class without any."""
    counts = figures.confusion.numpy().astype(float)
    n = np.array(figures.n, dtype=float)[:, None]
    return np.asarray(np.divide(counts, n, out=np.full_like(counts, np.nan), where=n > 0))


def order_by_confusion(scored: Sequence[ClassFigures]) -> list[int]:
    """Classes as `seriated` by how often one is taken for the other, in either direction and by any of the models."""
    shares = np.mean([np.nan_to_num(confusion_shares(figures)) for figures in scored], axis=0)
    return seriated(shares + shares.T)


def seriated(similarity: np.ndarray) -> list[int]:
    """A permutation of C items in which similar ones are neighbors.

    The two clusters that are most similar on average are joined, again and again; of the four ways to put them end to
    end, the one is chosen whose touching ends are most similar. So every cluster is contiguous at every level. Ties go
    to the items that come first. O(C^3) time, O(C^2) memory: under a second for 1,000 items.

    Args:
        similarity: (C, C), symmetric; the diagonal is not used.

    Source: Gruvaeus & Wainer 1972, British Journal of Mathematical and Statistical Psychology 25; clusters are those
    of average linkage.
    """
    count = len(similarity)
    between = np.array(similarity, dtype=float)
    np.fill_diagonal(between, -np.inf)
    chains: list[list[int]] = [[k] for k in range(count)]
    for _ in range(count - 1):
        a, b = sorted(divmod(int(between.argmax()), count))
        chains[a] = _joined(chains[a], chains[b], similarity)
        weight_a, weight_b = len(chains[a]) - len(chains[b]), len(chains[b])
        mean = (weight_a * between[a] + weight_b * between[b]) / (weight_a + weight_b)
        between[a], between[:, a] = mean, mean
        between[b], between[:, b], between[a, a] = -np.inf, -np.inf, -np.inf
        chains[b] = []
    found = next((chain for chain in chains if chain), [])
    return found[::-1] if found and found[-1] < found[0] else found


def _joined(a: list[int], b: list[int], similarity: np.ndarray) -> list[int]:
    ways = ((a, b), (a, b[::-1]), (a[::-1], b), (a[::-1], b[::-1]))
    first, second = max(ways, key=lambda way: similarity[way[0][-1], way[1][0]])
    return first + second

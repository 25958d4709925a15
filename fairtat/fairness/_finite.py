"""The rule on samples that have no finite loss: few are a warning, more are not to be learned from."""

from __future__ import annotations

import warnings

import torch

from fairtat.fairness.class_stats import ClassStats

MAX_NONFINITE = 0.01  # share of a class, and so the most that such samples move its accuracy by


def check_finite(what: str, stats: ClassStats) -> None:
    """A RuntimeWarning for the caller's caller if some of the samples had no finite loss. One read from the device.

    Raises:
        ValueError: they are more than MAX_NONFINITE of a class.
    """
    nonfinite, count = torch.stack([stats.nonfinite, stats.count]).tolist()
    if not any(nonfinite):
        return
    k = max(range(stats.num_classes), key=lambda i: nonfinite[i] / max(count[i], 1))
    found = (
        f"{what}: logits or losses are not finite for {nonfinite[k]} of {count[k]} samples of class {k}, and for "
        f"{sum(nonfinite)} of {sum(count)} in all"
    )
    if nonfinite[k] > MAX_NONFINITE * count[k]:
        raise ValueError(
            f"{found}; at most {MAX_NONFINITE:.0%} of a class may be: continue from an earlier state, with a lower "
            "learning rate"
        )
    warnings.warn(f"{found}; they count as wrong", RuntimeWarning, stacklevel=3)

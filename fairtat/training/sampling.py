"""Which images an epoch draws, where that is not each one once: on the CPU, so every device and process agree.

An epoch depends on its seed alone, so a run resumes to the same ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat.data import Data, Order
from fairtat.seeds import derive

__all__ = ["balanced_rows", "drawn_by_class", "epoch_order", "mixed_order"]


def epoch_order(
    own: Data, samples: int, *, batch_size: int, seed: int, shares: Tensor | None, balance: float, extra_share: float
) -> Order | None:
    """The rows of ``own``, or of `joined` data that begin with it, that an epoch draws; None for each one once.

    Args:
        own: the training images, as many as an epoch has.
        samples: of the data that are drawn from: more than ``own`` has where there are extra images.
        batch_size: over all processes.
        seed: of the epoch.
        shares: (C,) of each class, from a rule that draws classes (see `drawn_by_class`).
        balance: see `balanced_rows`.
        extra_share: of the extra images in each batch.
    """
    extra = samples - len(own)
    if shares is not None:
        rows = drawn_by_class(own, shares, derive(seed, "classes"))
    elif balance:
        rows = balanced_rows(own.labels, own.num_classes, balance, derive(seed, "classes"))
    elif extra:
        rows = _shuffled(len(own), derive(seed, "own"))
    else:
        return None
    if not extra:
        return Order(rows)
    return mixed_order(rows, len(own), extra, extra_share, batch_size, derive(seed, "extra"))


def drawn_by_class(data: Data, shares: Tensor, seed: int) -> Tensor:
    """As many rows (N,) as ``data`` has, each of a class drawn from ``shares``, and any sample of it alike.

    Drawn with replacement. A sample that comes twice keeps its id, and so its start of the attack; how it is augmented
    depends on its place. Waits for the device once.

    Args:
        data: the training images.
        shares: (C,) float64 of each class, >= 0; that of a class without samples goes to the others.
        seed: of the draw.
    """
    labels = data.labels.cpu()
    count = torch.bincount(labels, minlength=data.num_classes)
    weight = (shares.cpu() / count.clamp(min=1)).index_select(0, labels)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(weight, len(labels), replacement=True, generator=generator)


def balanced_rows(labels: Tensor, num_classes: int, balance: float, seed: int) -> Tensor:
    """N rows in random order, m_k of class k in proportion to ``n_k ** (1 - balance)``.

    m_k is rounded by largest remainders, so the sum is N. An image of class k comes floor or ceil of m_k / n_k times.

    Args:
        labels: (N,) int64.
        num_classes: C.
        balance: in [0, 1]; 1 draws all classes alike.
        seed: of the draw.
    """
    labels = labels.cpu()
    count = torch.bincount(labels, minlength=num_classes)
    weight = torch.where(count > 0, count.double() ** (1 - balance), 0.0)
    exact = len(labels) * weight / weight.sum()
    drawn = exact.floor().long()
    left = len(labels) - int(drawn.sum())
    drawn[(exact - drawn).sort(descending=True, stable=True).indices[:left]] += 1
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in drawn.nonzero().flatten().tolist():
        members, wanted = (labels == label).nonzero().flatten(), int(drawn[label])
        passes = -(-wanted // len(members))
        order = torch.cat([torch.randperm(len(members), generator=generator) for _ in range(passes)])
        chosen.append(members[order[:wanted]])
    rows = torch.cat(chosen)
    return rows[torch.randperm(len(rows), generator=generator)]


def mixed_order(rows: Tensor, first: int, extra: int, share: float, batch_size: int, seed: int) -> Order:
    """Batches of own rows and of ``floor(share n)`` extra ones of n, own ones first; no more samples than ``rows``.

    The extra images of an epoch are different ones as long as there are enough.

    Args:
        rows: (N,) own rows in the order of the epoch, of which the first ones are taken.
        first: where the extra rows begin.
        extra: how many there are.
        share: in (0, 1).
        batch_size: over all processes.
        seed: of the draw of the extra rows.
    """
    sizes = [min(batch_size, len(rows) - start) for start in range(0, len(rows), batch_size)]
    owns = [size - int(share * size) for size in sizes]
    needed = len(rows) - sum(owns)
    passes = -(-needed // extra)
    pool = torch.cat([_shuffled(extra, derive(seed, number)) for number in range(passes)] or [rows[:0]]) + first
    parts = zip(
        rows[: sum(owns)].split(owns),
        pool[:needed].split([n - k for n, k in zip(sizes, owns, strict=True)]),
        strict=True,
    )
    return Order(torch.cat([torch.cat(pair) for pair in parts]), owns)


def _shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))

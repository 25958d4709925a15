"""Processes that share one evaluation: each works on some of the batches, and all end with the same answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import distributed as dist

__all__ = ["ALONE", "Team"]


def _own(value: Any) -> list[Any]:
    return [value]


@dataclass(frozen=True)
class Team:
    """This process among those that share an evaluation; alone by default.

    The batches are those of a single process and are dealt out in turn, so every image is attacked in the batch in
    which one process would attack it, and flags and figures are the same to the last bit (on the same hardware, with
    the same number of threads).

    Attributes:
        rank, size: 0 <= rank < size.
        gather: called by all processes at the same points; returns everyone's value, in the order of ranks.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[Any], list[Any]] = _own

    @classmethod
    def of_group(cls, group: dist.ProcessGroup | None = None) -> Team:
        """All processes of a group (None means the default one), whose backend must move CPU tensors, as gloo does."""
        size = dist.get_world_size(group)

        def gather(value: Any) -> list[Any]:
            found: list[Any] = [None] * size
            dist.all_gather_object(found, value, group=group)
            return found

        return cls(dist.get_rank(group), size, gather)

    @property
    def main(self) -> bool:
        """Whether this process writes the results and speaks for all."""
        return self.rank == 0


ALONE = Team()

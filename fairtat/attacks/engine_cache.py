"""What an engine keeps of a model between attacks: its programs or graphs by options and shapes, or why it has none.

A record lives as long as its model, which it does not hold. It needs no lock, as one thread attacks a model at a time
(`model_state.frozen`); programs and graphs are made in `building`, as PyTorch's tracers and compilers change global
state.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

MOST_FAMILIES = 6  # of options and image shapes: a trainer has two, its attack and its validation's
MOST_SIZES = 3  # of the batch in each

P = TypeVar("P")


@dataclass
class Family(Generic[P]):
    """Programs that differ in nothing but the size of the batch."""

    signature: Hashable = None  # of the model that they were made from
    programs: OrderedDict[int, P] = field(default_factory=OrderedDict)  # the one used last comes last
    last_size: int = 0
    unfit: str | None = None  # why there can be none
    served: bool = False  # whether one was used again after it had been made
    wasted: int = 0  # families before this one, in a row, of which none was

    def add(self, size: int, program: P) -> None:
        self.programs[size] = program
        while len(self.programs) > MOST_SIZES:
            self.programs.popitem(last=False)

    def use(self, size: int) -> P:
        self.served = True
        self.programs.move_to_end(size)
        return self.programs[size]

    def size_for(self, n: int, *, hesitant: bool = False) -> int | None:
        """The size of the program that serves n samples; None: this batch is not worth one.

        A batch that is smaller than those before is an epoch's last, most likely: compiling for it would cost more than
        it could save. It is padded if it fills half of a program. A size that comes twice in a row is here to stay; to
        be ``hesitant`` is to wait for that with the first one too.
        """
        repeated, self.last_size = n == self.last_size, n
        larger = [size for size in self.programs if size >= n]
        if n in larger or repeated or not (larger or hesitant):
            return n
        smallest = min(larger, default=2 * n + 1)
        return smallest if 2 * n >= smallest else None


@dataclass
class Record(Generic[P]):
    """All that an engine keeps of one model."""

    families: OrderedDict[Hashable, Family[P]] = field(default_factory=OrderedDict)
    shared: Any = None  # what the programs of all families have in common

    def family(self, settings: Hashable, signature: Hashable) -> Family[P]:
        """The programs for these settings; a fresh start for a model that was fit and is no longer what it was."""
        found = self.families.get(settings)
        if found is None:
            found = self.families[settings] = Family(signature)
        elif found.signature != signature and found.unfit is None:
            wasted = 0 if found.served or not found.programs else found.wasted + 1
            found = self.families[settings] = Family(signature, wasted=wasted)
        self.families.move_to_end(settings)
        while len(self.families) > MOST_FAMILIES:
            self.families.popitem(last=False)
        return found


_RECORDS: WeakKeyDictionary[nn.Module, dict[str, Record[Any]]] = WeakKeyDictionary()


def record_of(model: nn.Module, engine: str) -> Record[Any]:
    return _RECORDS.setdefault(model, {}).setdefault(engine, Record())


_BUILDING = threading.RLock()


@contextmanager
def building() -> Iterator[None]:
    """Trace, compile or capture in here: one thread at a time, and unseen by who looks at an attack's operations."""
    with _BUILDING, _disable_current_modes():
        yield

"""What an engine keeps of a model between attacks: its programs or graphs by options and shapes, or why it has none.

A record lives as long as its model, which it does not hold. It needs no lock, as one thread attacks a model at a time
(`model.state.frozen`); programs and graphs are built in `building`, as PyTorch's tracers and compilers change global
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

from fairtat.engines.model.signature import Signature

MAX_FAMILIES = 6  # of options and image shapes: a trainer has two, its attack and its validation's
MAX_SIZES = 3  # of the batch in each
MAX_UNUSED = 4  # families in a row of which no program was used again, before a model is left alone
MAX_FAILURES = 1  # for want of memory, before a family is left alone
SETTINGS_VARY_AFTER = 2  # of them because of its settings, before those of a model are taken to change at every call

P = TypeVar("P")
_NOTHING = Signature((), (), None)


@dataclass
class Family(Generic[P]):
    """Programs that differ in nothing but the size of the batch."""

    signature: Signature = _NOTHING  # of the model that they were made from
    programs: OrderedDict[int, P] = field(default_factory=OrderedDict)  # the one used last comes last
    last_size: int = 0
    unsupported: str | None = None  # why there can be none
    failures: int = 0  # to build one
    served: bool = False  # whether one was used again after it had been made
    unused: int = 0  # families before this one, in a row, of which none was
    settings_vary: bool = False  # the model's settings differ from call to call, though its computation may not
    confirmed: set[int] = field(default_factory=set)  # sizes whose program was compared with the model as it is

    def add(self, size: int, program: P) -> None:
        self.programs[size] = program
        self.confirmed.discard(size)
        while len(self.programs) > MAX_SIZES:
            self.programs.popitem(last=False)

    def use(self, size: int) -> P:
        self.served = True
        self.programs.move_to_end(size)
        return self.programs[size]

    def needs_check(self, size: int, check: str) -> bool:
        """Whether a program has to be compared with the model before its result counts: ``engine_check``."""
        if check == "off":
            return False
        return check == "always" or self.signature.unseen is not None or size not in self.confirmed

    def size_for(self, n: int, *, wait: bool = False) -> int | None:
        """The size of the program that serves n samples; None: this batch is not worth one.

        A batch that is smaller than those before is an epoch's last, most likely: compiling for it would cost more than
        it could save. It is padded if it fills half of a program. A size that comes twice in a row is here to stay;
        ``wait``: wait for that with the first one too.
        """
        repeated, self.last_size = n == self.last_size, n
        larger = [size for size in self.programs if size >= n]
        if n in larger or repeated or not (larger or wait):
            return n
        smallest = min(larger, default=2 * n + 1)
        return smallest if 2 * n >= smallest else None


@dataclass
class Record(Generic[P]):
    """All that an engine keeps of one model."""

    families: OrderedDict[Hashable, Family[P]] = field(default_factory=OrderedDict)
    shared: Any = None  # what the programs of all families have in common

    def family(self, settings: Hashable, signature: Signature, check: str) -> Family[P]:
        """The programs for these settings; a fresh start for a supported model that has changed since.

        Where fresh starts because of the model's settings, such as a counter or a log, have been useless, the programs
        stay, and are compared with the model instead (unless ``check`` is "off").
        """
        found = self.families.get(settings)
        if found is None:
            found = self.families[settings] = Family(signature)
        elif found.unsupported is None and found.signature[:2] != signature[:2]:
            same_layers = found.signature.structure == signature.structure
            if found.settings_vary and same_layers and check != "off":
                found.signature = signature
                found.confirmed.clear()
            else:
                what = "attributes" if same_layers else "layers or weights"
                found = self.start_over(settings, signature, f"its {what} change at every call", vary=same_layers)
        elif found.unsupported is None:
            found.signature = signature  # an equal one; of what is the same object, the next comparison takes no time
        self.families.move_to_end(settings)
        while len(self.families) > MAX_FAMILIES:
            self.families.popitem(last=False)
        return found

    def start_over(self, settings: Hashable, signature: Signature, why: str, *, vary: bool = False) -> Family[P]:
        """Drop programs that are no longer right; ``vary``: the model's settings are why."""
        old = self.families[settings]
        unused = 0 if old.served or not old.programs else old.unused + 1
        settings_vary = old.settings_vary or (vary and unused >= SETTINGS_VARY_AFTER)
        found = self.families[settings] = Family(signature, unused=unused, settings_vary=settings_vary)
        if unused >= MAX_UNUSED:
            found.unsupported = why
        return found


_RECORDS: WeakKeyDictionary[nn.Module, dict[str, Record[Any]]] = WeakKeyDictionary()


def record_of(model: nn.Module, engine: str) -> Record[Any]:
    return _RECORDS.setdefault(model, {}).setdefault(engine, Record())


_BUILDING = threading.RLock()


@contextmanager
def building() -> Iterator[None]:
    """Trace, compile or capture in here: one thread at a time, hidden from modes that look at operations."""
    with _BUILDING, _disable_current_modes():
        yield

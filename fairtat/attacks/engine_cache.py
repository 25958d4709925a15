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

from fairtat.attacks.signature import Signature

MOST_FAMILIES = 6  # of options and image shapes: a trainer has two, its attack and its validation's
MOST_SIZES = 3  # of the batch in each
MOST_WASTED = 4  # families in a row that were made in vain, before a model is left alone
RESTLESS = 2  # of them because of its settings, before those of a model are taken to change at every call

P = TypeVar("P")
_NOTHING = Signature((), (), None)


@dataclass
class Family(Generic[P]):
    """Programs that differ in nothing but the size of the batch."""

    signature: Signature = _NOTHING  # of the model that they were made from
    programs: OrderedDict[int, P] = field(default_factory=OrderedDict)  # the one used last comes last
    last_size: int = 0
    unfit: str | None = None  # why there can be none
    served: bool = False  # whether one was used again after it had been made
    wasted: int = 0  # families before this one, in a row, of which none was
    restless: bool = False  # the model's settings differ from call to call, though its computation may not
    confirmed: set[int] = field(default_factory=set)  # sizes whose program was compared with the model as it is

    def add(self, size: int, program: P) -> None:
        self.programs[size] = program
        self.confirmed.discard(size)
        while len(self.programs) > MOST_SIZES:
            self.programs.popitem(last=False)

    def use(self, size: int) -> P:
        self.served = True
        self.programs.move_to_end(size)
        return self.programs[size]

    def doubted(self, size: int, check: str) -> bool:
        """Whether a program has to be compared with the model before its result counts: ``engine_check``."""
        if check == "off":
            return False
        return check == "always" or self.signature.unseen is not None or size not in self.confirmed

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

    def family(self, settings: Hashable, signature: Signature, check: str) -> Family[P]:
        """The programs for these settings; a fresh start for a model that was fit and has changed since.

        Where fresh starts because of the model's settings, such as a counter or a log, have been in vain, the programs
        stay, and are compared with the model instead (unless ``check`` is "off").
        """
        found = self.families.get(settings)
        if found is None:
            found = self.families[settings] = Family(signature)
        elif found.unfit is None and found.signature[:2] != signature[:2]:
            same_layers = found.signature.structure == signature.structure
            if found.restless and same_layers and check != "off":
                found.signature = signature
                found.confirmed.clear()
            else:
                what = "attributes" if same_layers else "layers or weights"
                found = self.anew(settings, signature, f"its {what} are others at every call", restless=same_layers)
        self.families.move_to_end(settings)
        while len(self.families) > MOST_FAMILIES:
            self.families.popitem(last=False)
        return found

    def anew(self, settings: Hashable, signature: Signature, why: str, *, restless: bool = False) -> Family[P]:
        """Drop programs that are no longer right; ``restless``: the model's settings are why."""
        old = self.families[settings]
        wasted = 0 if old.served or not old.programs else old.wasted + 1
        restless = old.restless or (restless and wasted >= RESTLESS)
        found = self.families[settings] = Family(signature, wasted=wasted, restless=restless)
        if wasted >= MOST_WASTED:
            found.unfit = why
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

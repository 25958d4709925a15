"""Random numbers of a model under attack: from a stream of the attack's own, and nothing is touched if it draws none.

PyTorch's default generators belong to the whole process, so seeding them for an attack and restoring them afterwards
would disturb other threads that draw meanwhile. Few models draw anything in eval mode. So, where there are
other threads, the first attack on a model looks at its operations, and seeds when the first one comes that draws; if
none comes, later attacks do nothing but compare the generators' states before and after. The look costs 2 to 10
microseconds per operation: an attack on a ResNet takes 1.1 times as long, one on a small MLP twice as long, once.
"""

from __future__ import annotations

import pickle
import random
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fairtat.engines.model.turns import holds, taking_turns

_GENERATORS = object()  # stands for the generators, which threads take turns to borrow
_OF_PYTORCH = frozenset(
    {"aten", "prim", "prims", "mkldnn", "onednn", "quantized", "fairtat"}
)  # their tags tell which draw


@dataclass
class _DrawHistory:
    """What is known of a model's draws."""

    settings: Hashable = None  # of the model, that were looked at
    draws: bool | None = None  # None: have a look
    looks: int = 0  # that saw no draw
    moves: int = 0  # since the last one, of the generators, by another thread or by a model that draws after all

    def learn(self, looked: bool, borrowed: bool, moved: bool) -> None:
        if borrowed:
            self.draws = moved  # attention, for example, may draw but need not
        elif looked:
            self.draws, self.looks, self.moves = False, self.looks + 1, 0
        elif moved:
            self.moves += 1
            if self.moves >= 2 ** (self.looks - 1):  # less and less often: looking takes time
                self.draws = None


_HISTORIES: WeakKeyDictionary[nn.Module, dict[str, _DrawHistory]] = WeakKeyDictionary()


def _history_of(model: object, bn_mode: str, settings: Hashable) -> _DrawHistory:
    if not isinstance(model, nn.Module):
        return _DrawHistory()  # any other callable may be a new one for each attack
    known = _HISTORIES.setdefault(model, {})
    if bn_mode not in known or known[bn_mode].settings != settings:
        known[bn_mode] = _DrawHistory(settings)
    return known[bn_mode]


@contextmanager
def own_random_numbers(model: object, bn_mode: str, settings: Hashable, x: Tensor, seed: int) -> Iterator[None]:
    """Give a model that draws random numbers a stream that ``seed`` starts, and leave the caller's untouched.

    ``settings`` are what a decision to draw may depend on. The attack itself draws from none of PyTorch's generators.
    """
    history, generators, thread = _history_of(model, bn_mode, settings), _generators(x), threading.get_ident()
    looks = history.draws is None
    with ExitStack() as loan:
        states: list[Tensor] = []
        borrowed = False

        def borrow() -> None:
            nonlocal borrowed
            borrowed = True
            loan.enter_context(borrowed_generators(x, seed, thread))
            states[:] = [generator.get_state() for generator in generators]

        if history.draws or threading.active_count() == 1:  # no other thread can be disturbed
            borrow()
        else:
            states += [generator.get_state() for generator in generators]
        with _DrawDetector(borrow) if looks and not borrowed else nullcontext():
            yield
        now = [generator.get_state() for generator in generators]
        moved = any(_differ(ours, before) for ours, before in zip(now, states, strict=True))
        history.learn(looks, borrowed, moved)


def _differ(ours: Tensor, before: Tensor) -> bool:
    """Whether two states of a generator, in the host's memory, differ: by way of numpy, which no mode looks at."""
    try:
        return bool((ours.numpy() != before.numpy()).any())
    except RuntimeError:  # numpy is not installed
        return not torch.equal(ours, before)


@contextmanager
def borrowed_generators(x: Tensor, seed: int, thread: int | None = None) -> Iterator[None]:
    """Seed PyTorch's default generators for work on x, and restore them; threads that borrow them take turns."""
    generators = _generators(x)
    with taking_turns({id(_GENERATORS)}, thread):
        states = [generator.get_state() for generator in generators]
        try:
            for generator in generators:
                generator.manual_seed(seed)
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def borrowed(x: Tensor) -> list[torch.Generator]:
    """The generators for work on x if this thread has borrowed them: no other thread uses them."""
    return _generators(x) if holds({id(_GENERATORS)}) else []


def start_of_stream(generator: torch.Generator) -> Tensor:
    """The state of a borrowed generator before its first draw."""
    return torch.Generator(generator.device).manual_seed(generator.initial_seed()).get_state()


def _generators(x: Tensor) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if x.device.type in ("cuda", "xpu"):
        generators.append(getattr(torch, x.device.type).default_generators[x.get_device()])
    elif x.device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    return generators


LOOKS = 3  # at a function that seems to draw on the host, where another thread may have done so


def draws_on_the_host(function: Callable[[], object]) -> list[str]:
    """The modules, Python's or numpy's, from whose generators a function draws in every one of some calls.

    It is called once if it draws nothing.
    """
    drawn: set[str] = {"random", "numpy.random"}
    for _ in range(LOOKS):
        before = host_states()
        function()
        now = host_states()
        drawn = {name for name in drawn if pickle.dumps(before[name]) != pickle.dumps(now[name])}
        if not drawn:
            break
    return sorted(drawn)


def host_states() -> dict[str, Any]:
    """The states of Python's and numpy's generators, by module."""
    states: dict[str, Any] = {"random": random.getstate()}
    if (numpy := sys.modules.get("numpy")) is not None:
        states["numpy.random"] = numpy.random.get_state(legacy=False)
    return states


def restore_host_states(states: Mapping[str, Any]) -> None:
    random.setstate(states["random"])
    if "numpy.random" in states:
        sys.modules["numpy"].random.set_state(states["numpy.random"])


class _DrawDetector(TorchDispatchMode):
    """Calls ``warn`` before the first operation that may draw from a default generator."""

    supports_higher_order_operators = True

    def __init__(self, warn: Callable[[], None]) -> None:
        super().__init__()
        self._warn: Callable[[], None] | None = warn
        self._harmless: set[Any] = set()  # asking an operation for its tags takes as long as a small one

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # what torch.compile made of a model runs, as it would without this

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._warn is not None and func not in self._harmless:
            if not _may_draw(func):
                self._harmless.add(func)
            elif not _abstains(func, args, kwargs):
                self._warn()
                self._warn = None
        return func(*args, **kwargs)


def _may_draw(func: Any) -> bool:
    """Whether an operation is known to draw, or is foreign, so that nothing is known."""
    return getattr(func, "namespace", "") not in _OF_PYTORCH or torch.Tag.nondeterministic_seeded in func.tags


def _abstains(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call of an operation draws from no default generator: attention whose dropout is off is common."""
    if not isinstance(func, torch._ops.OpOverload):
        return False
    arguments = func._schema.arguments
    given = {argument.name: argument.default_value for argument in arguments}
    given.update(zip(given, args, strict=False), **kwargs)
    return given.get("dropout_p") == 0.0 or given.get("generator") is not None

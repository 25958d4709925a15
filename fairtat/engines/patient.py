"""engine="auto" on a CPU: eager until a model's attacks have taken so long that compiling them pays.

Whether to rent or to buy, without knowing for how long (ski rental): a build takes B seconds and saves a share of the
time from then on, about a quarter. So it pays once as many seconds as 4 B lie ahead, and whoever builds after 4 B
have passed spends at most twice what the best choice in hindsight would have cost beyond the passes themselves. Both
sides are measured where the attack runs, in processor time of its thread: the eager passes, and then the program's
own, which goes unused if it is no faster.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fairtat.engines.cache import Family
from fairtat.engines.compiled.engine import Compiled
from fairtat.engines.samples import Results, Span, count
from fairtat.engines.steps import S, Steps

if TYPE_CHECKING:
    from fairtat.engines.compiled.program import CompiledSteps

_LOG = logging.getLogger("fairtat")

EAGER_PER_BUILD = 4.0  # eager seconds for each expected second of building, before a program is built
LEAST_PASSES = 2  # eager ones of the same kind, before one is built at the next
TRIALS = 3  # passes of a program after which it is compared with the fastest eager pass
MAX_ACCOUNTS = 32  # of a model: settings and batch sizes

# What a build takes on one core, with nothing in inductor's cache on disk: by the layers that have weights.
BUILD_SECONDS = 10.0
BUILD_SECONDS_PER_LAYER = 1.0

clock = time.thread_time  # seconds that other programs do not lengthen


@dataclass
class Account:
    """Passes of one size with the same settings."""

    passes: int = 0  # eager ones, since the last build
    seconds: float = 0.0  # that they took
    fastest: float = float("inf")
    trials: int = 0  # of the program
    fastest_trial: float = float("inf")
    closed: bool = False  # these passes stay eager


@dataclass
class _Accounts:
    by_kind: OrderedDict[Hashable, Account] = field(default_factory=OrderedDict)  # settings and size
    built: bool = False  # a program, for any of them
    expected: float | None = None  # seconds that a build takes

    def of(self, kind: Hashable) -> Account:
        account = self.by_kind.setdefault(kind, Account())
        self.by_kind.move_to_end(kind)
        while len(self.by_kind) > MAX_ACCOUNTS:
            self.by_kind.popitem(last=False)
        return account


_ACCOUNTS: WeakKeyDictionary[nn.Module, _Accounts] = WeakKeyDictionary()


def build_seconds(model: nn.Module) -> float:
    """What compiling a model's attack is expected to take."""
    layers = sum(any(True for _ in module.parameters(recurse=False)) for module in model.modules())
    return BUILD_SECONDS + BUILD_SECONDS_PER_LAYER * layers


def settled(engine: str, device: torch.device) -> str:
    """``engine`` with "auto" replaced by "eager" off a GPU, for what has to give the same bits in every run."""
    return "eager" if engine == "auto" and device.type != "cuda" else engine


class Patient(Compiled[S]):
    """The compiled engine where it was not asked for: it builds late, never warns, and gives way if it is slower."""

    @classmethod
    def suits(cls, steps: Steps[S]) -> bool:
        """Whether it may come to serve an attack; not a model that its owner compiled, nor where bits matter."""
        return (
            steps.x.device.type == "cpu"
            and isinstance(steps.network.model, nn.Module)
            and not hasattr(steps.network.model, "_orig_mod")
            and not steps.stops_early
            and steps.eager_only is None
            and not torch.are_deterministic_algorithms_enabled()
        )

    def __init__(self, steps: Steps[S], check: str) -> None:
        super().__init__(steps, check, requested=False)
        self._accounts = _ACCOUNTS.setdefault(self.model, _Accounts())
        self._kind = self._settings()

    def serve(self, spans: Sequence[Span], results: Results) -> bool:
        account = self._account(count(spans))
        # Until then nothing looks at the model, so an eager attack takes no longer than it would have.
        if account.closed or not (self._accounts.built or self._is_due(account)):
            return False
        begin, passes = clock(), account.passes
        served = super().serve(spans, results)
        if served and account.passes == passes:  # no build among it
            self._judge(account, clock() - begin)
        elif not served and self._reason is not None:
            account.closed = True
            _LOG.info("engine 'auto' stays 'eager' for %s: %s", type(self.model).__name__, self._reason)
        return served

    def ran_eagerly(self, spans: Sequence[Span], seconds: float) -> None:
        account = self._account(count(spans))
        account.passes += 1
        account.seconds += seconds
        account.fastest = min(account.fastest, seconds)

    def size_for(self, n: int, family: Family[CompiledSteps]) -> int | None:
        if n in family.programs or self._is_due(self._account(n)):
            return n
        # A smaller batch than others that came: as in Family.size_for.
        larger = min((size for size in family.programs if n < size <= 2 * n), default=None)
        return None if self.network.state.mixes_samples else larger

    def _build(self, size: int, spans: Sequence[Span], family: Family[CompiledSteps]) -> str | None:
        account = self._account(size)
        _LOG.info(
            "engine 'auto': eager attacks on %s took %.0f s for batches of %d; compiling them, about %.0f s "
            "(engine='eager' turns this off)",
            type(self.model).__name__, account.seconds, size, self._expected(),
        )  # fmt: skip
        account.passes, account.seconds, account.trials = 0, 0.0, 0  # another build has to be earned anew
        self._accounts.built = True
        return super()._build(size, spans, family)

    def _account(self, n: int) -> Account:
        return self._accounts.of((self._kind, n))

    def _is_due(self, account: Account) -> bool:
        return account.passes >= LEAST_PASSES and account.seconds >= EAGER_PER_BUILD * self._expected()

    def _expected(self) -> float:
        if self._accounts.expected is None:
            self._accounts.expected = build_seconds(self.model)
        return self._accounts.expected

    def _judge(self, account: Account, seconds: float) -> None:
        """Give way where the program takes as long as the eager passes did."""
        account.trials += 1
        account.fastest_trial = min(account.fastest_trial, seconds)
        if account.trials == TRIALS and account.fastest_trial >= account.fastest:
            account.closed = True
            _LOG.info(
                "engine 'auto' goes back to 'eager' for %s: a compiled pass takes %.3g s, an eager one %.3g s",
                type(self.model).__name__, account.fastest_trial, account.fastest,
            )  # fmt: skip

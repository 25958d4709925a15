"""The contestants that every op's benchmark has: fairtat's own, and the floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from torch import Tensor

from fairtat import backends
from harness.case import Contestant, Device, Entrant, Unavailable

T = TypeVar("T")
FAIRTAT, REFERENCE = "fairtat", "fairtat, reference"
BASELINE: Mapping[Device, str] = {"cpu": FAIRTAT, "cuda": REFERENCE}


def op_contestants(op: Callable[[T, str], Entrant]) -> tuple[Contestant[T], ...]:
    """fairtat's own: the public op on a CPU, on a GPU each backend's kernel, and the definition in PyTorch."""

    def kernel(backend: str, inputs: T) -> Entrant:
        state = backends.status()[backend]
        if not state.available:
            raise Unavailable(state.reason)
        return op(inputs, backend)

    def of(backend: str, rehearsal: bool) -> Contestant[T]:
        return Contestant(
            f"fairtat, {backend}", "fairtat", partial(kernel, backend), on=("cuda",), graph=True,
            when=lambda settings, inputs: settings.rehearsal == rehearsal,
        )  # fmt: skip

    return (
        Contestant(FAIRTAT, "fairtat", lambda inputs: op(inputs, "auto"), on=("cpu",)),
        *(of("cuda", False), of("triton", False), of("cpu", True)),
        # Launched op by op, as it runs where it is a fallback.
        Contestant(REFERENCE, "eager", lambda inputs: op(inputs, "reference"), on=("cuda",)),
    )


def floor(make: Callable[[T], Tensor]) -> Contestant[T]:
    """PyTorch's copy between two buffers that stay: ``make`` gives one that is half of the bytes to be moved."""

    def copy(inputs: T) -> Entrant:
        source = make(inputs)
        destination = source.clone()
        return Entrant(lambda: destination.copy_(source))

    return Contestant("copy of as many bytes", "floor", copy, graph=True)

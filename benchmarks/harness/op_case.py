"""A case of one op: contestants are stated once, and wrapped in CUDA graphs over rotating inputs on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from harness import gpu
from harness.case import Case, Contestant, Device, Entrant, Role, Settings, Target, Verify

T = TypeVar("T")
FAIRTAT, KERNEL, COPY = "fairtat", "fairtat kernel", "copy of as many bytes"


@dataclass(frozen=True)
class Rival(Generic[T]):
    """What fairtat's op is compared with, made for one set of inputs."""

    name: str
    role: Role
    make: Callable[[T], Entrant]
    note: str = ""
    on: tuple[Device, ...] = ("cpu", "cuda")
    graph: bool = True  # False if it reads from the GPU, and so cannot be captured


def op_case(
    settings: Settings,
    inputs: Callable[[str, int], T],
    *,
    op: Callable[[T, str], Entrant],
    kernel: Callable[[T], Entrant],
    rivals: Sequence[Rival[T]],
    verify: Callable[[T], Verify],
    rule: str,
    bytes_moved: Callable[[T], int] | None = None,
    cold: bool | None = None,
    targets: tuple[Target, ...] = (),
    observe: Callable[[Mapping[str, Entrant]], dict[str, Any]] | None = None,
) -> Case:
    """The case of one op on the device of ``settings``.

    Args:
        inputs: makes a set of inputs on a device from a seed.
        op: the public op on a backend; ``kernel`` calls the kernel below the dispatcher, on a CPU only.
        verify: made from the first set, whose answer all contestants give.
        bytes_moved: what any implementation must read and write; makes the bandwidth known and a rotation possible.
        cold: on a GPU, whether inputs rotate through more than the L2 cache; None rotates from 8 MiB on.
    """
    device: Device = "cuda" if settings.rehearsal else settings.device  # a rehearsal has a GPU's contestants
    first = inputs(settings.device, 0)
    moved = None if bytes_moved is None else bytes_moved(first)
    cold = moved is not None and moved >= 8 << 20 if cold is None else cold and moved is not None
    sets = [first]
    if device == "cuda" and cold and moved is not None:
        sets = gpu.rotation(lambda seed: inputs(settings.device, seed), moved, settings=settings)
    calls = gpu.CALLS if moved is None else gpu.calls_for(moved)

    def contestant(rival: Rival[T]) -> Contestant:
        def build() -> Entrant:
            if device == "cpu" or not rival.graph:
                return rival.make(first)
            return gpu.in_graph([rival.make(one) for one in sets], settings.device, calls)

        return Contestant(rival.name, rival.role, build, rival.note)

    if device == "cpu":
        ours = [
            Contestant(FAIRTAT, "fairtat", lambda: op(first, "auto")),
            Contestant(KERNEL, "fairtat", lambda: kernel(first)),
        ]
    else:
        ours = gpu.kernel_contestants(settings, lambda backend: [op(one, backend) for one in sets], calls)
    return Case(
        contestants=(*ours, *(contestant(rival) for rival in rivals if device in rival.on)),
        baseline=FAIRTAT if device == "cpu" else gpu.REFERENCE,
        verify=verify(first),
        rule=rule,
        bytes_moved=moved,
        targets=targets,
        observe=observe,
    )

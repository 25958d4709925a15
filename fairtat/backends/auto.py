"""The order in which ``backend="auto"`` tries the backends.

On a CPU the compiled core goes first. For GPU tensors ``auto.json`` holds an order for each op, with the GPU on which
it was measured; ``benchmarks/gpu_check.py`` writes it. Until then the order follows the machine code: the backend whose
kernels a model puts nearer to a copy's bandwidth goes first (docs/kernels.md). It is read once, with the package:
choosing stays a lookup that torch.compile can trace.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairtat.reference import OPS

PATH = Path(__file__).with_name("auto.json")
GPU_BACKENDS = ("cuda", "triton", "reference")
UNMEASURED = "by their machine code, not measured yet on a GPU"

Order = Mapping[str, tuple[str, ...]]  # op -> backends, fastest first


@dataclass(frozen=True)
class Measured:
    """On what the order was found."""

    device: str
    date: str
    commit: str

    def __str__(self) -> str:
        return f"measured on {self.device}, {self.date}, at {self.commit}"


def parse(table: Mapping[str, Any]) -> tuple[Order, Measured | None]:
    """The order for each op, and where it comes from (None: not measured).

    An op that the table does not name yet, because it is newer, has the order of `GPU_BACKENDS`.

    Raises:
        ValueError: an op is unknown, or its backends are not those that serve a GPU tensor, each once.
    """
    unknown = sorted(set(table["order"]) - set(OPS))
    if unknown:
        raise ValueError(f"the order must name the ops {', '.join(sorted(OPS))}, got {', '.join(unknown)}")
    order = {op: tuple(table["order"].get(op, GPU_BACKENDS)) for op in OPS}
    for op, names in order.items():
        if sorted(names) != sorted(GPU_BACKENDS):
            raise ValueError(f"the order of {op} must name {', '.join(GPU_BACKENDS)} once each, got {names}")
    measured = table["measured"]
    return order, None if measured is None else Measured(**measured)


GPU_ORDER, MEASURED = parse(json.loads(PATH.read_text(encoding="utf-8")))
ORDER: dict[str, Order] = {"cpu": dict.fromkeys(OPS, ("cpu", "reference")), "cuda": GPU_ORDER}  # by type of device

"""Predicts from machine code which share of a copy's bandwidth a kernel reaches.

For one round of a warp (32 threads, each on its way through the loop or the kernel) the clocks of a multiprocessor:

    memory   bytes moved / (copy bandwidth of the chip / multiprocessors / clock)
    issue    instructions / 4, the schedulers of a multiprocessor
    units    of the busiest unit: instructions x 32 / its lanes
    latency  the life of a warp / warps that a multiprocessor holds (Little's law); a life is the latency of the loaded
             memory, once a phase, and 4 clocks for each instruction

    round = (memory^4 + issue^4 + units^4 + latency^4)^(1/4)

so that a kernel near two limits is predicted below either: a limit at 60% of the memory's time costs 3%. A call takes
its rounds and one life, in which the chip fills and empties; a copy of the same bytes takes the memory's time and one
latency. Their ratio is the share. The chips' figures are from data sheets, a copy is taken to reach 92% of the peak,
and the latencies under load are assumptions; what warps wait for each other at a barrier is left out. The model orders
kernels and names their limits; it measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from machine_code.sass import Instruction, Kernel

WARP = 32
SCHEDULERS = 4
COPY = 0.92  # of the peak
ISSUE_INTERVAL = 4  # clocks between dependent instructions of a warp
SHARPNESS = 4


@dataclass(frozen=True)
class Chip:
    """What one architecture's data-centre or desktop chip offers."""

    name: str
    multiprocessors: int
    clock: float  # Hz
    bandwidth: float  # bytes/s, peak
    latency: float  # s, of memory under load
    warps: int  # that a multiprocessor holds
    shared: int  # bytes of a multiprocessor that blocks share
    lanes: dict[str, int]  # of each unit


def _lanes(float32: int, float64: int) -> dict[str, int]:
    return {"float32": float32, "integer": 64, "special": 16, "float64": float64, "load/store": 32}


CHIPS = {
    80: Chip("A100", 108, 1.41e9, 2.039e12, 600e-9, 64, 164 * 1024, _lanes(64, 32)),
    90: Chip("H100", 132, 1.755e9, 3.35e12, 700e-9, 64, 228 * 1024, _lanes(128, 64)),
    100: Chip("B200", 148, 1.85e9, 8.0e12, 800e-9, 64, 228 * 1024, _lanes(128, 64)),
    120: Chip("RTX 5090", 170, 2.41e9, 1.792e12, 700e-9, 48, 100 * 1024, _lanes(128, 2)),
}

UNITS = {
    "float32": "FADD FMUL FFMA FADD2 FMUL2 FFMA2",
    "special": "MUFU I2F F2I F2F FCHK POPC FLO FRND",
    "float64": "DADD DMUL DFMA DSETP DMNMX",
    "load/store": "LDG STG LDS STS LD ST SHFL ATOMS ATOMG RED REDG ATOM REDUX LDL STL LDSM STSM",
}
UNIT_OF = {stem: unit for unit, stems in UNITS.items() for stem in stems.split()}
# They take an issue slot and no lanes of the units above: uniform registers, constants, branches.
NO_UNIT = "BRA BRX EXIT RET CALL BSSY BSYNC NOP BAR WARPSYNC S2R S2UR CS2R LDC LDCU ULDC R2UR DEPBAR"
SCHEDULED = frozenset(NO_UNIT.split())


def unit_of(instruction: Instruction) -> str | None:
    """The unit that runs an instruction; integers, comparisons and moves share one."""
    stem = instruction.stem
    if stem in SCHEDULED or (stem.startswith("U") and stem not in UNIT_OF):
        return None
    return UNIT_OF.get(stem, "integer")


def resident_warps(kernel: Kernel, threads: int, shared: int = 0) -> int:
    """Warps of a multiprocessor that registers, shared memory and the blocks' number leave room for."""
    chip = CHIPS[kernel.arch]
    warps = -(-threads // WARP)
    registers = -(-kernel.registers * WARP // 256) * 256 * warps  # a warp takes them by 256
    memory = kernel.shared + shared + 1024  # the system takes 1 KiB of each block
    blocks = min(chip.warps // warps, 65536 // registers, chip.shared // memory, 24 if kernel.arch == 120 else 32)
    return blocks * warps


@dataclass(frozen=True)
class Prediction:
    """What the model says of one kernel in one variant."""

    instructions: float  # of a thread for each element
    warps: int  # that a multiprocessor holds
    in_flight: int  # bytes requested of a multiprocessor at once
    needed: int  # bytes in flight that keep the memory busy
    limits: dict[str, float]  # clocks of a round
    share: float  # of a copy's bandwidth

    @property
    def limit(self) -> str:
        """What takes most of a round, and what comes next: `memory, integer 40%` of the time of memory."""
        first, second = sorted(self.limits, key=lambda name: self.limits[name], reverse=True)[:2]
        return f"{first}, {second} {self.limits[second] / self.limits[first]:.0%}"


def predict(
    kernel: Kernel,
    way: Sequence[Instruction],
    *,
    elements: float,  # that a thread makes on the way
    moved: float,  # bytes read and written for each element
    requested: int,  # bytes that a thread asks of memory at once
    total: int,  # elements of the call
    threads: int,  # of a block
    shared: int = 0,  # dynamic bytes of a block
    phases: int = 1,  # times that a thread waits for memory
) -> Prediction:
    """The model at the top of this file."""
    chip = CHIPS[kernel.arch]
    warps = resident_warps(kernel, threads, shared)
    bandwidth = COPY * chip.bandwidth / chip.multiprocessors / chip.clock  # bytes a clock of a multiprocessor
    latency = chip.latency * chip.clock
    life = phases * latency + ISSUE_INTERVAL * len(way)
    busy = Counter(unit_of(i) for i in way)
    units = {unit: busy[unit] * WARP / lanes for unit, lanes in chip.lanes.items()}
    busiest = max(units, key=lambda name: units[name])
    limits = {
        "memory": WARP * elements * moved / bandwidth,
        "issue": len(way) / SCHEDULERS,
        busiest: units[busiest],
        "latency": life / warps,
    }
    clocks = sum(value**SHARPNESS for value in limits.values()) ** (1 / SHARPNESS)
    rounds = total / (WARP * elements * chip.multiprocessors)
    return Prediction(
        instructions=len(way) / elements,
        warps=warps,
        in_flight=requested * WARP * warps,
        needed=round(bandwidth * latency),
        limits=limits,
        share=(rounds * limits["memory"] + latency) / (rounds * clocks + life),
    )

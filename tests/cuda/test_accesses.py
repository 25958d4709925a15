"""How the CUDA kernels use memory, from a record of every access of the emulated threads: coalesced, without bank
conflicts and without races.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from accesses import Accesses, Recorder, bank_conflicts, races, sectors, within
from emulated_cuda import EMULATOR, RECORD, as_cpp, use
from op_calls import CALLS
from torch import Tensor

from fairtat.backends import OPS, kernel

LOW = (torch.float32, torch.bfloat16, torch.float16)
Record = Callable[..., tuple[Accesses, tuple[Tensor, ...]]]


@pytest.fixture
def record(recorded_core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Calls an op; its accesses and its answers."""
    use(recorded_core, monkeypatch)
    recorder = Recorder.of(recorded_core)

    def call(op: str, *arguments: Any) -> tuple[Accesses, tuple[Tensor, ...]]:
        answers: list[Any] = []
        found = recorder(lambda: answers.append(kernel(op, "cuda")(*arguments)))
        (answer,) = answers
        return found, answer if isinstance(answer, tuple) else (answer,)

    return call


def assert_coalesced(found: Accesses, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None:
            own = within(found, tensor)
            assert len(own) > 0, name
            moved, fewest = sectors(own)
            assert moved == fewest, name


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_moves_whole_sectors(record: Record, norm: str, layout: torch.memory_format) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 32, 32, generator=g).contiguous(memory_format=layout)
    mean, std, zero = torch.rand(3), torch.rand(3) + 0.1, torch.zeros(3, dtype=torch.int64)
    for dtype, input_dtype in product(LOW, (None, *LOW)):
        x_adv, grad = x.clone(), torch.randn(x.shape, generator=g).contiguous(memory_format=layout).to(dtype)
        model_input = None if input_dtype is None else torch.empty_like(x, dtype=input_dtype)
        statistics = (None, None) if model_input is None else (mean, std)
        options = (None, 0.1, None, 0.03, True, norm, 0.0, 1.0, model_input, *statistics, zero)
        found, _ = record("pgd_step", x_adv, grad, x, *options)
        assert_coalesced(found, x_adv=x_adv, grad=grad, x=x, model_input=model_input)


@pytest.mark.slow
def test_blocks_that_share_a_step_move_whole_sectors(record: Record) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 64, 64, generator=g)  # 12,288 elements: one block and a half
    mean, std, zero = torch.rand(3), torch.rand(3) + 0.1, torch.zeros(2, dtype=torch.int64)
    for dtype, input_dtype in product(LOW, (None, torch.bfloat16)):
        x_adv, grad = x.clone(), torch.randn(x.shape, generator=g).to(dtype)
        model_input = None if input_dtype is None else torch.empty_like(x, dtype=input_dtype)
        statistics = (None, None) if model_input is None else (mean, std)
        options = (None, 0.1, None, 0.03, True, "l2", 0.0, 1.0, model_input, *statistics, zero)
        found, _ = record("pgd_step", x_adv, grad, x, *options)
        assert_coalesced(found, x_adv=x_adv, grad=grad, x=x, model_input=model_input)
        assert races(found) == 0
        assert bank_conflicts(found) == 1


@pytest.mark.slow
@pytest.mark.parametrize("init", ["uniform", "normal", "zero"])
def test_a_start_moves_whole_sectors(record: Record, init: str) -> None:
    floats = torch.rand(3, 3, 32, 32)
    statistics = (torch.rand(3), torch.rand(3) + 0.1)
    for x, input_dtype in product((floats, (floats * 255).byte()), (None, *LOW)):
        out, pixels = torch.empty_like(floats), None if x is floats else torch.empty_like(floats)
        model_input = None if input_dtype is None else torch.empty_like(floats, dtype=input_dtype)
        options = (None, 0.1, torch.arange(3), 5, 0, init, "linf", 0.0, 1.0, pixels, model_input)
        found, _ = record("pgd_init", out, x, *options, *((None, None) if model_input is None else statistics))
        assert_coalesced(found, out=out, x=x, pixels=pixels, model_input=model_input)


@pytest.mark.slow
def test_a_start_in_channels_last_asks_for_a_sector_twice(record: Record) -> None:
    # Three vectors in a row for each thread: half a sector in each access, and the other half in the next.
    x = torch.rand(3, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    found, _ = record("pgd_init", out, x, None, 0.1, torch.arange(3), 5, 0, "uniform", "linf", 0.0, 1.0)
    for tensor in (x, out):
        moved, fewest = sectors(within(found, tensor))
        assert moved <= 2 * fewest


@pytest.mark.slow
@pytest.mark.parametrize("classes", [128, 1008, 1024])
def test_rows_of_logits_move_whole_sectors(record: Record, classes: int) -> None:
    g = torch.Generator().manual_seed(0)
    label = torch.randint(classes, (9,), generator=g)
    for dtype in LOW:
        z = torch.randn(9, classes, generator=g).to(dtype)
        found, (_, dlogits, *_) = record("logit_loss", z, label, "ce", None, None)
        assert_coalesced(found, z=z, dlogits=dlogits)
        buffer = torch.zeros(8 + classes, classes, dtype=torch.int64)
        found, _ = record("logit_stats", buffer, z, label, None)
        assert_coalesced(found, z=z)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_nothing_races_and_no_bank_waits(record: Record, op: str) -> None:
    for name, arguments in CALLS[op]().items():
        found, _ = record(op, *(a.clone() if isinstance(a, Tensor) else a for a in arguments))
        assert races(found) == 0, name
        assert bank_conflicts(found) == 1, name


# Each with the fault that its name says.
FAULTS = """
#include <cuda_runtime.h>
__global__ void no_barrier(float* a) {
  __shared__ float room[64];
  room[threadIdx.x] = a[threadIdx.x];
  a[threadIdx.x] = room[63 - threadIdx.x];
}
__global__ void barrier(float* a) {
  __shared__ float room[64];
  room[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
  a[threadIdx.x] = room[63 - threadIdx.x];
}
__global__ void blocks_meet(float* a) { a[threadIdx.x] = 1.0f; }
__global__ void far_apart(float* a) { a[threadIdx.x * 8] = 1.0f; }
__global__ void one_bank(float* a) {
  __shared__ float room[64 * 32];
  room[threadIdx.x * 32] = a[threadIdx.x];
  __syncthreads();
  a[threadIdx.x] = room[(63 - threadIdx.x) * 32];
}
__global__ void added(unsigned* a) { atomicAdd(a, 1u); }
__global__ void added_and_read(unsigned* a) { if (threadIdx.x == 0) a[1] = a[0]; else atomicAdd(a, 1u); }
extern "C" void run(int which, float* a) {
  unsigned* u = reinterpret_cast<unsigned*>(a);
  if (which == 0) no_barrier<<<1, 64>>>(a);
  if (which == 1) barrier<<<1, 64>>>(a);
  if (which == 2) blocks_meet<<<2, 64>>>(a);
  if (which == 3) far_apart<<<1, 64>>>(a);
  if (which == 4) one_bank<<<1, 64>>>(a);
  if (which == 5) added<<<2, 64>>>(u);
  if (which == 6) added_and_read<<<1, 64>>>(u);
}
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Accesses, Tensor]]:
    folder: Path = tmp_path_factory.mktemp("faults")
    (folder / "faults.cpp").write_text(as_cpp(FAULTS))
    flags = ["-std=c++17", "-O1", "-fPIC", f"-I{EMULATOR}", "-Wno-unknown-pragmas", "-c"]
    for step in (
        [*flags, *RECORD, "faults.cpp"],
        [*flags, str(EMULATOR / "recorder.cpp")],
        ["-shared", "-o", "faults.so", "faults.o", "recorder.o"],
    ):
        subprocess.run(["g++", *step], cwd=folder, check=True)
    library, recorder = ctypes.CDLL(str(folder / "faults.so")), Recorder(str(folder / "faults.so"))

    def run(which: int) -> tuple[Accesses, Tensor]:
        a = torch.zeros(1024)
        return recorder(lambda: library.run(which, ctypes.c_void_p(a.data_ptr()))), a

    return run


@pytest.mark.parametrize(
    ("which", "racing", "conflicts", "waste"),
    [
        (0, True, 1, 1),
        (1, False, 1, 1),
        (2, True, 1, 1),
        (3, False, 1, 8),
        (4, False, 32, 1),
        (5, False, 1, 1),
        (6, True, 1, 1),
    ],
    ids=["no barrier", "barrier", "blocks meet", "far apart", "one bank", "added", "added and read"],
)
def test_planted_faults_are_found(
    faulty: Callable[[int], tuple[Accesses, Tensor]], which: int, racing: bool, conflicts: int, waste: int
) -> None:
    found, a = faulty(which)
    assert (races(found) > 0) == racing
    assert bank_conflicts(found) == conflicts
    moved, fewest = sectors(within(found, a))
    assert moved == waste * fewest

"""An op ``toy_scale``, y = factor * x, as a contributor would add it: its new files, and what the others get."""

from __future__ import annotations

from pathlib import Path

NEW = {
    "fairtat/reference/toy_scale.py": '''
"""toy_scale: every number times one factor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.reference.definition import taking


class ToyScaleArgs(NamedTuple):
    """What a scaling takes."""

    x: Tensor  # any shape, contiguous
    factor: float


def empty_scaled(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


@taking(ToyScaleArgs)
@torch.no_grad()
def toy_scale(a: ToyScaleArgs) -> Tensor:
    return a.x * a.factor
''',
    "csrc/math/toy_scale.h": """
// y = factor * x.
#pragma once

#include "math/common.h"

namespace fairtat {
namespace FAIRTAT_ISA {

FAIRTAT_FN float scaled(float x, float factor) { return factor * x; }

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
""",
    "csrc/cpu/toy_scale.cpp": """
#include "math/toy_scale.h"

#include "cpu/ops.h"

namespace fairtat {
namespace FAIRTAT_ISA {

void toy_scale(const ToyScaleArgs& a) {
  for (int64_t i = 0; i < a.n; ++i) a.y[i] = scaled(a.x[i], a.factor);
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
""",
    "csrc/cuda/toy_scale.cu": """
#include "cuda/launch.h"
#include "math/toy_scale.h"

namespace fairtat {
namespace cuda {
namespace {

__global__ void toy_scale_kernel(ToyScaleArgs a) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.n; i += stride) {
    a.y[i] = scaled(a.x[i], a.factor);
  }
}

}  // namespace

void toy_scale(const ToyScaleArgs& a, Place place) {
  if (a.n == 0) return;
  const DeviceGuard guard(place.device);
  toy_scale_kernel<<<grid_for(a.n), kThreads, 0, static_cast<cudaStream_t>(place.stream)>>>(a);
  check(cudaGetLastError(), "toy_scale");
}

}  // namespace cuda
}  // namespace fairtat
""",
    "kernels/toy_scale.py": '''
"""toy_scale: every number times one factor."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["n"])
def toy_scale_kernel(x, factor, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, i < n, 0.0) * factor, i < n)
''',
    "fairtat/ops/toy_scale.py": '''
"""toy_scale: every number times one factor."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat import backends
from fairtat.checks import check_dtype, check_tensor
from fairtat.ops._library import register_op


def toy_scale(x: Tensor, factor: float, *, backend: str = "auto") -> Tensor:
    """Scale: ``y = factor * x``."""
    check_tensor("x", x)
    check_dtype("x", x, (torch.float32, torch.float64))
    chosen = backends.choose("toy_scale", x.device, x.dtype, backend)
    scaled: Tensor = _op(x.contiguous(), factor, chosen)
    return scaled


_op = register_op("toy_scale")
''',
    "tests/ops/test_toy_scale.py": """
from __future__ import annotations

import numpy as np
import pytest
import torch

from fairtat.ops import toy_scale


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 5, 11)])
def test_equals_numpy(backend: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    y = toy_scale(torch.from_numpy(x), 0.75, backend=backend)
    np.testing.assert_array_equal(y.numpy(), np.float32(0.75) * x)


def test_bad_input_is_named() -> None:
    with pytest.raises(TypeError, match="x must be float32 or float64, got int64"):
        toy_scale(torch.arange(3), 2.0)
""",
    "benchmarks/ops/bench_toy_scale.py": '''
"""toy_scale: every number times one factor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from harness.case import Benchmark, Case, Contestant, Entrant, Settings, answers
from harness.equality import equal_to
from harness.op import BASELINE, floor, op_contestants
from torch import Tensor

from fairtat import ops


def op(x: Tensor, backend: str) -> Entrant:
    return answers("y", partial(ops.toy_scale, x, 0.75, backend=backend))


def inputs(settings: Settings, seed: int) -> Tensor:
    return torch.rand(1 << 16, generator=torch.Generator().manual_seed(seed)).to(settings.place)


BENCHMARK = Benchmark(
    name="toy_scale",
    question="How fast is a scaling?",
    contestants=(
        *op_contestants(op),
        floor(lambda x: x),
        Contestant("PyTorch", "eager", lambda x: answers("y", lambda: x * 0.75), graph=True),
    ),
    baseline=BASELINE,
    verify=lambda x: equal_to({"y": x * 0.75}),
    rule="equal to the last bit",
    cases=(Case("65,536", inputs, quick=True), Case("65,536", inputs, quick=True, device="cuda")),
)


def test_toy_scale(case: Case[Tensor], compare: Callable[[Case[Tensor]], None]) -> None:
    compare(case)
''',
}

_ARGUMENTS = "from fairtat.reference.toy_scale import ToyScaleArgs, empty_scaled\n"

# file -> (the text that it stands before, or None for the file's end; what is inserted)
EDITED: dict[str, list[tuple[str | None, str]]] = {
    "fairtat/reference/__init__.py": [
        ("\nDEFINITIONS = (", "from fairtat.reference.toy_scale import ToyScaleArgs, empty_scaled, toy_scale\n"),
        (")\n\nOPS:", "    Definition(toy_scale, ToyScaleArgs, makes=empty_scaled),\n"),
    ],
    "csrc/ops.def": [
        (
            "// Between an image in channels-last order",
            "ARGS(ToyScaleArgs)\nFIELD(const float*, x)  // (n,)\nFIELD(int64_t, n)\nFIELD(float, factor)\n"
            "FIELD(float*, y)  // (n,)\nEND\nOP(toy_scale, ToyScaleArgs, void)\n\n",
        ),
    ],
    "fairtat/backends/native.py": [
        ("\n\ndef _load()", _ARGUMENTS),
        (
            None,
            "\n\n@taking(ToyScaleArgs)\ndef toy_scale(a: ToyScaleArgs) -> Tensor:\n    y = empty_scaled(a.x)\n"
            "    core().toy_scale(a.x.data_ptr(), a.x.numel(), a.factor, y.data_ptr(), *_place(a.x))\n    return y\n",
        ),
    ],
    "fairtat/backends/triton.py": [
        ("from fairtat.reference.class_stats import", "from fairtat.kernels import toy_scale as scales\n"),
        ("\n# Elements of images, samples", _ARGUMENTS),
        (
            None,
            "\n\n@taking(ToyScaleArgs)\ndef toy_scale(a: ToyScaleArgs) -> Tensor:\n    y = empty_scaled(a.x)\n"
            "    n = a.x.numel()\n    if n > 0:\n        with on_device(a.x):\n"
            "            scales.toy_scale_kernel[(blocks(n, ELEMENTS),)](\n"
            "                a.x, a.factor, y, n, BLOCK=ELEMENTS, **options(ELEMENT_THREADS)\n            )\n"
            "    return y\n",
        ),
    ],
    "fairtat/ops/__init__.py": [
        ("\n__all__ = [", "from fairtat.ops.toy_scale import toy_scale\n"),
        ("]\n", '    "toy_scale",\n'),
    ],
    "fairtat/cli/selftest.py": [
        (
            "_TESTS: dict[str, Test] = {",
            "def _toy_scale(backend: str, device: torch.device) -> Iterator[Case]:\n"
            "    y = ops.toy_scale(torch.tensor([2.0, -3.0], device=device), 0.5, backend=backend)\n"
            '    yield "known scaling", y.tolist() == [1.0, -1.5]\n\n\n',
        ),
        ('"pgd_init": _pgd_init,', '"toy_scale": _toy_scale,\n    '),
    ],
    "tests/shared/op_calls.py": [
        ("CALLS: dict[str", 'def toy_scale() -> Calls:\n    return {"toy_scale": (numbers(0), 0.75)}\n\n\n'),
        ("pgd_init, pgd_step, logit_loss, sample_targets", "toy_scale, "),
        (
            '"pgd_init": (start,',
            '"toy_scale": (lambda x: ops.toy_scale(x, 0.5, backend=backend), lambda n: (images(n),)),\n        ',
        ),
    ],
    "tests/hostile/test_fuzz_ops.py": [
        (
            None,
            "\n\n@fuzz\n@given(data=st.data())\ndef test_toy_scale(data: st.DataObject) -> None:\n    d = Draw(data)\n"
            "    x, factor = d.tensor(d.draw(shapes)), d.draw(floats)\n"
            "    same_bits(*d.both(lambda backend: fairtat.ops.toy_scale(x, factor, backend=backend)))\n",
        ),
    ],
    "docs/api/ops.md": [(None, "\n::: fairtat.ops.toy_scale\n")],
}


def add_file(tree: Path, file: str) -> None:
    (tree / file).write_text(NEW[file].lstrip(), encoding="utf-8")


def edit_file(tree: Path, file: str) -> None:
    text = (tree / file).read_text(encoding="utf-8")
    for place, inserted in EDITED[file]:
        if place is None:
            text += inserted
            continue
        assert text.count(place) == 1, (file, place)
        text = text.replace(place, inserted + place)
    (tree / file).write_text(text, encoding="utf-8")

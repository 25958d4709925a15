"""The division by a channel's std through its reciprocal has the bits of the division."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = """
#include "math/pgd_step.h"
using namespace fairtat::device;
extern "C" void divide(const float* value, const float* std, float* quotient, bool* safe, long n) {
  for (long i = 0; i < n; ++i) {
    const Statistics by = statistics_of(0.0f, std[i]);
    safe[i] = division_is_safe(value[i], by);
    quotient[i] = divide_safely(value[i], by);
  }
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("division")
    (folder / "division.cpp").write_text(SOURCE)
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["g++", *flags, str(folder / "division.cpp"), "-o", str(folder / "division.so")], check=True)
    return ctypes.CDLL(str(folder / "division.so"))


def floats(rng: np.random.Generator, n: int, exponents: tuple[int, int]) -> np.ndarray:
    """Of both signs; a third of the mantissas lie at the ends of their range, where rounding is hardest."""
    mantissa = rng.integers(0, 2**23, n)
    ends = rng.integers(0, 3, n) == 0
    mantissa[ends] = (rng.integers(-8, 8, ends.sum())) % 2**23
    bits = mantissa | (rng.integers(exponents[0] + 127, exponents[1] + 127, n) << 23) | (rng.integers(0, 2, n) << 31)
    return bits.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize(("value", "std"), [((-12, 8), (-6, 3)), ((-60, 60), (-30, 30))], ids=["images", "any"])
def test_a_safe_division_is_the_division(library: ctypes.CDLL, value: tuple[int, int], std: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    n = 400_000
    a, b = floats(rng, n, value), floats(rng, n, std)
    a[: n // 4] = (b[: n // 4] * rng.integers(1, 2**12, n // 4)).astype(np.float32)  # quotients near a whole number
    quotient, safe = np.empty(n, np.float32), np.empty(n, np.bool_)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (a, b, quotient, safe))
    library.divide(*pointers, ctypes.c_long(n))
    assert safe.mean() > 0.9
    assert np.array_equal(quotient[safe].view(np.uint32), (a / b)[safe].view(np.uint32))


def test_what_could_round_otherwise_is_not_safe(library: ctypes.CDLL) -> None:
    values = np.array([0.0, -0.0, 1e-45, 1e-30, 1e30, np.inf, np.nan, 1.0, 1.0, 1.0, 1.0, 1.0], np.float32)
    stds = np.array([1, 1, 1, 1, 1, 1, 1, 0.0, 1e-42, 1e30, np.inf, np.nan], np.float32)
    quotient, safe = np.empty_like(values), np.empty(len(values), np.bool_)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (values, stds, quotient, safe))
    library.divide(*pointers, ctypes.c_long(len(values)))
    assert not safe.any()

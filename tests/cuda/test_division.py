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
extern "C" void divide(
    const float* pixel, const float* mean, const float* std, float bound, float* quotient, bool* safe, long n) {
  for (long i = 0; i < n; ++i) {
    const Statistics by = statistics_of(mean[i], std[i], -bound, bound);
    const float value = pixel[i] - mean[i];
    safe[i] = division_is_safe(value, by);
    quotient[i] = divide_safely(value, by);
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


def divided(
    library: ctypes.CDLL, pixel: np.ndarray, mean: np.ndarray, std: np.ndarray, bound: float
) -> tuple[np.ndarray, np.ndarray]:
    """(Quotients, whether each is safe) of pixels in [-bound, bound]."""
    quotient, safe = np.empty_like(pixel), np.empty(len(pixel), np.bool_)
    given = [np.ascontiguousarray(array).ctypes.data_as(ctypes.c_void_p) for array in (pixel, mean, std)]
    made = [array.ctypes.data_as(ctypes.c_void_p) for array in (quotient, safe)]
    library.divide(*given, ctypes.c_float(bound), *made, ctypes.c_long(len(pixel)))
    return quotient, safe


@pytest.mark.parametrize(
    ("value", "std", "bound"), [((-12, 8), (-6, 3), 256), ((-60, 60), (-30, 30), 2**59)], ids=["images", "any"]
)
def test_a_safe_division_is_the_division(
    library: ctypes.CDLL, value: tuple[int, int], std: tuple[int, int], bound: float
) -> None:
    rng = np.random.default_rng(0)
    n = 400_000
    a, b = floats(rng, n, value), floats(rng, n, std)
    a[: n // 4] = (b[: n // 4] * rng.integers(1, 2**12, n // 4)).astype(np.float32)  # quotients near a whole number
    quotient, safe = divided(library, a, np.zeros_like(a), b, bound)
    assert safe.mean() > 0.9
    assert np.array_equal(quotient[safe].view(np.uint32), (a / b)[safe].view(np.uint32))


def test_differences_from_a_mean_are_all_safe(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    n = 400_000
    mean, std = floats(rng, n, (-20, 3)), floats(rng, n, (-6, 3))
    pixel = floats(rng, n, (-126, 3))
    near = slice(n // 2)  # the mean itself and its neighbors, whose differences are the smallest
    pixel[near] = (mean[near].view(np.int32) + rng.integers(-4, 5, n // 2)).astype(np.int32).view(np.float32)
    pixel[near][::7] *= -1
    quotient, safe = divided(library, pixel, mean, std, 8.0)
    assert safe.all()
    assert (pixel == mean).sum() > n // 40
    assert np.array_equal(quotient.view(np.uint32), ((pixel - mean) / std).view(np.uint32))


def test_what_could_round_otherwise_is_not_safe(library: ctypes.CDLL) -> None:
    values = np.array([0.0, -0.0, 1e-45, 1e-30, np.nan, 1.0, 1.0, 1.0, 1.0, 1.0], np.float32)
    stds = np.array([1, 1, 1, 1, 1, 0.0, 1e-42, 1e30, np.inf, np.nan], np.float32)
    assert not divided(library, values, np.zeros_like(values), stds, 1.0)[1].any()
    for bound, mean in ((np.inf, 0.5), (2.0**61, 0.5), (1.0, 2.0**61), (1.0, np.nan), (np.nan, 0.5)):
        ones = np.ones(3, np.float32)
        assert not divided(library, ones, np.full_like(ones, mean), ones, bound)[1].any()

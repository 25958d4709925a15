"""What the tables of equality share: where kernels run, guarded memory, and what counts as equal."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fairtat.backends import triton as kernels

Case = tuple[str, Callable[[], None]]

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
INF, NAN = float("inf"), float("nan")
BF16 = torch.bfloat16
LOW_PRECISION = (torch.float32, BF16, torch.float16)
IDS = (0, 1, -1, 2**32, 2**32 + 7, -(2**63), 2**63 - 1)
SEEDS = (0, 1, -1, 2**32 + 5, -(2**63), 2**63, 2**64 - 1)
GUARD = 32


def call(kernel: Callable[..., Any], *arguments: Any) -> Any:
    """Run a kernel on DEVICE: tensors go there, and what it wrote comes back."""
    if DEVICE == "cpu":
        return kernel(*arguments)
    there = [a.to(DEVICE) if isinstance(a, Tensor) else a for a in arguments]
    result = kernel(*there)
    for ours, theirs in zip(arguments, there, strict=True):
        if isinstance(ours, Tensor):
            ours.copy_(theirs)
    return result.cpu() if isinstance(result, Tensor) else result and tuple(t.cpu() for t in result)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, generator=generator(seed))


class Guarded:
    """A copy of a tensor, strides and all, between margins that nobody may write to."""

    def __init__(self, t: Tensor) -> None:
        self.storage = torch.full((t.numel() + 2 * GUARD,), 77, dtype=t.dtype)
        self.tensor = self.storage.as_strided(t.shape, t.stride(), GUARD)
        self.tensor.copy_(t)

    def check(self) -> None:
        margins = torch.cat([self.storage[:GUARD], self.storage[-GUARD:]])
        assert bool((margins == 77).all()), "wrote outside the tensor"


def same_bits(actual: Tensor, expected: Tensor) -> None:
    """Equal to the last bit: tells +0 from -0; a NaN equals a NaN."""
    assert actual.dtype == expected.dtype, f"{actual.dtype} is not {expected.dtype}"
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    differ = actual.contiguous().view(integer) != expected.contiguous().view(integer)
    if actual.is_floating_point():
        differ &= ~(actual.isnan() & expected.isnan())
    assert not bool(differ.any()), f"{int(differ.sum())} differ: {actual[differ][:4]} is not {expected[differ][:4]}"


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol, equal_nan=True)


def with_64_bit_indices(check: Callable[[], None]) -> None:
    """As for an image too large to make here."""
    before = kernels.is_wide
    kernels.is_wide = lambda elements: True
    try:
        check()
    finally:
        kernels.is_wide = before

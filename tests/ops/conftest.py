"""What the tests of the ops share: every backend on every instruction set, memory formats, and a Philox oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from layouts import LAYOUTS
from op_calls import BACKENDS
from torch import Tensor

from fairtat import backends

Philox = Callable[[np.ndarray, int], np.ndarray]
ElementWords = Callable[[int, int, Sequence[int], int], np.ndarray]
Layout = Callable[[Tensor], Tensor]
SameBits = Callable[[Tensor, Tensor], None]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend; the compiled one on every instruction set that this processor has."""
    name, _, isa = request.param.partition("-")
    if not isa:
        yield name
        return
    core = backends.native.core()
    before = core.isa()
    core.set_isa(isa)
    yield name
    core.set_isa(before)


@pytest.fixture(autouse=True)
def memory(poisoned_memory: None) -> None:
    """Every test of an op runs so."""


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20241)


@pytest.fixture(params=LAYOUTS, ids=lambda f: f.__name__)
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param


@pytest.fixture(scope="session")
def same_bits() -> SameBits:
    """Equal to the last bit: tells +0 from -0, and a NaN equals itself."""

    def check(actual: Tensor, expected: Tensor) -> None:
        assert actual.dtype == expected.dtype
        integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
        torch.testing.assert_close(
            actual.contiguous().view(integers), expected.contiguous().view(integers), rtol=0, atol=0
        )

    return check


@pytest.fixture(scope="session")
def philox() -> Philox:
    """Philox4x32-10 after Salmon et al. (SC 2011): counters (..., 4) and a 64-bit key -> words (..., 4)."""

    def words(counter: np.ndarray, key: int) -> np.ndarray:
        low = np.uint64(0xFFFFFFFF)
        half = np.uint64(32)
        c = [counter[..., i].astype(np.uint64) for i in range(4)]
        k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
        for _ in range(10):
            first, second = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
            c = [
                (second >> half) ^ c[1] ^ np.uint64(k0),
                second & low,
                (first >> half) ^ c[3] ^ np.uint64(k1),
                first & low,
            ]
            k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
        return np.stack(c, axis=-1)

    return words


@pytest.fixture(scope="session")
def element_words(philox: Philox) -> ElementWords:
    """The words (N, D) of elements 0..D-1: lane e % 4 of counter (e // 4, stream, id low, id high)."""

    def words(elements: int, stream: int, ids: Sequence[int], seed: int) -> np.ndarray:
        groups = -(-elements // 4)
        rows = []
        for sample in ids:
            counter = np.zeros((groups, 4), dtype=np.uint64)
            counter[:, 0] = np.arange(groups)
            counter[:, 1:] = stream, sample & 0xFFFFFFFF, (sample >> 32) & 0xFFFFFFFF
            rows.append(philox(counter, seed % 2**64).reshape(-1)[:elements])
        return np.stack(rows) if rows else np.zeros((0, elements), dtype=np.uint64)

    return words

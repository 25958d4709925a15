"""What emulated CUDA kernels did to memory: requests and their sectors, bank conflicts, and races between barriers.

A request is one instruction of a warp: the accesses of its threads at the same place in the code, as often as each
thread has been there. Memory moves in sectors of 32 bytes; shared memory has 32 banks of 4 bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

WARP, SECTOR, BANKS, WORD = 32, 32, 32, 4
READ, WRITE, ADD = range(3)  # ADD: an atomic one
NUMBERS = ("bytes", "kind", "block", "thread", "barriers", "meetings", "launch", "shared")
ACCESS = np.dtype([("address", "u8"), ("site", "u8"), *((name, "u4") for name in NUMBERS)])
Accesses = np.ndarray[Any, Any]  # of ACCESS


class Recorder:
    """Runs calls with a library that was compiled for recording."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.recorded.restype = self._library.access_bytes.restype = ctypes.c_size_t
        assert self._library.access_bytes() == ACCESS.itemsize

    @classmethod
    def of(cls, core: ModuleType) -> Recorder:
        assert core.__file__ is not None
        return cls(core.__file__)

    def __call__(self, call: Callable[[], object]) -> Accesses:
        """The accesses of a call's kernels, each thread's in its order."""
        self._library.record(1)
        call()
        self._library.record(0)
        first = ctypes.c_void_p()
        count = self._library.recorded(ctypes.byref(first))
        assert count > 0
        assert first.value is not None
        return np.frombuffer(ctypes.string_at(first.value, count * ACCESS.itemsize), ACCESS)


def within(accesses: Accesses, tensor: Tensor) -> Accesses:
    """Those of a tensor's memory."""
    first = tensor.data_ptr()
    address = accesses["address"].astype("i8")
    return accesses[(first <= address) & (address < first + tensor.nbytes)]


def sectors(accesses: Accesses) -> tuple[int, int]:
    """How many sectors the requests move, and the fewest that could hold each request's bytes."""
    request = _requests(accesses)
    assert (accesses["address"] % accesses["bytes"] == 0).all(), "an access of a GPU is aligned"
    moved = _distinct(request, accesses["address"] // SECTOR)
    first, size = accesses["address"], accesses["bytes"]
    held = _distinct(request, first, size)
    bytes_held = np.bincount(held[:, 0].astype(int), weights=held[:, 2].astype(float))
    return len(moved), int(np.ceil(bytes_held / SECTOR).sum())


def bank_conflicts(accesses: Accesses) -> int:
    """The most words of one bank that a request, or the part of it that goes at once, asks for; 1 is best."""
    shared = accesses[(accesses["shared"] == 1) & (accesses["kind"] != ADD)]
    if len(shared) == 0:
        return 1
    request = _requests(shared)
    # Of 8 bytes a thread half a warp goes at once, of 16 a quarter.
    part = shared["thread"] % WARP // (WARP // np.maximum(shared["bytes"] // WORD, 1))
    words = [
        (request[at], part[at], shared["address"][at] // WORD + k)
        for k in range(4)
        for at in [shared["bytes"] > k * WORD]
    ]
    request, part, word = (np.concatenate(column) for column in zip(*words, strict=True))
    each = _distinct(request, part, word % BANKS, word)
    return int(np.unique(each[:, :3], axis=0, return_counts=True)[1].max())


def races(accesses: Accesses) -> int:
    """Places that two threads touch, one of them to write, with nothing between that orders them.

    Barriers order a block's threads, shuffles those of a warp, and nothing orders the blocks of a launch. Atomic
    additions conflict with other accesses, but not with one another.
    """
    grain = int(accesses["bytes"].min())  # a power of two, to which all are aligned
    parts = accesses["bytes"] // grain
    a = np.repeat(accesses, parts)
    place = a["address"] // grain + (np.arange(len(a)) - np.repeat(np.cumsum(parts) - parts, parts)).astype("u8")
    changed = np.isin(place, place[a["kind"] != READ])
    a, place = a[changed], place[changed]
    block, warp, launch = a["block"], a["thread"] // WARP, a["launch"]
    everywhere = a["shared"] == 0
    return (
        _conflicts(a[everywhere], [launch[everywhere], place[everywhere]], block[everywhere])
        + _conflicts(a, [launch, block, a["barriers"], place], warp)
        + _conflicts(a, [launch, block, warp, a["meetings"], place], a["thread"])
    )


def _conflicts(a: Accesses, place: Sequence[Accesses], owner: Accesses) -> int:
    """Places that several owners touch, one of them to write, or to add where another reads."""
    if len(a) == 0:
        return 0
    order = np.lexsort(tuple(place))
    keys = np.stack([np.asarray(column, "u8")[order] for column in place], 1)
    starts = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]).any(1)])
    owner, kind = owner[order], a["kind"][order]
    several = np.minimum.reduceat(owner, starts) != np.maximum.reduceat(owner, starts)
    read, written, added = (np.logical_or.reduceat(kind == k, starts) for k in (READ, WRITE, ADD))
    return int((several & (written | (added & read))).sum())


def _requests(a: Accesses) -> Accesses:
    """The number of each access's request."""
    columns = (a["site"], a["thread"], a["block"], a["launch"])
    order = np.lexsort((np.arange(len(a)), *columns))
    keys = np.stack([np.asarray(column, "u8")[order] for column in columns], 1)
    new = np.r_[True, (keys[1:] != keys[:-1]).any(1)]
    begins = np.maximum.accumulate(np.where(new, np.arange(len(a)), 0))
    visit = np.empty(len(a), "u8")
    visit[order] = np.arange(len(a)) - begins
    request = np.stack([a["launch"], a["block"], a["thread"] // WARP, a["site"], visit], 1)
    return np.unique(request, axis=0, return_inverse=True)[1].ravel()


def _distinct(*columns: Accesses) -> Accesses:
    return np.unique(np.stack([np.asarray(column, "u8") for column in columns], 1), axis=0)

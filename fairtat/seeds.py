"""One seed in the configuration, an independent stream of random numbers for each use."""

from __future__ import annotations

import hashlib

__all__ = ["derive"]


def derive(seed: int, *path: str | int) -> int:
    """A seed in [0, 2**63) for the purpose that ``path`` names, such as ``("order", epoch)``.

    It depends on its arguments only, so a resumed run or another rank derives the same.
    """
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

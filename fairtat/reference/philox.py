"""Philox4x32-10, the counter-based random numbers behind every draw.

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
A draw is a pure function of (seed, stream, sample id, position), so what a sample gets does not
depend on its batch, its rank or the backend.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF

# Positions outside the image (an image has fewer than 2**34 elements, four to a counter), so that
# the draws of one sample id for its pixels, its L2 radius and its target are independent.
RADIUS_POSITION = 0xFFFFFFFE
TARGET_POSITION = 0xFFFFFFFF


def philox4x32(position: Tensor, stream: int, sample_id: Tensor, seed: int) -> tuple[Tensor, ...]:
    """Four 32-bit words (int64 tensors in [0, 2**32)) for each broadcast (position, sample id).

    Counter = (position, stream, sample id low, sample id high), key = (seed low, seed high).
    """
    c0 = position.expand(torch.broadcast_shapes(position.shape, sample_id.shape))
    c1 = torch.full_like(c0, stream & _MASK)
    c2 = (sample_id & _MASK).expand_as(c0)
    c3 = ((sample_id >> 32) & _MASK).expand_as(c0)
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        # The 64-bit products wrap in int64; the masks below recover the unsigned halves.
        p0, p1 = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def element_words(n_elements: int, stream: int, sample_ids: Tensor, seed: int) -> Tensor:
    """Words (N, D) int64: element e of a sample takes lane e % 4 of position e // 4."""
    groups = (n_elements + 3) // 4
    position = torch.arange(groups, device=sample_ids.device)[None, :]
    words = torch.stack(philox4x32(position, stream, sample_ids[:, None], seed), dim=-1)
    return words.reshape(sample_ids.shape[0], groups * 4)[:, :n_elements]


def element_normals(n_elements: int, stream: int, sample_ids: Tensor, seed: int) -> Tensor:
    """Standard normal numbers (N, D) float64 by Box-Muller on lanes (0, 1) and (2, 3).

    ``u1 = ((r_a >> 8) + 1) * 2**-24`` lies in (0, 1], ``u2 = (r_b >> 8) * 2**-24`` in [0, 1).
    """
    padded = (n_elements + 3) // 4 * 4
    words = element_words(padded, stream, sample_ids, seed).reshape(-1, padded // 2, 2)
    u1 = ((words[..., 0] >> 8) + 1).double() * 2.0**-24
    u2 = (words[..., 1] >> 8).double() * 2.0**-24
    radius, angle = (-2.0 * u1.log()).sqrt(), 2.0 * torch.pi * u2
    normals = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return normals.reshape(-1, padded)[:, :n_elements]

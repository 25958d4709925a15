r"""3 x 3 convolutions of many channels by Winograd's F(2 x 2, 3 x 3), as matrix products a compiler's graph can hold.

Each 2 x 2 tile of the output comes from a 4 x 4 tile d of the input with 16 multiplications a channel pair, not 36::

    y = A^T [(G w G^T) * (B^T d B)] A

    B^T = [1  0 -1  0]      G = [ 1    0    0 ]      A^T = [1  1  1  0]
          [0  1  1  0]          [1/2  1/2  1/2]            [0  1 -1 -1]
          [0 -1  1  0]          [1/2 -1/2  1/2]
          [0  1  0 -1]          [ 0    0    1 ]

The sums over channels are 16 products of matrices, one for each entry of a tile. G w G^T depends on the weight alone
and is computed once per attack; the other two transforms are kernels of the compiled core, which costs the graph no
compile time. In float32 the rounding error is about twice that of the direct sum.

Source: Lavin & Gray 2016, arXiv:1509.09308.
"""

from __future__ import annotations

import functools
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairtat.backends import native
from fairtat.ops._library import register

# Below, moving the tiles (four times the image) takes longer than the products save.
LEAST_CHANNELS = 128
LEAST_TILES = 32


def suits(weights: Mapping[str, Tensor]) -> bool:
    """Whether a model has weights for which its graph should be laid out in channels_last, as the tiles are."""
    return any(_suits_weight(w) for w in weights.values())


def convolution(
    x: Tensor,  # (N, I, H, W)
    weight: Tensor,  # (O, I, 3, 3)
    bias: Tensor | None,  # (O,)
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """aten.convolution where Winograd's algorithm is faster, else NotImplemented."""
    if transposed or groups != 1 or max(*stride, *dilation) > 1 or not _suits_weight(weight) or x.ndim != 4:
        return NotImplemented
    padding = list(padding) * 2 if len(padding) == 1 else list(padding)
    height, width = (size + 2 * p - 2 for size, p in zip(x.shape[2:], padding, strict=True))
    rows, columns = math.ceil(height / 2), math.ceil(width / 2)
    if min(height, width) < 1 or len(x) * rows * columns < LEAST_TILES:
        return NotImplemented
    tiles, filters = _tiles(x, rows, columns, *padding), _filters(weight)
    # oneDNN wants the filters transposed, which depends on the weight alone: once per attack, like the filters.
    products = _products(tiles, filters.mT.contiguous()) if _slow_in_mkl() else torch.bmm(tiles, filters)
    y = _image(products, len(x), height, width)
    return y if bias is None else y + bias.view(-1, 1, 1)


def _suits_weight(weight: Tensor) -> bool:
    return (
        weight.ndim == 4
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and native.MISSING is None
    )


@functools.cache
def _slow_in_mkl() -> bool:
    """Whether MKL, which serves `torch.bmm`, runs without AVX-512 here: it gives that to Intel's processors alone.

    oneDNN chooses by instructions: on a Zen 5 core its float32 products take less than half the time.
    """
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    try:
        described = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        described = platform.processor()
    return "Intel" not in described


def _filters(weight: Tensor) -> Tensor:
    """G w G^T: (O, I, 3, 3) -> (16, I, O)."""
    outputs, inputs = weight.shape[:2]
    a, b, c = torch.eye(3, dtype=weight.dtype)  # a graph of fake tensors takes no constant of real ones
    g = torch.stack([a, (a + b + c) / 2, (a - b + c) / 2, c])
    return (torch.kron(g, g) @ weight.transpose(0, 1).reshape(-1, 9).t()).view(16, inputs, outputs)


def _tiles_now(x: Tensor, rows: int, columns: int, pad_top: int, pad_left: int) -> Tensor:
    return native.winograd_tiles(x.contiguous(memory_format=torch.channels_last), rows, columns, pad_top, pad_left)


def _tiles_fake(x: Tensor, rows: int, columns: int, pad_top: int, pad_left: int) -> Tensor:
    return x.new_empty((16, x.shape[0] * rows * columns, x.shape[1]))


def _products_now(tiles: Tensor, filters: Tensor) -> Tensor:
    linear = torch.ops.mkldnn._linear_pointwise.default
    return torch.stack([linear(t, f, None, "none", [], "") for t, f in zip(tiles, filters, strict=True)])


def _products_fake(tiles: Tensor, filters: Tensor) -> Tensor:
    return tiles.new_empty((*tiles.shape[:2], filters.shape[1]))


def _image_now(products: Tensor, samples: int, height: int, width: int) -> Tensor:
    return native.winograd_image(products.contiguous(), samples, height, width)


def _image_fake(products: Tensor, samples: int, height: int, width: int) -> Tensor:
    return products.new_empty((samples, height, width, products.shape[2])).permute(0, 3, 1, 2)


_tiles = register(
    "winograd_tiles(Tensor x, int rows, int columns, int pad_top, int pad_left) -> Tensor", _tiles_now, _tiles_fake
)  # B^T d B of every tile: (N, I, H, W) -> (16, tiles, I)
_products = register(
    "winograd_products(Tensor tiles, Tensor filters) -> Tensor", _products_now, _products_fake
)  # (16, tiles, I), (16, O, I) -> (16, tiles, O), by oneDNN
_image = register(
    "winograd_image(Tensor products, int samples, int height, int width) -> Tensor", _image_now, _image_fake
)  # A^T m A of every tile: (16, tiles, O) -> (N, O, height, width), in channels_last

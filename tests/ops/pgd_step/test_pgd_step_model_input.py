"""What pgd_step_ writes for the model's next pass, against PyTorch's own normalization and rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from layouts import LAYOUTS
from pairwise import pairwise
from steps_by_hand import GRADS, INF, batch
from torch import Tensor

from fairtat.ops import pgd_step_

Layout = Callable[[Tensor], Tensor]
SameBits = Callable[[Tensor, Tensor], None]


@pairwise(
    "layout", "threads", layout=LAYOUTS, dtype=GRADS, norm=("linf", "l2"), per_sample=(False, True), threads=(1, 3)
)
def test_model_input_is_the_normalised_image_to_the_last_bit(
    backend: str,
    layout: Layout,
    dtype: torch.dtype,
    norm: str,
    per_sample: bool,
    threads: int,
    same_bits: SameBits,
) -> None:
    x_adv, grad, x = (layout(t) for t in batch((5, 3, 37, 41)))
    eps: float | Tensor = torch.linspace(0, 0.5, 5) if per_sample else 0.1
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.2435, 0.2616])
    without = pgd_step_(x_adv.clone(), grad, x, eps, 0.03, norm=norm, backend=backend)
    for normalise in (True, False):
        model_input = torch.empty_like(x_adv, dtype=dtype)
        moved = x_adv.clone()
        pgd_step_(
            moved, grad, x, eps, 0.03, norm=norm, model_input=model_input, backend=backend,
            mean=mean if normalise else None, std=std if normalise else None,
        )  # fmt: skip
        same_bits(moved, without)
        channel = (1, 3, 1, 1)
        expected = (moved - mean.view(channel)) / std.view(channel) if normalise else moved
        same_bits(model_input, expected.to(dtype))


@pytest.mark.parametrize(
    "shape", [(2, 5), (3, 1, 6, 7), (2, 4, 1, 1), (2, 1030, 3, 2), (3, 2, 7), (1, 2, 3, 4, 5)], ids=str
)
def test_dimension_one_is_the_channel_of_any_shape(backend: str, shape: tuple[int, ...], same_bits: SameBits) -> None:
    x_adv, grad, x = batch(shape)
    formats = [torch.contiguous_format, torch.channels_last] if len(shape) == 4 else [torch.contiguous_format]
    for memory_format in formats:
        ours, slope, clean = (t.contiguous(memory_format=memory_format) for t in (x_adv, grad, x))
        mean, std = torch.linspace(0, 1, shape[1]), torch.linspace(0.5, 2, shape[1])
        model_input = torch.empty_like(ours)
        pgd_step_(ours, slope, clean, 0.1, 0.1, model_input=model_input, mean=mean, std=std, backend=backend)
        channel = (1, -1, *[1] * (len(shape) - 2))
        same_bits(model_input, (ours - mean.view(channel)) / std.view(channel))


def test_one_channel_may_have_any_stride(backend: str, same_bits: SameBits) -> None:
    # PyTorch lets a dimension of size 1 carry any stride, zero too.
    x_adv, grad, x = (t.as_strided((4, 1, 5, 5), (25, 0, 5, 1)) for t in batch((4, 25)))
    model_input = torch.empty(100).as_strided((4, 1, 5, 5), (25, 0, 5, 1))
    pgd_step_(x_adv, grad, x, 0.1, 0.1, model_input=model_input, mean=[0.5], std=[0.25], backend=backend)
    same_bits(model_input, (x_adv - 0.5) / 0.25)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_model_input_rounds_as_pytorch_does(backend: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    bits = rng.integers(0, 2**32, 2**17, dtype=np.uint32)
    edges = [0.0, -0.0, 65504.0, 65519.996, 65520.0, 2**-24, 2**-25, 2**-25 * 1.0001, 2**-14, 6.1e-5, 3.4e38, INF, -INF]
    x = torch.cat([torch.from_numpy(bits.view(np.float32).copy()), torch.tensor(edges)])[None]
    model_input = torch.empty_like(x, dtype=dtype)
    pgd_step_(x.clone(), x, x, 0.0, 0.0, bounds=(-INF, INF), model_input=model_input, backend=backend)
    torch.testing.assert_close(model_input, x.to(dtype), rtol=0, atol=0, equal_nan=True)

"""Winograd's algorithm against the direct sum in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fairtat.engines.compiled import winograd

ONES = [1, 1]


def convolved(x, weight, bias=None, padding=(1, 1), **changes):
    settings = {"stride": ONES, "dilation": ONES, "transposed": False, "output_padding": [0, 0], "groups": 1} | changes
    return winograd.convolution(x, weight, bias, padding=list(padding), **settings)


@pytest.fixture(params=["MKL", "oneDNN"])
def products_by(request, monkeypatch):
    monkeypatch.setattr(winograd, "_slow_in_mkl", lambda: request.param == "oneDNN")


@pytest.mark.usefixtures("products_by")
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 2), (0, 2)])
@pytest.mark.parametrize("size", [(16, 16), (13, 17), (15, 12)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equal_to_the_direct_sum(padding, size, memory_format):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 128, *size, generator=generator).contiguous(memory_format=memory_format)
    weight = torch.randn(160, 128, 3, 3, generator=generator)
    bias = torch.randn(160, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=padding)
    found = convolved(x, weight, bias, padding)
    assert found.shape == exact.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    # Sums of 9 * 128 products of unit variance reach some 150, of which float32 resolves 1e-5; the direct sum is off by
    # up to 5e-5 here.
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1.5e-4)


@pytest.mark.usefixtures("products_by")
def test_an_impulse_finds_each_weight_in_its_place():
    weight = torch.arange(128 * 128 * 9, dtype=torch.float32).view(128, 128, 3, 3) / 1024
    x = torch.zeros(2, 128, 12, 12)
    x[1, 5, 6, 7] = 1.0
    found = convolved(x, weight)
    assert torch.equal(found[0], torch.zeros_like(found[0]))
    torch.testing.assert_close(found[1, :, 5:8, 6:9], weight[:, 5].flip(1, 2), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "weight", "changes"),
    [
        ((4, 128, 16, 16), (128, 128, 3, 3), {"stride": [2, 2]}),
        ((4, 128, 16, 16), (128, 128, 3, 3), {"dilation": [2, 2]}),
        ((4, 128, 16, 16), (128, 128, 3, 3), {"transposed": True}),
        ((4, 256, 16, 16), (256, 128, 3, 3), {"groups": 2}),
        ((4, 128, 16, 16), (128, 128, 5, 5), {}),
        ((4, 128, 16, 16), (128, 128, 1, 1), {}),
        ((4, 64, 16, 16), (128, 64, 3, 3), {}),
        ((1, 128, 8, 8), (128, 128, 3, 3), {}),  # 16 tiles
        ((128, 128, 2, 9), (128, 128, 3, 3), {"padding": [0, 0]}),  # nothing comes out
    ],
)
def test_what_it_does_not_serve_is_left_alone(shape, weight, changes):
    assert convolved(torch.zeros(shape), torch.zeros(weight), **changes) is NotImplemented


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_left_alone(dtype):
    x, weight = torch.zeros(4, 128, 16, 16, dtype=dtype), torch.zeros(128, 128, 3, 3, dtype=dtype)
    assert convolved(x, weight) is NotImplemented
    assert not winograd.suits({"weight": weight})


def test_a_model_suits_by_its_weights():
    assert winograd.suits({"a": torch.zeros(3), "b": torch.zeros(128, 128, 3, 3)})
    assert not winograd.suits({"a": torch.zeros(3), "b": torch.zeros(64, 64, 3, 3)})

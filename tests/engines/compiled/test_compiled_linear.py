"""Linear layers of a compiled graph."""

from __future__ import annotations

import torch

from fairtat.engines.compiled.linear import product_and_bias


def test_equal_to_addmm():
    generator = torch.Generator().manual_seed(0)
    bias, a, b = (torch.randn(shape, generator=generator) for shape in [(5,), (7, 3), (3, 5)])
    torch.testing.assert_close(product_and_bias(bias, a, b), torch.addmm(bias, a, b))
    full = torch.randn(7, 5, generator=generator)
    torch.testing.assert_close(product_and_bias(full, a, b), torch.addmm(full, a, b))


def test_scaled_sums_are_left_alone():
    bias, a, b = torch.ones(5), torch.ones(7, 3), torch.ones(3, 5)
    assert product_and_bias(bias, a, b, beta=0.5) is NotImplemented
    assert product_and_bias(bias, a, b, alpha=2.0) is NotImplemented

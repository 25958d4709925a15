"""A frozen weight is cast once, and everything else as often as it is asked for."""

from __future__ import annotations

import torch

from fairtat.engines.graph.cast_once import CastOnce

BF16 = torch.bfloat16


def test_a_cast_is_made_once_for_each_dtype():
    weight, other = torch.rand(3, 4), torch.rand(3, 4)
    with CastOnce([weight]):
        first, again, half = weight.to(BF16), weight.to(BF16), weight.half()
        others = other.to(BF16), other.to(BF16)
    assert first is again
    assert half.dtype == torch.float16
    assert others[0] is not others[1]
    assert torch.equal(first, weight.to(BF16))
    assert weight.to(BF16) is not first


def test_what_has_been_written_to_is_cast_again():
    weight = torch.rand(3, 4)
    with CastOnce([weight]):
        first = weight.to(BF16)
        weight.add_(1)
        second = weight.to(BF16)
        second.zero_()
        third = weight.to(BF16)
    assert torch.equal(third, weight.to(BF16))
    assert not torch.equal(first, third)
    assert not second.any()


def test_under_autocast_gradients_and_results_are_the_same():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(6, 3).requires_grad_(False), torch.rand(4, 6)

    def run():
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", BF16):
            z = layer(layer(leaf)[:, [0, 1, 2, 0, 1, 2]])
        return z.detach(), torch.autograd.grad(z.float().sum(), leaf)[0]

    expected = run()
    with CastOnce(layer.parameters()):
        result = run()
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))

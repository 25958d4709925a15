"""The graph's logit gradients against the ops' definition, and against autograd in float64."""

from __future__ import annotations

import pytest
import torch

from fairtat import reference
from fairtat.attacks.logit_gradient import logit_gradient

KINDS = [("ce", False), ("margin", False), ("dlr", False), ("dlr", True), ("kl", False)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-8}


def scene(n=37, classes=7, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    z = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (n,), generator=generator)
    target = (y + torch.randint(1, classes, (n,), generator=generator)) % classes
    clean = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return z.to(dtype), target, y, clean.to(dtype)


@pytest.mark.parametrize(("kind", "with_y"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 3.0, 1e4])
def test_equals_the_definition(kind, with_y, dtype, scale):
    z, target, y, clean = scene(dtype=dtype, scale=scale)
    y, clean = y if with_y else None, clean if kind == "kl" else None
    expected = reference.logit_loss(z, target, kind, y, clean)[1]
    actual = logit_gradient(z, target, kind, y, clean)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("kind", "with_y"), KINDS)
def test_equals_autograd(h, kind, with_y):
    z, target, y, clean = scene(dtype=torch.float64)
    y, clean = y if with_y else None, clean if kind == "kl" else None
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(h.loss_value(kind, leaf, target, y, clean).sum(), leaf)
    torch.testing.assert_close(logit_gradient(z, target, kind, y, clean), expected, rtol=1e-9, atol=1e-12)


def test_a_confident_sample_keeps_its_gradient():
    z = torch.tensor([[40.0, 0.0, 0.0]])
    gradient = logit_gradient(z, torch.tensor([0]), "ce", None, None)
    assert gradient[0, 0] < 0  # softmax - 1 is 0 here
    torch.testing.assert_close(gradient.sum(), torch.tensor(0.0), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["margin", "dlr"])
def test_ties_go_to_the_lowest_index(kind):
    z, target = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0]]), torch.tensor([0])
    expected = reference.logit_loss(z, target, kind, None, None)[1]
    assert torch.equal(logit_gradient(z, target, kind, None, None), expected)


@pytest.mark.parametrize(("kind", "with_y"), KINDS)
def test_special_logits_have_the_gradient_of_the_definition(kind, with_y):
    special = (-float("inf"), float("inf"), float("nan"), 0.0, 2.0)
    z = torch.cartesian_prod(*[torch.tensor(special)] * 4)
    target = torch.arange(len(z)) % 4
    y = (target + 1) % 4 if with_y else None
    clean = z.flip(0).roll(1, 1) if kind == "kl" else None
    expected = reference.logit_loss(z, target, kind, y, clean)[1]
    torch.testing.assert_close(logit_gradient(z, target, kind, y, clean), expected, equal_nan=True)

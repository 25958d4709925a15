"""Per-sample losses against formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fairtat.training.objectives.losses import boosted_cross_entropy, cross_entropy, divergence, weighted_mean

LOGITS = torch.tensor([[2.0, 0.5, -1.0, 0.0], [0.1, 0.2, 3.0, -2.0], [1.0, 1.0, 1.0, 1.0]])
CLEAN = torch.tensor([[1.0, -0.5, 0.3, 2.0], [4.0, 0.0, -1.0, 1.0], [0.0, 1.0, 2.0, 3.0]])
Y = torch.tensor([0, 1, 3])


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(v) for v in row]
    return [v / sum(exponentials) for v in exponentials]


def assert_gradients(ours: Tensor, theirs: Tensor, *leaves: Tensor) -> None:
    """Both are sums over the samples, by float32 and by float64 formulas."""
    for mine, other in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves, allow_unused=False), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(smoothing: float) -> None:
    expected = []
    for row, y in zip(LOGITS.tolist(), Y.tolist(), strict=True):
        p = softmax(row)
        q = [smoothing / 4 + (1 - smoothing) * (k == y) for k in range(4)]
        expected.append(-sum(q[k] * math.log(p[k]) for k in range(4)))
    torch.testing.assert_close(cross_entropy(LOGITS, Y, smoothing), torch.tensor(expected))


def test_divergence() -> None:
    expected = []
    for row, clean in zip(LOGITS.tolist(), CLEAN.tolist(), strict=True):
        p, q = softmax(row), softmax(clean)
        expected.append(sum(q[k] * (math.log(q[k]) - math.log(p[k])) for k in range(4)))
    logits, clean_logits = LOGITS.clone().requires_grad_(), CLEAN.clone().requires_grad_()
    value = divergence(logits, clean_logits)
    torch.testing.assert_close(value.detach(), torch.tensor(expected))
    p, q = logits.double().softmax(1), clean_logits.double().softmax(1)
    assert_gradients(value.sum(), (q * (q / p).log()).sum(), logits, clean_logits)


def test_boosted_cross_entropy() -> None:
    expected = []
    for row, y in zip(LOGITS.tolist(), Y.tolist(), strict=True):
        p = softmax(row)
        strongest_other = max(p[k] for k in range(4) if k != y)
        expected.append(-math.log(p[y]) - math.log(1.0001 - strongest_other))
    logits = LOGITS[:2].clone().requires_grad_()
    torch.testing.assert_close(boosted_cross_entropy(LOGITS, Y), torch.tensor(expected))
    p = logits.double().softmax(1)
    others = torch.stack([p[0, 1], p[1, 2]])
    theirs = -torch.stack([p[0, 0], p[1, 1]]).log() - (1.0001 - others).log()
    assert_gradients(boosted_cross_entropy(logits, Y[:2]).sum(), theirs.sum(), logits)


def test_a_confident_model_has_finite_losses_and_gradients() -> None:
    # In float32 exp(-200) is 0: the label has no probability left, or all of it.
    sure = torch.tensor([[200.0, 0.0, -50.0], [0.0, 200.0, 0.0]], requires_grad=True)
    clean = torch.tensor([[0.0, 200.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    y = torch.tensor([1, 1])
    losses = [cross_entropy(sure, y, 0.1), divergence(sure, clean), boosted_cross_entropy(sure, y)]
    total = torch.stack(losses).sum()
    total.backward()
    assert total.isfinite()
    assert sure.grad.isfinite().all()
    assert clean.grad.isfinite().all()
    torch.testing.assert_close(losses[1].detach(), torch.tensor([200.0, 0.0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, clean = (LOGITS * 3).to(dtype), CLEAN.to(dtype)
    for ours, exact in (
        (cross_entropy(logits, Y), cross_entropy(logits.float(), Y)),
        (divergence(logits, clean), divergence(logits.float(), clean.float())),
        (boosted_cross_entropy(logits, Y), boosted_cross_entropy(logits.float(), Y)),
    ):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, exact)


def test_weighted_mean_divides_by_the_number_of_samples() -> None:
    loss = torch.tensor([1.0, 2.0, 6.0])
    assert weighted_mean(loss, None) == 3.0
    assert weighted_mean(loss, torch.tensor([1.0, 0.5, 2.0])) == pytest.approx((1 + 1 + 12) / 3)

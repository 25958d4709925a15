"""A loss of one's own, and the mean gradient over draws of a model, against plain loops."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtat import EngineFallback, fast_mixed_pgd, fast_pgd, fast_targeted_pgd, ops

FLOAT64 = torch.float64
SIX_STEPS = {"eps": 0.1, "step_size": 0.03, "steps": 6, "seed": 3}


def cross_entropy(logits, goal):
    return F.cross_entropy(logits, goal, reduction="none")


def smoothed(logits, goal):
    return F.cross_entropy(logits, goal, reduction="none", label_smoothing=0.3) + 0.1 * logits.square().sum(1)


def by_hand(model, x, goal, loss, *, targeted, eps, step_size, steps, seed):
    x_adv = ops.pgd_init(x, eps, seed=seed)
    direction = torch.where(targeted, -1.0, 1.0).double().view(-1, 1, 1, 1)
    for _ in range(steps):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(loss(model(x_adv), goal).sum(), x_adv)
        x_adv = (x_adv.detach() + direction * step_size * grad.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return x_adv


@pytest.mark.parametrize("loss", [cross_entropy, smoothed])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_function_is_descended_or_ascended_as_each_sample_is_targeted(h, loss, share):
    model, (x, y, target) = h.cnn(FLOAT64).eval(), h.images(8, FLOAT64)
    targeted = torch.arange(8) < round(8 * share)
    goal = torch.where(targeted, target, y)
    expected = by_hand(model, x, goal, loss, targeted=targeted, **SIX_STEPS)
    found = fast_mixed_pgd(model, x, goal, targeted, loss=loss, return_info=True, **SIX_STEPS)
    torch.testing.assert_close(found.x_adv, expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(found.loss, loss(model(expected), goal))
    assert torch.equal(found.reached, (found.pred == goal) == targeted)
    if share in (0.0, 1.0):
        attack = fast_targeted_pgd if share else fast_pgd
        with torch.no_grad():
            assert torch.equal(attack(model, x, goal, loss=loss, **SIX_STEPS), found.x_adv)


@pytest.mark.parametrize("options", [
    {"restarts": 3}, {"early_stop": True, "restarts": 2}, {"chunk_size": 3}, {"norm": "l2", "eps": 0.5},
    {"momentum": 0.9}, {"normalize": ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))}, {"steps": 0},
], ids=str)  # fmt: skip
def test_a_function_that_is_the_built_in_loss_gives_its_attack(h, options):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(7, FLOAT64)
    options = {**SIX_STEPS, **options}
    ours, theirs = (
        fast_targeted_pgd(model, x, target, loss=loss, return_info=True, **options) for loss in (cross_entropy, "ce")
    )
    for name, value in vars(theirs).items():
        torch.testing.assert_close(getattr(ours, name), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{"loss": cross_entropy}, {"eot": 2}], ids=["a function", "eot"])
@pytest.mark.parametrize("engine", ["compiled", "graph"])
def test_other_engines_leave_it_to_the_eager_one(h, stub, compiles, engine, options):
    model, (x, y, _) = h.cnn(), h.images(4)
    expected = fast_pgd(model, x, y, engine="eager", **options, **SIX_STEPS)
    with pytest.warns(EngineFallback, match=r"a loss that is a function needs autograd|eot takes several passes"):
        found = fast_pgd(model, x, y, engine=engine, **options, **SIX_STEPS)
    assert torch.equal(found, expected)
    assert compiles == []
    assert stub.captures == 0


def test_the_automatic_engine_falls_back_without_a_word(h, stub, fallbacks_are_errors):
    model, (x, y, _) = h.cnn(), h.images(4)
    for _ in range(3):
        fast_pgd(model, x, y, loss=cross_entropy, **SIX_STEPS)
    assert stub.captures == 0


BAD = {
    "a number": (lambda z, goal: 1.0, TypeError, r"loss must return a floating-point tensor \(N,\), got float"),
    "integers": (lambda z, goal: z.argmax(1), TypeError, r"floating-point tensor \(N,\), got torch.int64"),
    "the sum": (lambda z, goal: z.sum(), ValueError, r"one value for each of the 3 samples, got shape \(\)"),
    "a column": (lambda z, goal: z[:, :1], ValueError, r"one value for each of the 3 samples, got shape \(3, 1\)"),
    "constants": (lambda z, goal: z.detach()[:, 0], ValueError, "loss must depend on the logits"),
}


@pytest.mark.parametrize(("loss", "error", "message"), BAD.values(), ids=BAD)
def test_what_a_function_must_return(h, loss, error, message):
    model, (x, y, _) = h.cnn(), h.images(3)
    before = h.snapshot(model)
    with pytest.raises(error, match=message):
        fast_pgd(model, x, y, loss=loss)
    assert h.same(h.snapshot(model), before)


def test_clean_logits_are_the_functions_own_business(h):
    model, (x, y, _) = h.cnn(), h.images(3)
    with pytest.raises(ValueError, match="clean_logits goes with loss='kl' and no other"):
        fast_pgd(model, x, y, loss=cross_entropy, clean_logits=torch.zeros(3, 5))


class Noisy(nn.Module):
    """A randomized defence: noise on the input of every pass."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x + 0.2 * torch.randn_like(x))


@pytest.mark.parametrize("draws", [2, 5])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_mean_gradient_over_draws(h, draws, norm):
    """Noise that is written down beforehand, in the order of the passes."""
    model, (x, y, _) = h.cnn(FLOAT64).eval(), h.images(4, FLOAT64)
    noise = 0.3 * torch.randn(4 * draws, *x.shape, generator=torch.Generator().manual_seed(0), dtype=FLOAT64)
    passes = iter(noise)
    found = fast_pgd(
        lambda images: model(images + next(passes)),
        x,
        y,
        eot=draws,
        eps=0.1,
        step_size=0.03,
        steps=4,
        norm=norm,
        init="zero",
    )
    assert next(passes, None) is None
    x_adv = x.clone()
    for draw in noise.split(draws):
        x_adv.requires_grad_()
        mean = sum(cross_entropy(model(x_adv + one), y).sum() for one in draw) / draws
        (grad,) = torch.autograd.grad(mean, x_adv)
        length = grad.square().sum((1, 2, 3), keepdim=True).sqrt()
        x_adv = x_adv.detach() + 0.03 * (grad.sign() if norm == "linf" else grad / (length + 1e-12))
        if norm == "linf":
            x_adv = x_adv.clamp(x - 0.1, x + 0.1)
        else:
            offset = x_adv - x
            x_adv = x + offset * (0.1 / offset.square().sum((1, 2, 3), keepdim=True).sqrt()).clamp_max(1.0)
        x_adv = x_adv.clamp(0, 1)
    torch.testing.assert_close(found, x_adv, rtol=0, atol=1e-9)


def test_draws_come_from_the_seed_and_cost_passes(h):
    (model, passes), (x, y, _) = h.counting_module(Noisy(h.cnn())), h.images(6)
    first = fast_pgd(model, x, y, eot=3, **SIX_STEPS)
    assert passes == [6] * 18
    assert torch.equal(fast_pgd(model, x, y, eot=3, **SIX_STEPS), first)
    assert not torch.equal(fast_pgd(model, x, y, eot=2, **SIX_STEPS), first)
    passes.clear()
    fast_pgd(model, x, y, eot=3, return_info=True, chunk_size=4, **SIX_STEPS)
    assert passes == [4] * 19 + [2] * 19


def test_a_model_that_draws_nothing_has_one_gradient(h):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    for more in ({"momentum": 0.9}, {"early_stop": True}, {"norm": "l2"}, {"loss": cross_entropy}):
        options = {**SIX_STEPS, **more}
        one, many = (fast_targeted_pgd(model, x, target, eot=draws, **options) for draws in (1, 4))
        torch.testing.assert_close(many, one, rtol=0, atol=1e-9)


def test_later_draws_are_of_the_samples_that_are_left(h):
    (model, passes), (x, _, target) = h.counting_module(Noisy(h.cnn())), h.images(32)
    options = {**SIX_STEPS, "eps": 0.05, "step_size": 0.01, "steps": 8}
    found = fast_targeted_pgd(model, x, target, eot=3, early_stop=True, return_info=True, **options)
    expected, now = [], 32
    for step in range(8):
        left = int((found.steps > step).sum())  # those that make this step
        expected += [now, left, left]
        now = left
    assert 0 < now < 32
    assert passes == [*expected, now]  # the last one for the result


def test_a_step_updates_batch_statistics_once(h):
    one, many = h.cnn(FLOAT64), h.cnn(FLOAT64)
    x, y, _ = h.images(6, FLOAT64)
    fast_pgd(one, x, y, bn_mode="train", **SIX_STEPS)
    fast_pgd(many, x, y, bn_mode="train", eot=3, **SIX_STEPS)
    for a, b in zip(one.buffers(), many.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_draws_are_added_in_float32(h, dtype):
    model, (x, y, _) = h.cnn().eval(), h.images(16)
    options = {**SIX_STEPS, "normalize": ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)), "amp": dtype}
    one, many = (fast_pgd(copy.deepcopy(model), x, y, eot=draws, **options) for draws in (1, 8))
    assert torch.equal(one, many)


@pytest.mark.parametrize(("eot", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_number_of_draws_is_a_count(h, eot, error):
    model, (x, y, _) = h.cnn(), h.images(3)
    with pytest.raises(error, match=r"eot must be (at least 1|an int), got"):
        fast_pgd(model, x, y, eot=eot)

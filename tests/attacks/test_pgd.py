"""The attack as users call it: what every call promises, and the doors to it."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from attack_fixtures import differing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fairtat
from fairtat import AttackResult, TargetedPGD, fast_mixed_pgd, fast_pgd, fast_targeted_pgd, ops
from fairtat.attacks.options import PGDOptions

FLOAT64 = torch.float64


@pytest.mark.parametrize(
    "layout", ["contiguous", "channels_last", "sliced", "batch_innermost", "flipped", "one_sample", "expanded"]
)
def test_layouts_of_images_give_the_same_attack(h, layout):
    model = h.cnn(FLOAT64).eval()
    base, _, target = h.images(1 if layout == "one_sample" else 6, FLOAT64)
    x = {
        "contiguous": lambda: base,
        "channels_last": lambda: base.contiguous(memory_format=torch.channels_last),
        "sliced": lambda: F.pad(base, (1, 2))[..., 1:-2],
        "batch_innermost": lambda: base.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "flipped": lambda: base.transpose(2, 3).contiguous().transpose(2, 3),
        "one_sample": lambda: base.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "expanded": lambda: base[:1].expand(6, -1, -1, -1),
    }[layout]()
    before = x.clone()
    options = {"eps": 0.1, "step_size": 0.03, "steps": 4, "seed": 0, "early_stop": True, "restarts": 2}
    x_adv = fast_targeted_pgd(model, x, target, **options)
    assert torch.equal(x, before)
    torch.testing.assert_close(x_adv, fast_targeted_pgd(model, x.contiguous(), target, **options), rtol=0, atol=1e-12)
    if layout in ("contiguous", "channels_last", "flipped"):
        assert x_adv.stride() == x.stride()


@pytest.mark.parametrize("images_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("model_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("normalize", [None, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))])
def test_formats_of_images_and_model_mix(h, images_format, model_format, normalize):
    model, (x, _, target) = h.cnn().eval(), h.images(16)
    expected = fast_targeted_pgd(model, x, target, eps=0.1, seed=0, normalize=normalize)
    model, x = model.to(memory_format=model_format), x.contiguous(memory_format=images_format)
    x_adv = fast_targeted_pgd(model, x, target, eps=0.1, seed=0, normalize=normalize)
    assert x_adv.is_contiguous(memory_format=images_format)
    assert differing(x_adv, expected) < 0.01


def test_the_batch_split_the_chunk_and_the_order_do_not_matter(h):
    model, (x, _, target) = h.cnn(FLOAT64).eval(), h.images(11, FLOAT64)
    ids = torch.randperm(1000)[:11]
    options = {"eps": 0.1, "step_size": 0.02, "seed": 5, "restarts": 2, "steps": 5}

    def attack(rows, **more):
        return fast_targeted_pgd(model, x[rows], target[rows], sample_ids=ids[rows], **options, **more)

    whole = attack(slice(None))
    parts = torch.cat([attack(slice(0, 4)), attack(slice(4, 5)), attack(slice(5, None))])
    assert torch.equal(whole, parts)
    for chunk_size in (1, 3, 11, 15, 22, 100):  # chunks within, across and beyond restarts
        assert torch.equal(whole, attack(slice(None), chunk_size=chunk_size))
    order = torch.randperm(11)
    assert torch.equal(whole[order], attack(order))


def test_float32_batch_split_changes_few_pixels(h):
    model, (x, _, target) = h.cnn().eval(), h.images(64)
    whole = fast_targeted_pgd(model, x, target, eps=0.1, seed=5)
    parts = [
        fast_targeted_pgd(
            model, x[i : i + 7], target[i : i + 7], eps=0.1, seed=5, sample_ids=torch.arange(64)[i : i + 7]
        )
        for i in range(0, 64, 7)
    ]
    assert differing(whole, torch.cat(parts)) < 0.005


def test_default_ids_are_positions_in_the_batch_also_in_chunks(h):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    for options in ({}, {"chunk_size": 4}):
        x_adv = fast_targeted_pgd(model, x, target, steps=0, seed=2, **options)
        assert torch.equal(x_adv, ops.pgd_init(x, 8 / 255, seed=2, sample_ids=torch.arange(6)))


def test_seeds(h):
    model, (x, _, target) = h.cnn(), h.images(4)

    def start(**options):
        return fast_targeted_pgd(model, x, target, steps=0, **options)

    assert torch.equal(start(seed=7), start(seed=7))
    assert not torch.equal(start(seed=7), start(seed=8))
    for seed in (-(2**63), 2**64 - 1):
        assert torch.equal(start(seed=seed), ops.pgd_init(x, 8 / 255, seed=seed))

    initial = torch.initial_seed()
    try:
        torch.manual_seed(100)
        state = torch.get_rng_state()
        first, second = start(), start()
        assert torch.equal(state, torch.get_rng_state())
        assert not torch.equal(first, second)
        torch.manual_seed(101)
        assert not torch.equal(second, start())  # neighbouring seeds do not overlap
        torch.manual_seed(100)
        assert torch.equal(first, start())
        assert torch.equal(second, start())
    finally:
        torch.manual_seed(initial)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    n=st.integers(1, 4),
    eps=st.floats(0, 1.5, width=32),
    step_size=st.floats(0, 2, width=32),
    low=st.floats(-3, 0.5, width=16),
    span=st.floats(0.25, 4, width=16),
    norm=st.sampled_from(["linf", "l2"]),
    dtype=st.sampled_from([torch.float32, FLOAT64]),
    init=st.sampled_from(["uniform", "normal", "zero", "tensor"]),
    backend=st.sampled_from(["auto", "reference"]),
)
def test_the_budget_holds(data, n, eps, step_size, low, span, norm, dtype, init, backend):
    bounds = (low, low + span)
    eps = min(eps, span) if norm == "linf" else eps  # more is refused
    seed = data.draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    x = (low + span * torch.rand(n, 2, 3, 3, generator=generator, dtype=dtype)).clamp(*bounds)
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 3)).to(dtype)
    amp = data.draw(st.sampled_from([None, torch.bfloat16])) if dtype == torch.float32 else None
    normalize = data.draw(st.sampled_from([None, ((0.5, 0.1), (0.1, 2.0))]))
    start = x + torch.randn(x.shape, generator=generator, dtype=dtype)
    x_adv = fast_targeted_pgd(
        model, x, torch.arange(n) % 3, eps=eps, step_size=step_size, steps=data.draw(st.integers(0, 3)), norm=norm,
        init=start if init == "tensor" else init, bounds=bounds, normalize=normalize, amp=amp, seed=seed,
        backend=backend, early_stop=data.draw(st.booleans()),
    )  # fmt: skip
    assert x_adv.dtype == dtype
    assert x_adv.min() >= bounds[0]
    assert x_adv.max() <= bounds[1]
    # One rounding of x +- eps, whose size is that of the largest number involved.
    rounding = torch.finfo(dtype).eps * (x.abs().max().item() + eps)
    offset = (x_adv.double() - x.double()).flatten(1)
    if norm == "linf":
        assert offset.abs().max() <= torch.tensor(eps, dtype=dtype).double() + rounding
    else:
        assert offset.norm(dim=1).max() <= eps + rounding * 18**0.5


def test_k_steps_are_k_forwards_and_k_backwards(h):
    calls = {"forward": 0, "backward": 0}

    class Counting(torch.autograd.Function):
        @staticmethod
        def forward(ctx, t):
            calls["forward"] += 1
            return t.view_as(t)

        @staticmethod
        def backward(ctx, grad):
            calls["backward"] += 1
            return grad

    model, (x, _, target) = h.cnn(), h.images(3)
    attack = TargetedPGD(lambda images: model(Counting.apply(images)), steps=4)
    attack(x, target)
    assert calls == {"forward": 4, "backward": 4}
    attack(x, target, return_info=True)
    assert calls == {"forward": 9, "backward": 8}


def test_the_largest_logit_decides_the_report(h):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(9, FLOAT64)
    result = fast_targeted_pgd(model, x, target, eps=0.2, step_size=0.05, steps=3, seed=0, return_info=True)
    assert isinstance(result, AttackResult)
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(result.x_adv)
    torch.testing.assert_close(result.logits, logits)
    assert torch.equal(result.pred, logits.argmax(1))
    assert torch.equal(result.reached, logits.argmax(1) == target)
    torch.testing.assert_close(result.loss, F.cross_entropy(logits, target, reduction="none"))
    assert result.steps.tolist() == [3] * 9
    assert result.zero_grad.tolist() == [0] * 9
    untargeted = fast_pgd(model, x, y, eps=0.2, step_size=0.05, steps=3, seed=0, return_info=True)
    assert torch.equal(untargeted.reached, untargeted.pred != y)
    plain = fast_targeted_pgd(model, x, target, eps=0.2, step_size=0.05, steps=3, seed=0)
    assert torch.equal(plain, result.x_adv)


def test_zero_gradients_are_counted():
    x = torch.tensor([[0.9, 0.5], [0.1, 0.5], [0.2, 0.5]])

    def masked(images):  # flat for a first pixel above 0.5
        return torch.relu(0.5 - images[:, :1]) * torch.tensor([[1.0, 2.0, 4.0]])

    result = fast_targeted_pgd(masked, x, torch.tensor([0, 0, 1]), eps=0.01, steps=5, init="zero", return_info=True)
    assert result.zero_grad.tolist() == [5, 0, 0]


@pytest.mark.parametrize("return_info", [False, True])
@pytest.mark.parametrize("bn_mode", ["eval", "train", "train_frozen_stats"])
def test_an_empty_batch(h, bn_mode, return_info):
    model, (x, _, target) = h.cnn(), h.images(4)
    x, target = x[:0], target[:0]
    before = h.snapshot(model)
    result = fast_targeted_pgd(model, x, target, y=target, bn_mode=bn_mode, restarts=2, return_info=return_info)
    x_adv = result.x_adv if return_info else result
    assert x_adv.shape == x.shape
    if return_info:
        assert result.logits.shape == (0, h.classes)
        assert [len(v) for v in (result.pred, result.reached, result.loss, result.zero_grad, result.steps)] == [0] * 5
        assert (result.reached.dtype, result.loss.dtype) == (torch.bool, torch.float32)
    assert h.same(h.snapshot(model), before)


def test_no_steps_return_the_start_and_a_given_start_is_projected(h):
    model, (x, _, target) = h.cnn(), h.images(4)
    start = x + 0.5 * torch.randn_like(x)
    given = start.clone()
    x_adv = fast_targeted_pgd(model, x, target, steps=0, eps=0.1, init=start)
    torch.testing.assert_close(x_adv, start.clamp(x - 0.1, x + 0.1).clamp(0, 1))
    assert torch.equal(start, given)
    inside = (x + 0.05).clamp(0, 1)
    assert torch.equal(fast_targeted_pgd(model, x, target, steps=0, eps=0.1, init=inside), inside)


def test_inputs_that_need_gradients_are_detached(h):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(4, FLOAT64)
    eps = torch.full((4,), 0.1, dtype=FLOAT64, requires_grad=True)
    x.requires_grad_()
    start = (x + 0.01).clamp(0, 1)
    x_adv = fast_targeted_pgd(model, x, target, eps=eps, init=start)
    assert not x_adv.requires_grad
    assert x.grad is None
    assert eps.grad is None


def test_it_works_under_no_grad_and_says_what_to_do_under_inference_mode(h):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(4, FLOAT64)
    expected = fast_targeted_pgd(model, x, target, seed=0)
    with torch.no_grad():
        assert torch.equal(fast_targeted_pgd(model, x, target, seed=0), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch\.no_grad\(\) instead"):
        fast_targeted_pgd(model, x, target)
    with torch.inference_mode():
        made_there = x.clone()
    assert torch.equal(fast_targeted_pgd(model, made_there, target, seed=0), expected)


def test_a_model_without_gradient_is_named(h):
    x, _, target = h.images(3)
    model = h.cnn()
    with pytest.raises(RuntimeError, match="no gradient with respect to its input"):
        fast_targeted_pgd(lambda images: model(images).detach(), x, target)


def test_all_doors_have_the_same_defaults():
    defaults = {name: p.default for name, p in inspect.signature(PGDOptions).parameters.items() if name != "targeted"}
    for door in (fast_targeted_pgd, fast_pgd, fast_mixed_pgd):
        parameters = {
            name: p.default
            for name, p in inspect.signature(door).parameters.items()
            if p.kind is p.KEYWORD_ONLY and name not in ("y", "clean_logits", "sample_ids")
        }
        assert parameters == defaults


def test_the_object_is_the_function_with_options_fixed(h):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(4, FLOAT64)
    attack = TargetedPGD(model, eps=0.1, steps=3, seed=1)
    assert torch.equal(attack(x, target), fast_targeted_pgd(model, x, target, eps=0.1, steps=3, seed=1))
    eps, ids = torch.rand(4) * 0.1, torch.arange(4) + 9
    once = attack(x, target, y, eps=eps, sample_ids=ids, norm="l2")
    expected = fast_targeted_pgd(model, x, target, y=y, eps=eps, steps=3, seed=1, sample_ids=ids, norm="l2")
    assert torch.equal(once, expected)
    assert attack.options.eps == 0.1
    with pytest.raises(TypeError, match="'epsilon' is not an option of the attack; did you mean 'eps'"):
        TargetedPGD(model, epsilon=0.1)
    with pytest.raises(TypeError, match="'targeted' is not an option"):
        attack(x, target, targeted=False)
    with pytest.raises(ValueError, match="target must be another class than y"):
        attack(x, y, y)


def test_public_names():
    assert fairtat.fast_targeted_pgd is fast_targeted_pgd
    assert {"fast_targeted_pgd", "fast_pgd", "fast_mixed_pgd", "TargetedPGD", "AttackResult"} <= set(fairtat.__all__)

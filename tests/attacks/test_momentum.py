"""Momentum and step schedules of the attacks, against loops written from the paper (MI-FGSM, arXiv:1710.06081)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pairwise import pairwise

from fairtat import fast_mixed_pgd, fast_pgd, fast_targeted_pgd

FLOAT64 = torch.float64
ENGINES = ("eager", "compiled", "graph")
SCHEDULE = (1.0, 0.5, 2.0, 0.0, 0.25, 1.5)


def textbook(model, x, goal, *, eps, sizes, momentum, targeted, norm="linf"):
    """Dong et al.: the sum of normalized gradients, with what is left of the earlier ones; ``sizes`` (steps, N)."""
    dims = (1, 2, 3)
    direction = torch.where(targeted, -1.0, 1.0).double().view(-1, 1, 1, 1)
    x_adv, g = x.clone(), torch.zeros_like(x)
    for size in sizes:
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), goal, reduction="sum"), x_adv)
        g = momentum * g + grad / grad.abs().sum(dims, keepdim=True) if momentum else grad
        move = g.sign() if norm == "linf" else g / (g.square().sum(dims, keepdim=True).sqrt() + 1e-12)
        x_adv = x_adv.detach() + direction * size.view(-1, 1, 1, 1) * move
        if norm == "linf":
            x_adv = x_adv.clamp(x - eps, x + eps)
        else:
            offset = x_adv - x
            x_adv = x + offset * (eps / offset.square().sum(dims, keepdim=True).sqrt()).clamp_max(1.0)
        x_adv = x_adv.clamp(0, 1)
    return x_adv


@pairwise(
    engine=ENGINES, norm=("linf", "l2"), momentum=(0.0, 0.9, 1.0), schedule=(None, SCHEDULE),
    per_sample=(False, True), n=(1, 7),
)  # fmt: skip
def test_steps_are_the_papers(h, stub, compiles, engine, norm, momentum, schedule, per_sample, n):
    model, (x, y, target) = h.cnn(FLOAT64).eval(), h.images(n, FLOAT64)
    eps, step = (0.1, 0.03) if norm == "linf" else (0.8, 0.3)
    step_size = torch.linspace(step, step / 3, n, dtype=FLOAT64) if per_sample else step
    targeted = torch.arange(n) % 3 == 0
    goal = torch.where(targeted, target, y)
    factors = torch.tensor(schedule or [1.0] * 6, dtype=FLOAT64)
    sizes = factors[:, None] * torch.as_tensor(step_size, dtype=FLOAT64).expand(n)
    expected = textbook(model, x, goal, eps=eps, sizes=sizes, momentum=momentum, targeted=targeted, norm=norm)
    options = {"eps": eps, "step_size": step_size, "steps": 6, "norm": norm, "momentum": momentum}
    options |= {"step_schedule": schedule, "init": "zero", "engine": engine}
    for _ in range(2):  # the second time from what the engine has kept
        found = fast_mixed_pgd(model, x, goal, targeted, **options)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    if schedule is not None:
        as_tensor = {**options, "step_schedule": torch.tensor(schedule)}
        assert torch.equal(fast_mixed_pgd(model, x, goal, targeted, **as_tensor), found)


def test_same_attack_as_torchattacks(h):
    torchattacks = pytest.importorskip("torchattacks")
    model, (x, y, _) = h.cnn().eval(), h.images(64)
    expected = torchattacks.MIFGSM(model, eps=0.1, alpha=0.02, steps=8, decay=0.9)(x, y)
    found = fast_pgd(model, x, y, eps=0.1, step_size=0.02, steps=8, momentum=0.9, init="zero")
    assert ((found - expected).abs() > 1e-6).double().mean() < 0.005
    plain = fast_pgd(model, x, y, eps=0.1, step_size=0.02, steps=8, init="zero")
    assert ((found - plain).abs() > 1e-6).double().mean() > 0.02


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("options", [
    {"early_stop": True}, {"early_stop": True, "extra_steps": 2, "restarts": 3},
    {"early_stop": True, "bn_mode": "train"},
    {"restarts": 2, "chunk_size": 5}, {"normalize": ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))},
], ids=str)  # fmt: skip
def test_what_a_sample_keeps_goes_with_it(h, stub, engine, options):
    """Velocity and place in the schedule, when others leave the batch: as if it were alone."""
    model, (x, _, target) = h.cnn(FLOAT64), h.images(7, FLOAT64)
    common = {"eps": 0.2, "step_size": 0.02, "momentum": 0.8, "steps": 6, "step_schedule": SCHEDULE, "seed": 2}
    options = {**common, **options}
    found = fast_targeted_pgd(model, x, target, engine=engine, return_info=True, **options)
    if "early_stop" in options:
        assert len(set(found.steps.tolist())) > 1
    if options.get("bn_mode") == "train":  # no sample is alone
        again = fast_targeted_pgd(h.cnn(FLOAT64), x, target, engine="eager", **options)
        assert torch.equal(found.x_adv, again)
        return
    for i in (0, 3, 6):
        one, ids = slice(i, i + 1), torch.tensor([i])
        alone = fast_targeted_pgd(model, x[one], target[one], sample_ids=ids, return_info=True, **options)
        torch.testing.assert_close(found.x_adv[one], alone.x_adv, rtol=0, atol=1e-9)
        assert found.steps[i] == alone.steps[0]


def test_with_amp_the_share_of_a_gradient_does_not_depend_on_its_scale(h):
    model, (x, y, _) = h.cnn().eval(), h.images(32)
    options = {"eps": 0.1, "step_size": 0.02, "steps": 5, "momentum": 0.9, "init": "zero"}
    full = fast_pgd(model, x, y, **options)
    for dtype, most in ((torch.bfloat16, 0.15), (torch.float16, 0.03)):
        low = fast_pgd(model, x, y, amp=dtype, **options)
        assert ((low - full).abs() > 1e-6).double().mean() < most


def test_no_steps_and_an_empty_batch(h):
    model, (x, y, _) = h.cnn().eval(), h.images(3)
    assert torch.equal(fast_pgd(model, x, y, steps=0, step_schedule=(), momentum=0.9, init="zero"), x)
    empty = fast_pgd(model, x[:0], y[:0], steps=2, step_schedule=torch.ones(2), momentum=0.9)
    assert empty.shape == (0, 3, 6, 6)


BAD = {
    "momentum negative": ({"momentum": -1.0}, ValueError, "momentum must be finite and at least 0, got -1.0"),
    "momentum infinite": ({"momentum": float("inf")}, ValueError, "momentum must be finite"),
    "momentum a tensor": ({"momentum": torch.ones(3)}, TypeError, "momentum must be a number, got Tensor"),
    "a schedule too short": (
        {"step_schedule": [1.0] * 3}, ValueError, r"step_schedule must have one factor for each of the 10 st.* \(3,\)",
    ),
    "a schedule for each sample": ({"step_schedule": torch.ones(10, 3)}, ValueError, r"of the 10 steps, .* \(10, 3\)"),
    "a schedule of a number": ({"step_schedule": 0.5}, TypeError, "step_schedule must be a sequence or a tensor"),
    "a schedule of text": ({"step_schedule": "cosine"}, TypeError, "step_schedule must be a sequence .* got str"),
    "a schedule of integers": ({"step_schedule": torch.ones(10).long()}, TypeError, "must be floating point, got"),
    "a negative factor": ({"step_schedule": [-1.0] * 10}, ValueError, "step_schedule must be .* at least 0, got -1"),
    "a negative factor in a tensor": (
        {"step_schedule": -torch.ones(10)}, ValueError, r"step_schedule must be at least 0.0, got values",
    ),
    "a NaN in a tensor": ({"step_schedule": torch.full((10,), float("nan"))}, ValueError, "must be finite, got NaN"),
    "factors of another kind": ({"step_schedule": ["a"] * 10}, TypeError, "step_schedule must be numbers, got str"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "error", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(h, given, error, message):
    x, _, target = h.images(3)
    with pytest.raises(error, match=message):
        fast_targeted_pgd(h.cnn(), x, target, **given)

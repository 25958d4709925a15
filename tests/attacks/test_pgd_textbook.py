"""The attack gives the same numbers as the textbook's loop, its own docstring's and a peer's."""

from __future__ import annotations

import inspect
import textwrap

import pytest
import torch
import torch.nn.functional as F
from attack_fixtures import differing
from torch import nn

from fairtat import fast_pgd, fast_targeted_pgd, ops

FLOAT64 = torch.float64


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_targeted_equals_the_textbook_in_float64(h, norm, loss):
    model, (x, y, target) = h.cnn(FLOAT64).eval(), h.images(7, FLOAT64)
    eps, step_size = (0.1, 0.03) if norm == "linf" else (0.8, 0.3)
    start = ops.pgd_init(x, eps, seed=3, norm=norm)
    expected = h.textbook_pgd(model, start, x, target, eps=eps, step_size=step_size, steps=6, norm=norm, loss=loss, y=y)
    x_adv = fast_targeted_pgd(
        model, x, target, y=y, eps=eps, step_size=step_size, steps=6, norm=norm, loss=loss, seed=3
    )
    assert not torch.allclose(x_adv, start, atol=1e-3)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "kl"])
def test_untargeted_equals_the_textbook_in_float64(h, norm, loss):
    model, (x, y, _) = h.cnn(FLOAT64).eval(), h.images(7, FLOAT64)
    eps, step_size = (0.1, 0.03) if norm == "linf" else (0.8, 0.3)
    clean_logits = model(x) if loss == "kl" else None
    start = ops.pgd_init(x, eps, seed=3, norm=norm, init="normal")
    expected = h.textbook_pgd(
        model, start, x, y, eps=eps, step_size=step_size, steps=6, targeted=False, norm=norm, loss=loss,
        clean_logits=None if clean_logits is None else clean_logits.detach(),
    )  # fmt: skip
    x_adv = fast_pgd(
        model, x, y, clean_logits=clean_logits, eps=eps, step_size=step_size, steps=6, norm=norm, loss=loss,
        init="normal", seed=3,
    )  # fmt: skip
    # An L2 step divides by the gradient's size, and with it magnifies the rounding of a gradient that nearly
    # cancels: DLR's once the label is third (only the 1e-12 is left of it), KL's close to the clean image.
    atol = {"dlr": 1e-6, "kl": 1e-9}.get(loss, 1e-12) if norm == "l2" else 1e-12
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("targeted", [True, False])
def test_float32_differs_from_the_textbook_in_few_pixels_and_not_in_strength(h, targeted):
    model, (x, y, target) = h.cnn().eval(), h.images(64)
    goal = target if targeted else y
    start = ops.pgd_init(x, 0.1, seed=0)
    expected = h.textbook_pgd(model, start, x, goal, eps=0.1, step_size=0.02, steps=10, targeted=targeted)
    attack = fast_targeted_pgd if targeted else fast_pgd
    x_adv = attack(model, x, goal, eps=0.1, step_size=0.02, steps=10, seed=0)
    assert differing(x_adv, expected) < 0.005
    with torch.no_grad():
        ours, theirs = (F.cross_entropy(model(a), goal) for a in (x_adv, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_the_loop_in_the_docstring_is_the_attack(h):
    text = textwrap.dedent(inspect.getdoc(fast_targeted_pgd)).split("Equivalent to::")[1]
    loop = textwrap.dedent(text.split("The model is left")[0])
    model, (x, _, target) = h.cnn(FLOAT64).eval(), h.images(5, FLOAT64)
    u = torch.rand_like(x) * 2 - 1
    names = {"x": x, "u": u, "eps": 0.1, "step_size": 0.03, "steps": 5, "model": model, "target": target}
    exec(loop, {"torch": torch, "F": F}, names)
    x_adv = fast_targeted_pgd(model, x, target, eps=0.1, step_size=0.03, steps=5, init=(x + 0.1 * u).clamp(0, 1))
    torch.testing.assert_close(x_adv, names["x_adv"], rtol=0, atol=1e-12)


def test_same_attack_as_torchattacks(h):
    torchattacks = pytest.importorskip("torchattacks")
    model, (x, _, target) = h.cnn().eval(), h.images(64)
    peer = torchattacks.PGD(model, eps=0.1, alpha=0.02, steps=10, random_start=False)
    peer.set_mode_targeted_by_label(quiet=True)
    x_adv = fast_targeted_pgd(model, x, target, eps=0.1, step_size=0.02, steps=10, init="zero")
    assert differing(x_adv, peer(x, target)) < 0.005


def test_radii_and_steps_of_single_samples(h):
    model, (x, _, target) = h.cnn(FLOAT64).eval(), h.images(4, FLOAT64)
    eps = torch.tensor([0.0, 0.02, 0.1, 0.2])
    step_size = torch.tensor([0.1, 0.01, 0.0, 0.05], dtype=FLOAT64)
    x_adv = fast_targeted_pgd(model, x, target, eps=eps, step_size=step_size, init="zero", steps=4)
    expected = h.textbook_pgd(model, x, x, target, eps=eps, step_size=step_size, steps=4)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    assert torch.equal(x_adv[0], x[0])
    assert torch.equal(x_adv[2], x[2])
    torch.testing.assert_close((x_adv - x)[3].abs().max().item(), 0.2)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64])
def test_normalize_equals_a_model_that_normalises(h, norm, dtype):
    model, (x, _, target) = h.cnn(dtype).eval(), h.images(6, dtype)
    mean, std = (0.5, 0.4, 0.3), torch.tensor([0.2, 0.3, 0.1])
    options = {"eps": 0.1, "step_size": 0.03, "steps": 5, "norm": norm, "seed": 1}

    def normalising(images):
        channel = (1, 3, 1, 1)
        return model((images - torch.tensor(mean, dtype=dtype).view(channel)) / std.to(dtype).view(channel))

    inner = fast_targeted_pgd(model, x, target, normalize=(mean, std), **options)
    outer = fast_targeted_pgd(normalising, x, target, **options)
    # In L2 the whole step depends on the gradient's size, so the chain rule through 1/std is tested too.
    assert differing(inner, outer, 1e-12 if dtype == FLOAT64 else 1e-6) < (0.02 if dtype == torch.float32 else 1e-9)


def test_an_mlp_on_vectors_and_a_volume(h):
    torch.manual_seed(0)
    for shape in [(9, 12), (9, 2, 3, 4, 5)]:
        x = torch.rand(shape, dtype=FLOAT64)
        model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 8), nn.ReLU(), nn.Linear(8, 3)).double()
        target = torch.arange(9) % 3
        x_adv = fast_targeted_pgd(model, x, target, eps=0.1, step_size=0.03, steps=3, init="zero")
        expected = h.textbook_pgd(model, x, x, target, eps=0.1, step_size=0.03, steps=3)
        torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)

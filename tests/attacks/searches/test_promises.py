"""What holds for each of these attacks: a sample has its own result in any batch, and wrong images stay as they are."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from fairtat.attacks import apgd, cw_l2, deepfool, fab, multi_targeted_pgd, square
from fairtat.attacks.autoattack.arena import Arena

ATTACKS = {
    "cw_l2": lambda *data, **options: cw_l2(*data, n_iter=30, binary_search_steps=3, initial_const=0.5, **options),
    "deepfool": lambda *data, **options: deepfool(*data, norm="linf", nb_candidates=3, **options),
    "multi_targeted_pgd": lambda *data, **options: multi_targeted_pgd(*data, eps=0.1, n_target_classes=2, **options),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_sample_does_not_depend_on_its_batch(trained, name):
    model, x, y = trained
    x, y, ids = x[:19].double(), y[:19].clone(), 50 + torch.arange(19)
    y[4] = (y[4] + 1) % 6  # wrong as it is
    order = torch.randperm(19)
    model.double()
    try:
        expected = ATTACKS[name](model, x, y, sample_ids=ids, seed=3, return_info=True)
        found = ATTACKS[name](model, x[order], y[order], sample_ids=ids[order], seed=3, chunk_size=5, return_info=True)
    finally:
        model.float()
    torch.testing.assert_close(found.x_adv, expected.x_adv[order], rtol=0, atol=1e-9)
    assert torch.equal(found.reached, expected.reached[order])
    assert torch.equal(found.steps, expected.steps[order])
    assert torch.equal(expected.x_adv[4], x[4])
    assert expected.reached[4]
    assert 0 <= expected.x_adv.min() <= expected.x_adv.max() <= 1
    assert (expected.x_adv != x).flatten(1).any(1).sum() > 10


@pytest.mark.parametrize("attack", [apgd, cw_l2, deepfool, fab, multi_targeted_pgd, square])
def test_an_image_that_may_not_change_takes_no_step(trained, attack):
    model, x, y = trained
    with torch.no_grad():
        right = model(x).argmax(1) == y
    x, y = x[right][:6], y[right][:6]
    eps = torch.tensor([0.0, 0.5] * 3)
    steps = {"n_queries": 20} if attack is square else {"n_iter": 20}
    result = attack(model, x, y, eps=eps, return_info=True, **steps)
    assert (result.steps[::2] == 0).all()
    assert (result.steps[1::2] > 0).all()
    assert torch.equal(result.x_adv[::2], x[::2])
    assert not result.reached[::2].any()


@pytest.mark.parametrize("name", ATTACKS)
def test_only_what_the_model_itself_confirms_counts(trained, name):
    """In bfloat16 a point at the boundary is adversarial by rounding."""
    model, x, y = trained
    result = ATTACKS[name](model, x[:30], y[:30], amp=torch.bfloat16, return_info=True)
    with torch.no_grad():
        logits = model(result.x_adv)
    # Together they are judged as one by one, up to rounding.
    assert torch.equal(result.reached, result.logits.argmax(1) != y[:30])
    torch.testing.assert_close(result.logits, logits, rtol=1e-4, atol=1e-5)
    assert result.reached.sum() >= 10


@pytest.mark.parametrize("name", [*ATTACKS, "fab"])
def test_a_point_that_is_not_confirmed_stands_in_the_way_of_none(affine, monkeypatch, name):
    """Low precision took it for adversarial, at a distance that no other point may come below."""
    model, x, y, _, _ = affine("linf", classes=2)
    judge, refused = Arena.judge, []

    def refuses_once(self, points):
        logits = judge(self, points)
        if refused:
            return logits
        refused.append(len(points))
        return logits.flip(1)

    monkeypatch.setattr(Arena, "judge", refuses_once)
    attack = {
        "cw_l2": partial(cw_l2, n_iter=100, binary_search_steps=2, initial_const=1.0, abort_early=False),
        "fab": partial(fab, eps=0.25, n_iter=20),
        "multi_targeted_pgd": partial(multi_targeted_pgd, eps=0.25),
    }.get(name, ATTACKS.get(name))
    result = attack(model, x, y, return_info=True)
    assert refused[0] > 10
    assert result.reached.all()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("engine", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_normalization_is_part_of_the_model(smooth, compiles, engine, name):
    model, _, x, logits = smooth
    y = logits.argmax(1)
    undone = nn.Sequential(Affine(0.5, 0.25), model)  # of (x - 0.25) / 0.5: powers of two, which round nothing
    expected = ATTACKS[name](model, x, y, return_info=True)
    found = ATTACKS[name](
        undone, x, y, normalize=((0.25, 0.25), (0.5, 0.5)), engine=engine, chunk_size=7, return_info=True
    )
    assert (7 in compiles) == (engine == "compiled")
    torch.testing.assert_close(found.x_adv, expected.x_adv, rtol=0, atol=1e-7)
    assert torch.equal(found.reached, expected.reached)
    assert expected.reached.sum() >= 3


class Affine(nn.Module):
    def __init__(self, scale, shift):
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x):
        return self.scale * x + self.shift

"""Restarts and chunks: a sample gets the best of its starts, however they were packed into passes."""

from __future__ import annotations

import pytest
import torch

from fairtat import fast_pgd, fast_targeted_pgd, ops

FLOAT64 = torch.float64
RESTARTS = 4


def best_of(h, model, x, goal, *, targeted, eps, step_size, steps, seed):
    """Each restart of each sample by the textbook, then the best by a plain loop over samples."""
    candidates = []
    for restart in range(RESTARTS):
        start = ops.pgd_init(x, eps, seed=seed, stream=restart)
        x_adv = h.textbook_pgd(model, start, x, goal, eps=eps, step_size=step_size, steps=steps, targeted=targeted)
        with torch.no_grad():
            logits = model(x_adv)
        hit = (logits.argmax(1) == goal) == targeted
        candidates.append((x_adv, hit, h.loss_value("ce", logits, goal)))
    best = []
    for i in range(len(x)):
        # max keeps the first of equals
        key = [(bool(hit[i]), -loss[i].item() if targeted else loss[i].item()) for _, hit, loss in candidates]
        best.append(max(range(RESTARTS), key=key.__getitem__))
    return torch.stack([candidates[r][0][i] for i, r in enumerate(best)]), best


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 9, 20])
def test_the_best_restart_is_kept(h, targeted, chunk_size):
    model, (x, y, target) = h.cnn(FLOAT64).eval(), h.images(9, FLOAT64)
    goal, attack = (target, fast_targeted_pgd) if targeted else (y, fast_pgd)
    options = {"eps": 0.15, "step_size": 0.08, "steps": 2, "seed": 4}
    expected, best = best_of(h, model, x, goal, targeted=targeted, **options)
    assert len(set(best)) > 2
    result = attack(model, x, goal, restarts=RESTARTS, chunk_size=chunk_size, return_info=True, **options)
    torch.testing.assert_close(result.x_adv, expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(result.logits, model(expected))
    assert torch.equal(result.pred, result.logits.argmax(1))
    assert torch.equal(result.reached, (result.pred == goal) == targeted)
    torch.testing.assert_close(result.loss, h.loss_value("ce", result.logits, goal))
    plain = attack(model, x, goal, restarts=RESTARTS, chunk_size=chunk_size, **options)
    assert torch.equal(plain, result.x_adv)


def scripted(outcomes):
    """A model whose n-th call returns logits that were written down beforehand."""
    calls = iter(outcomes)
    return lambda images: torch.tensor(next(calls)) + 0 * images.sum(1, keepdim=True)


NAN = float("nan")


@pytest.mark.parametrize(
    ("second_restart", "wins"),
    [
        ([0.0, 1.0, 0.0], False),  # the very same
        ([0.0, 2.0, 0.0], True),  # reached both times, smaller loss
        ([0.0, 0.5, 0.0], False),  # reached both times, larger loss
        ([0.5, 0.4, -9.0], False),  # smaller loss, but the target lost
        ([NAN, NAN, NAN], False),
    ],
)
def test_which_restart_wins_where_the_first_reached(second_restart, wins):
    x = torch.full((1, 2), 0.5)
    model = scripted([[[0.0, 1.0, 0.0], second_restart]])
    result = fast_targeted_pgd(model, x, torch.tensor([1]), steps=0, restarts=2, seed=0, return_info=True)
    starts = [ops.pgd_init(x, 8 / 255, seed=0, stream=r) for r in (0, 1)]
    assert torch.equal(result.x_adv, starts[wins])
    torch.testing.assert_close(result.logits[0], torch.tensor(second_restart if wins else [0.0, 1.0, 0.0]))


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [
        ([1.0, 0.9, -9.0], [0.0, 0.1, 0.0], True),  # reached beats a smaller loss
        ([1.0, 0.0, 0.0], [1.0, 0.5, 0.0], True),  # neither reached, smaller loss
        ([NAN, NAN, NAN], [1.0, 0.0, 0.0], True),  # anything beats NaN
        ([NAN, NAN, NAN], [NAN, NAN, NAN], False),
    ],
)
def test_which_restart_wins_where_the_first_did_not_reach(first, second, wins):
    x = torch.full((1, 2), 0.5)
    result = fast_targeted_pgd(
        scripted([[first], [second]]), x, torch.tensor([1]), steps=0, restarts=2, chunk_size=1, seed=0, return_info=True
    )
    assert torch.equal(result.x_adv, ops.pgd_init(x, 8 / 255, seed=0, stream=int(wins)))


@pytest.mark.parametrize(
    ("second", "wins"), [([0.0, 1.0, 0.0], False), ([0.5, 1.0, 0.0], True), ([2.0, 1.0, 0.0], True)]
)
def test_which_restart_wins_untargeted(second, wins):
    """Against label 1, right both times unless ``second`` says otherwise: only a larger loss or a fooled model wins."""
    x = torch.full((1, 2), 0.5)
    model = scripted([[[0.0, 1.0, 0.0]], [second]])
    result = fast_pgd(model, x, torch.tensor([1]), steps=0, restarts=2, chunk_size=1, seed=0, return_info=True)
    assert torch.equal(result.x_adv, ops.pgd_init(x, 8 / 255, seed=0, stream=int(wins)))
    assert result.reached.item() == (second[0] > 1)


def test_no_pass_is_larger_than_the_chunk(h):
    x, _, target = h.images(7)
    counting, sizes = h.counting(h.cnn().eval())
    fast_targeted_pgd(counting, x, target, steps=1, chunk_size=3)
    assert sizes == [3, 3, 1]
    sizes.clear()
    fast_targeted_pgd(counting, x, target, steps=1, restarts=2)
    assert sizes == [14, 14]


def test_chunks_of_every_kind_of_argument(h):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(7, FLOAT64)
    per_sample = {
        "eps": torch.rand(7, dtype=FLOAT64) * 0.2,
        "step_size": torch.rand(7, dtype=FLOAT64) * 0.05,
        "sample_ids": torch.randperm(7),
    }
    more = {"y": y, "loss": "dlr", "init": (x + 0.02).clamp(0, 1), "restarts": 2, "normalize": ((0.5,) * 3, (0.2,) * 3)}
    whole = fast_targeted_pgd(model, x, target, **per_sample, **more)
    assert torch.equal(fast_targeted_pgd(model, x, target, chunk_size=4, **per_sample, **more), whole)
    with torch.no_grad():
        clean = model.eval()(x)
    kl = {"loss": "kl", "clean_logits": clean, "seed": 0, **per_sample}
    assert torch.equal(fast_pgd(model, x, y, chunk_size=4, **kl), fast_pgd(model, x, y, **kl))
    result, whole_result = (
        fast_targeted_pgd(model, x, target, return_info=True, chunk_size=c, **per_sample, **more) for c in (3, None)
    )
    for name in vars(whole_result):
        torch.testing.assert_close(getattr(result, name), getattr(whole_result, name))

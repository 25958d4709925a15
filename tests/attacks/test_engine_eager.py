"""Early stopping: who stops when, and what it costs the others."""

from __future__ import annotations

import copy

import pytest
import torch

from fairtat import fast_pgd, fast_targeted_pgd, ops

FLOAT64 = torch.float64
STRONG = {"eps": 0.3, "step_size": 0.05, "steps": 6, "seed": 2}


def scene(h, targeted, norm):
    """(model, x, goal, attack, options) in which some samples stop at once, some on the way, some never."""
    model, (x, _, target) = h.cnn(FLOAT64), h.images(16, FLOAT64)
    options = {**STRONG, "norm": norm, "eps": 0.3 if norm == "linf" else 2.0}
    options["step_size"] = options["eps"] / (6 if targeted else 60)
    # Untargeted, most labels are what the model says, or hardly a sample would need a step.
    goal = target if targeted else copy.deepcopy(model).eval()(x).argmax(1)
    if not targeted:
        goal[:4] = (goal[:4] + 1) % h.classes
    return model, x, goal, fast_targeted_pgd if targeted else fast_pgd, options


def stop_one_by_one(h, model, x, goal, *, targeted, norm, eps, step_size, steps, seed):
    """Each sample on its own: step until the prediction is right, by a plain Python loop."""
    start = ops.pgd_init(x, eps, seed=seed, norm=norm)
    images, taken = [], []
    for i in range(len(x)):
        x_adv, used = start[i : i + 1], 0
        while used < steps and bool((model(x_adv).argmax(1) == goal[i]) != targeted):
            x_adv = h.textbook_pgd(
                model, x_adv, x[i : i + 1], goal[i : i + 1], eps=eps, step_size=step_size, steps=1, targeted=targeted,
                norm=norm,
            )  # fmt: skip
            used += 1
        images.append(x_adv.detach())
        taken.append(used)
    return torch.cat(images), taken


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("return_info", [True, False])
@pytest.mark.parametrize("extra", [{}, {"chunk_size": 5}, {"normalize": ((0.0,) * 3, (1.0,) * 3)}])
def test_early_stopping_equals_stopping_one_by_one(h, norm, targeted, return_info, extra):
    model, x, goal, attack, options = scene(h, targeted, norm)
    model.eval()
    expected, taken = stop_one_by_one(h, model, x, goal, targeted=targeted, **options)
    assert len(set(taken)) > 2  # some stop at once, some on the way
    result = attack(model, x, goal, early_stop=True, return_info=return_info, **options, **extra)
    x_adv = result.x_adv if return_info else result
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    if return_info:
        assert result.steps.tolist() == taken
        with torch.no_grad():
            logits = model(expected)
        torch.testing.assert_close(result.logits, logits)
        assert torch.equal(result.pred, logits.argmax(1))
        assert torch.equal(result.reached, (logits.argmax(1) == goal) == targeted)
        torch.testing.assert_close(result.loss, h.loss_value("ce", logits, goal))


def test_the_batch_shrinks_and_the_attack_ends_with_the_last_sample(h):
    model, (x, _, target) = h.cnn().eval(), h.images(16)
    sizes = []

    def counting(images):
        sizes.append(len(images))
        return model(images)

    result = fast_targeted_pgd(counting, x, target, early_stop=True, return_info=True, **{**STRONG, "steps": 50})
    at_work = [16 - int((result.steps < k).sum()) for k in range(51)]
    assert sizes == [n for n in at_work if n]
    assert result.reached.all() == (len(sizes) < 51)
    sizes.clear()
    fast_targeted_pgd(counting, x, model(x).argmax(1), early_stop=True, init="zero", steps=5)
    assert sizes == [16]


def test_a_shrinking_batch_keeps_its_memory_format(h):
    model, (x, _, target) = h.cnn().eval(), h.images(16)
    formats = set()

    def looking(images):
        formats.add(images.is_contiguous(memory_format=torch.channels_last))
        return model(images)

    for normalize in (None, ((0.5,) * 3, (0.2,) * 3)):
        channels_last = x.contiguous(memory_format=torch.channels_last)
        fast_targeted_pgd(looking, channels_last, target, early_stop=True, restarts=2, normalize=normalize, **STRONG)
    assert formats == {True}


@pytest.mark.parametrize("bn_mode", ["train", "train_frozen_stats"])
@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_where_batch_statistics_count_samples_stay_unmoved(h, bn_mode, targeted, norm):
    model, x, goal, attack, options = scene(h, targeted, norm)
    by_hand = copy.deepcopy(model).train()
    by_hand[6].eval()  # dropout
    x_adv = ops.pgd_init(x, options["eps"], seed=2, norm=norm)
    moving, steps = torch.ones(16, dtype=torch.bool), torch.zeros(16, dtype=torch.int64)
    for _ in range(6):
        probe = copy.deepcopy(by_hand)  # so that asking for the prediction moves no statistics
        moving &= (probe(x_adv).argmax(1) == goal) != targeted
        moved = h.textbook_pgd(
            by_hand, x_adv, x, goal, eps=options["eps"], step_size=options["step_size"], steps=1, targeted=targeted,
            norm=norm,
        )  # fmt: skip
        x_adv = torch.where(moving[:, None, None, None], moved, x_adv)
        steps += moving
    assert len(steps.unique()) > 2
    result = attack(model, x, goal, bn_mode=bn_mode, early_stop=True, return_info=True, **options)
    torch.testing.assert_close(result.x_adv, x_adv, rtol=0, atol=1e-12)
    assert torch.equal(result.steps, steps)
    if bn_mode == "train":
        torch.testing.assert_close(model[1].running_mean, by_hand[1].running_mean)


@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_zero_gradients_of_stopped_samples_are_not_counted(bn_mode):
    x = torch.tensor([[0.9, 0.5], [0.9, 0.5], [0.1, 0.5]])
    offset = torch.tensor([0.0, 1.0, 0.0])

    def masked(images):  # flat for a first pixel above 0.5, and there the model says class 1
        return torch.relu(0.5 - images[:, :1]) * torch.tensor([[4.0, 0.0, 2.0]]) + offset

    targets = torch.tensor([1, 0, 2])
    result = fast_targeted_pgd(
        masked, x, targets, eps=0.01, steps=4, init="zero", early_stop=True, return_info=True, bn_mode=bn_mode
    )
    assert result.reached.tolist() == [True, False, False]
    assert result.steps.tolist() == [0, 4, 4]
    assert result.zero_grad.tolist() == [0, 4, 0]


def test_early_stopping_with_restarts_keeps_the_best_of_what_they_reached(h):
    model, (x, _, target) = h.cnn(FLOAT64).eval(), h.images(9, FLOAT64)
    options = {**STRONG, "eps": 0.15}
    single = []
    for restart in range(3):
        start = ops.pgd_init(x, options["eps"], seed=2, stream=restart)
        single.append(fast_targeted_pgd(model, x, target, early_stop=True, return_info=True, init=start, **options))
    result = fast_targeted_pgd(model, x, target, early_stop=True, restarts=3, return_info=True, **options)
    for i in range(9):
        best = max(range(3), key=lambda r: (bool(single[r].reached[i]), -single[r].loss[i].item()))
        torch.testing.assert_close(result.x_adv[i], single[best].x_adv[i], rtol=0, atol=1e-12)
        assert result.steps[i] == single[best].steps[i]

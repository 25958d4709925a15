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


def stop_one_by_one(h, model, x, goal, *, targeted, norm, eps, step_size, steps, seed, extra_steps=0, stream=0):
    """Each sample on its own: step until it is at its goal with no extra step left, by a plain Python loop."""
    start = ops.pgd_init(x, eps, seed=seed, norm=norm, stream=stream)
    images, taken = [], []
    for i in range(len(x)):
        x_adv, used, left = start[i : i + 1], 0, extra_steps
        while used < steps:
            at_goal = bool((model(x_adv).argmax(1) == goal[i]) == targeted)
            if at_goal and left == 0:
                break
            left -= at_goal
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
@pytest.mark.parametrize("extra_steps", [0, 1, 3])
def test_early_stopping_equals_stopping_one_by_one(h, norm, targeted, return_info, extra, extra_steps):
    model, x, goal, attack, options = scene(h, targeted, norm)
    model.eval()
    options["extra_steps"] = extra_steps
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
    counting, sizes = h.counting(model)
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
@pytest.mark.parametrize("extra_steps", [0, 2])
def test_where_batch_statistics_count_samples_stay_unmoved(h, bn_mode, targeted, norm, extra_steps):
    model, x, goal, attack, options = scene(h, targeted, norm)
    by_hand = copy.deepcopy(model).train()
    by_hand[6].eval()  # dropout
    x_adv = ops.pgd_init(x, options["eps"], seed=2, norm=norm)
    moving, steps = torch.ones(16, dtype=torch.bool), torch.zeros(16, dtype=torch.int64)
    left = [extra_steps] * 16
    for _ in range(6):
        probe = copy.deepcopy(by_hand)  # so that asking for the prediction moves no statistics
        for i, at_goal in enumerate(((probe(x_adv).argmax(1) == goal) == targeted).tolist()):
            moving[i] &= not at_goal or left[i] > 0
            left[i] -= at_goal
        moved = h.textbook_pgd(
            by_hand, x_adv, x, goal, eps=options["eps"], step_size=options["step_size"], steps=1, targeted=targeted,
            norm=norm,
        )  # fmt: skip
        x_adv = torch.where(moving[:, None, None, None], moved, x_adv)
        steps += moving
    assert len(steps.unique()) > 2
    more = {"early_stop": True, "extra_steps": extra_steps, "return_info": True}
    result = attack(model, x, goal, bn_mode=bn_mode, **more, **options)
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


def first_that_reached(h, model, x, goal, restarts, **options):
    """(x_adv, steps, restart) of each sample: the first restart at its goal, else the one of least loss."""
    found = []
    for restart in range(restarts):
        x_adv, taken = stop_one_by_one(h, model, x, goal, targeted=True, norm="linf", stream=restart, **options)
        with torch.no_grad():
            logits = model(x_adv)
        found.append((x_adv, taken, logits.argmax(1) == goal, h.loss_value("ce", logits, goal)))
    best = []
    for i in range(len(x)):
        reached = [r for r in range(restarts) if found[r][2][i]]
        best.append(reached[0] if reached else min(range(restarts), key=lambda r: found[r][3][i].item()))
    return torch.stack([found[r][0][i] for i, r in enumerate(best)]), [found[r][1][i] for i, r in enumerate(best)], best


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 30])
@pytest.mark.parametrize("extra_steps", [0, 2])
def test_with_early_stopping_the_first_restart_at_its_goal_is_kept(h, chunk_size, extra_steps):
    model, (x, _, target) = h.cnn(FLOAT64).eval(), h.images(16, FLOAT64)
    options = {**STRONG, "eps": 0.15, "step_size": 0.01, "steps": 4, "extra_steps": extra_steps}
    expected, taken, best = first_that_reached(h, model, x, target, 4, **options)
    assert len(set(best)) > 2
    more = {"early_stop": True, "restarts": 4, "chunk_size": chunk_size}
    result = fast_targeted_pgd(model, x, target, return_info=True, **more, **options)
    torch.testing.assert_close(result.x_adv, expected, rtol=0, atol=1e-12)
    assert result.steps.tolist() == taken
    with torch.no_grad():
        assert torch.equal(result.reached, model(expected).argmax(1) == target)
    assert torch.equal(fast_targeted_pgd(model, x, target, **more, **options), result.x_adv)


def test_a_restart_attacks_only_those_whom_none_before_it_brought_to_their_goal(h):
    model, (x, _, target) = h.cnn().eval(), h.images(16)
    counting, sizes = h.counting(model)
    options = {"early_stop": True, "steps": 0, "eps": 0.3, "seed": 3}
    per_start = torch.stack([model(ops.pgd_init(x, 0.3, seed=3, stream=r)).argmax(1) == target for r in range(4)])
    left = [16 - int(per_start[:r].any(0).sum()) for r in range(4)]
    assert len(set(left)) > 2
    fast_targeted_pgd(counting, x, target, restarts=4, **options)
    assert sizes == left
    sizes.clear()
    fast_targeted_pgd(counting, x, target, restarts=4, chunk_size=10, **options)
    assert sizes == [size for n in left for size in ([10] * (n // 10) + [n % 10] * (n % 10 > 0))]


@pytest.mark.parametrize("bn_mode", ["train", "train_frozen_stats"])
def test_restarts_under_batch_statistics_keep_the_first_at_its_goal_too(h, bn_mode):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(9, FLOAT64)
    options = {**STRONG, "bn_mode": bn_mode, "early_stop": True, "return_info": True}
    result = fast_targeted_pgd(copy.deepcopy(model), x, target, restarts=3, **options)
    # The same 27 images in one batch, so with the same statistics, as a batch of its own.
    starts = torch.cat([ops.pgd_init(x, options["eps"], seed=2, stream=r) for r in range(3)])
    single = fast_targeted_pgd(copy.deepcopy(model), x.repeat(3, 1, 1, 1), target.repeat(3), init=starts, **options)
    for i in range(9):
        reached = [r for r in range(3) if single.reached[9 * r + i]]
        best = reached[0] if reached else min(range(3), key=lambda r: single.loss[9 * r + i].item())
        torch.testing.assert_close(result.x_adv[i], single.x_adv[9 * best + i], rtol=0, atol=1e-12)
        assert result.steps[i] == single.steps[9 * best + i]

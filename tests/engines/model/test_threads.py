"""Attacks in several threads at once: on one model they take turns, on different models they do not."""

from __future__ import annotations

import copy
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtat import fast_pgd, fast_targeted_pgd
from fairtat.engines.model.state import frozen
from fairtat.engines.model.turns import taking_turns

THREADS = 4
PATIENCE = 60  # seconds after which a test that hangs fails
QUICK = {"eps": 0.1, "step_size": 0.03, "steps": 3}


@pytest.fixture(autouse=True)
def often_switched():
    """Let threads alternate a thousand times as often as usual."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


def in_threads(function, arguments):
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result(PATIENCE) for future in [pool.submit(function, each) for each in arguments]]


def test_a_caller_draws_the_same_numbers_while_others_attack(h):
    x, _, target = h.images(6)
    started, stop = threading.Barrier(THREADS + 1), threading.Event()

    def masks():
        torch.manual_seed(0)
        drawn = []
        for _ in range(300):
            drawn.append(F.dropout(torch.ones(40), 0.5))
            time.sleep(1e-3)  # for the others
        return drawn

    def attack(model):
        started.wait(PATIENCE)
        while not stop.is_set():
            fast_targeted_pgd(model, x, target, seed=0, **QUICK)

    undisturbed = masks()
    with ThreadPoolExecutor(THREADS) as pool:
        attacks = [pool.submit(attack, h.cnn(seed=k)) for k in range(THREADS)]
        started.wait(PATIENCE)
        disturbed = masks()
        stop.set()
        for each in attacks:
            each.result(PATIENCE)
    assert sum(map(torch.equal, undisturbed, disturbed)) == 300


@pytest.mark.parametrize("wrapping", ["itself", "wrapped"])
def test_one_model_attacked_by_several_threads_gives_what_it_gives_to_one(h, wrapping):
    model, (x, _, target) = h.cnn().train(), h.images(6)
    views = {"itself": [model] * 3, "wrapped": [nn.Sequential(nn.Identity(), model), nn.DataParallel(model), model]}
    expected = [fast_targeted_pgd(copy.deepcopy(model), x, target, seed=seed, **QUICK) for seed in range(10)]
    before = h.snapshot(model)

    def attack(k):
        return torch.equal(fast_targeted_pgd(views[wrapping][k % 3], x, target, seed=k % 10, **QUICK), expected[k % 10])

    assert sum(in_threads(attack, range(120))) == 120
    assert h.same(h.snapshot(model), before)


def test_different_models_are_attacked_at_the_same_time(h):
    x, _, target = h.images(6)
    meeting = threading.Barrier(THREADS)

    class Meets(nn.Module):
        def forward(self, images):
            meeting.wait(PATIENCE)  # broken if one attack waits for another
            return images

    def attack(model):
        return fast_targeted_pgd(model, x, target, seed=0, **QUICK)

    models = [h.cnn(seed=k) for k in range(THREADS)]
    expected = [attack(model) for model in models]
    together = in_threads(attack, [nn.Sequential(Meets(), model) for model in models])
    assert all(map(torch.equal, together, expected))


def test_models_that_draw_are_repeatable_in_threads(h):
    x, _, target = h.images(6)

    class Noise(nn.Module):
        def forward(self, images):
            return images + 0.3 * torch.randn_like(images)

    models = [nn.Sequential(Noise(), h.cnn(seed=k)) for k in range(THREADS)]
    expected = [[fast_targeted_pgd(model, x, target, seed=seed, **QUICK) for seed in range(5)] for model in models]
    assert not torch.equal(expected[0][0], expected[0][1])

    def attack(k):
        return [fast_targeted_pgd(models[k], x, target, seed=seed, **QUICK) for seed in range(5)]

    state = torch.get_rng_state()
    for found, alone in zip(in_threads(attack, range(THREADS)), expected, strict=True):
        assert all(map(torch.equal, found, alone))
    assert torch.equal(torch.get_rng_state(), state)


def test_attacks_without_a_seed_all_have_one_of_their_own(h):
    model, (x, _, _) = nn.Flatten(), h.images(2)
    label = torch.zeros(2, dtype=torch.int64)
    starts = in_threads(lambda _: fast_pgd(model, x, label, steps=0), range(64))
    assert len({tuple(start.flatten().tolist()) for start in starts}) == 64


@pytest.mark.slow
def test_models_are_compiled_in_threads(h):
    x, _, target = h.images(6)
    models = [h.cnn(seed=k) for k in range(THREADS)]
    expected = [fast_targeted_pgd(model, x, target, seed=0, **QUICK) for model in models]
    found = in_threads(lambda model: fast_targeted_pgd(model, x, target, seed=0, engine="compiled", **QUICK), models)
    for ours, theirs in zip(found, expected, strict=True):
        assert ((ours - theirs).abs() > 1e-6).double().mean() < 0.01


# Turns


def test_a_thread_may_take_again_what_it_holds():
    with taking_turns({1, 2}), taking_turns({1, 2}), taking_turns({2, 3}):
        pass
    assert in_threads(lambda _: taking_turns({1}).__enter__(), range(1)) == [None]  # all was given back


def test_two_threads_that_wait_for_each_other_are_told_so():
    both_hold = threading.Barrier(2)

    def hold(mine, others):
        with taking_turns({mine}):
            both_hold.wait(PATIENCE)
            try:
                with taking_turns({others}):
                    return "got it"
            except RuntimeError as error:
                return str(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = [each.result(PATIENCE) for each in (pool.submit(hold, 1, 2), pool.submit(hold, 2, 1))]
    assert sorted(outcomes)[1] == "got it"
    assert "wait for each other" in sorted(outcomes)[0]


def test_a_model_is_free_again_after_an_error(h):
    model = h.cnn()
    with pytest.raises(ZeroDivisionError), frozen(model, "eval"):
        raise ZeroDivisionError
    assert in_threads(lambda _: frozen(model, "eval").__enter__().dtype, range(1)) == [torch.float32]

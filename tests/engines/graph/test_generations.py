"""What shares a stream with what, what must not disturb a capture, and what may pass, over the stub of CUDA graphs."""

from __future__ import annotations

import copy
import gc
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from attack_fixtures import SIX_STEPS
from torch import nn

from fairtat import fast_targeted_pgd
from fairtat.attacks import EngineFallback
from fairtat.engines.cache import record_of
from fairtat.engines.model.random_numbers import host_states, restore_host_states

pytestmark = pytest.mark.usefixtures("fallbacks_are_errors")


def attack(model, x, target, **options):
    return fast_targeted_pgd(model, x, target, **{**SIX_STEPS, "engine": "graph", "engine_check": "off", **options})


def eagerly(model, x, target, **options):
    return attack(model, x, target, engine="eager", **options)


def lanes(model):
    """The lane of each plan that a model has."""
    families = record_of(model, "graph").families.values()
    return [plan.generation.lane for family in families for plan in family.programs.values()]


def test_no_live_plan_shares_the_stream_of_a_retired_one(h, stub):
    stub.forget = True  # the stub would hold plans by the functions that it runs again
    models = [h.cnn(seed=seed) for seed in range(3)]
    x, _, target = h.images(8)
    generator = torch.Generator().manual_seed(4)
    for _ in range(40):
        i, n, norm, moves = torch.randint(6, (4,), generator=generator).tolist()
        model = models[i % 3]
        attack(model, x[: n + 3], target[: n + 3], norm=("linf", "l2")[norm % 2], eps=0.5)
        if moves == 0:  # all of its plans are of no use any more
            model[0].weight.data = model[0].weight.data.clone()
        if moves == 1:
            models[i % 3] = copy.deepcopy(model)
        del model
        living = [lane for model in models for lane in lanes(model)]
        retired = {entry[1] for entry in stub.log if entry[0] == "retire"}
        assert retired.isdisjoint(living)
        assert set(stub.live) == set(living)  # nothing is kept without need
        for model in models:  # models share no stream
            assert set(lanes(model)).isdisjoint(lane for other in models if other is not model for lane in lanes(other))
    assert len(retired) > 5
    assert stub.captures > stub.lanes  # plans of one model do share


def test_plans_captured_one_after_another_share_a_stream(h, stub):
    model, (x, _, target) = h.cnn(), h.images(8)
    for options in ({}, {"norm": "l2"}, {"steps": 4}):
        attack(model, x, target, **options)
    assert lanes(model) == [1, 1, 1]


def test_a_capture_that_fails_begins_another_generation(h, stub):
    model, (x, _, target) = h.cnn(), h.images(8)
    attack(model, x, target)
    stub.fail = RuntimeError("not permitted")
    with pytest.warns(EngineFallback, match="not permitted"):
        attack(model, x, target, norm="l2")
    stub.fail = None
    gc.collect()
    attack(model, x, target, steps=3)
    assert lanes(model) == [1, 2]
    assert set(stub.live) == {1, 2}


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_in_a_capture(h, stub, enabled):
    class Litters(nn.Linear):
        def forward(self, x):
            for _ in range(50):
                cycle = []
                cycle.append(cycle)
            return super().forward(x.flatten(1))

    model, (x, _, target) = Litters(108, 5), h.images(4)
    collected = []
    threshold = gc.get_threshold()
    gc.callbacks.append(watch := lambda phase, info: collected.append(stub.capturing))
    try:
        gc.set_threshold(1)
        if not enabled:
            gc.disable()
        attack(model, x, target)
        assert gc.isenabled() == enabled
    finally:
        gc.callbacks.remove(watch)
        gc.set_threshold(*threshold)
        gc.enable()
    assert stub.captures == 1
    assert not any(collected)
    assert bool(collected) == enabled  # outside of captures it was


@pytest.mark.parametrize(
    ("shortages", "captures", "messages"),
    [
        (1, [1, 1, 1], 0),  # asked for again after memory was freed
        (3, [0, 1, 1], 1),  # asked for again at the next call
        (9, [0, 0, 0], 1),  # and then no more
    ],
)
def test_memory_that_was_short_is_asked_for_again(h, stub, shortages, captures, messages):
    left = [shortages]

    class Hungry(nn.Linear):
        def forward(self, x):
            if stub.capturing and left[0] > 0:
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().forward(x.flatten(1))

    model, (x, _, target) = Hungry(108, 5), h.images(4)
    expected = eagerly(model, x, target)
    found = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert torch.equal(attack(model, x, target), expected)
            found.append(stub.captures)
    assert found == captures
    assert [str(w.message) for w in caught] == [
        "engine='graph' falls back to 'eager': there was no memory to capture 4 images"
    ] * messages
    assert left == [max(shortages - 4, 0)]  # two calls of two attempts
    assert "free" in stub.log


class DrawsFromPython(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)) * random.random()


class DrawsFromNumpy(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)) * np.random.rand()  # noqa: NPY002


@pytest.mark.parametrize(("kind", "name"), [(DrawsFromPython, "random"), (DrawsFromNumpy, r"numpy\.random")])
def test_a_forward_that_draws_on_the_host_runs_eagerly(h, stub, kind, name):
    model, (x, _, target) = kind(108, 5), h.images(4)
    before = host_states()
    expected = eagerly(model, x, target, norm="l2", eps=1.0)
    restore_host_states(before)
    with pytest.warns(EngineFallback, match=f"its forward draws random numbers from {name}$"):
        x_adv = attack(model, x, target, norm="l2", eps=1.0)
    assert torch.equal(x_adv, expected)  # with the numbers that the eager engine draws
    assert stub.captures == 0


def test_another_thread_may_draw_on_the_host_meanwhile(h, stub):
    model, (x, _, target) = h.cnn().eval(), h.images(4)
    calls = []

    class Elsewhere(nn.Module):
        def forward(self, images):
            calls.append(len(images))
            if len(calls) == 3:  # the first warm-up's second call
                thread = threading.Thread(target=random.random)
                thread.start()
                thread.join()
            return model(images)

    attack(Elsewhere(), x, target, steps=2)
    assert stub.captures == 1

"""An attack that ends early, by a Ctrl-C or by a warning that is an error, leaves the model as it was found."""

from __future__ import annotations

import itertools
import signal
import warnings

import pytest
import torch

from fairtat import fast_targeted_pgd
from fairtat.engines.compiled import program
from fairtat.engines.fallback import EngineFallback
from fairtat.engines.model import random_numbers, turns
from fairtat.engines.steps import Steps

QUICK = {"eps": 0.1, "step_size": 0.03, "steps": 2, "seed": 0}


@pytest.fixture(autouse=True)
def ctrl_c():
    """Python's own handler: a process that a shell started in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def patchwork(h):
    """A model whose flags all differ: one layer frozen, one BatchNorm frozen, gradients on some parameters."""
    model = h.cnn().train()
    model[4].eval()
    model[0].weight.requires_grad_(False)
    model[8].weight.grad = torch.randn_like(model[8].weight)
    return model


def interrupting(function, *, before):
    """The function with a Ctrl-C before it or after it."""

    def interrupted(*args, **kwargs):
        if before:
            signal.raise_signal(signal.SIGINT)
        function(*args, **kwargs)
        signal.raise_signal(signal.SIGINT)

    return interrupted


@pytest.mark.parametrize(
    ("where", "before"),
    [
        *itertools.product(["make_fx", "hoist", "functional_call", "input_gradient"], [True, False]),
        ("compile_graph", True),
        pytest.param("compile_graph", False, marks=pytest.mark.slow),
    ],
)
def test_a_ctrl_c_while_compiling(h, monkeypatch, where, before):
    model, (x, _, target), bn_mode = patchwork(h), h.images(6), "train_frozen_stats"
    found, state = h.snapshot(model), torch.get_rng_state()
    expected = fast_targeted_pgd(model, x, target, bn_mode=bn_mode, **QUICK)
    owner = {"functional_call": torch.func, "input_gradient": Steps}.get(where, program)
    with monkeypatch.context() as patch:
        if where != "compile_graph":
            patch.setattr(program, "compile_graph", lambda graph, inputs: graph)
        patch.setattr(owner, where, interrupting(getattr(owner, where), before=before))
        with pytest.raises(KeyboardInterrupt):
            fast_targeted_pgd(model, x, target, bn_mode=bn_mode, engine="compiled", **QUICK)
        assert h.same(h.snapshot(model), found)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fast_targeted_pgd(model, x, target, bn_mode=bn_mode, **QUICK), expected)
    # The engine's own memory is whole, too: it tries again.
    with monkeypatch.context() as patch:
        patch.setattr(program, "compile_graph", lambda graph, inputs: graph)
        x_adv = fast_targeted_pgd(model, x, target, bn_mode=bn_mode, engine="compiled", **QUICK)
    assert ((x_adv - expected).abs() > 1e-6).double().mean() < 0.01


@pytest.mark.parametrize("engine", ["compiled", "graph", "compiled_graph"])
def test_a_warning_that_is_an_error(h, engine):
    model, (x, _, target) = patchwork(h), h.images(6)
    found, state = h.snapshot(model), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EngineFallback):
            fast_targeted_pgd(model, x, target, engine=engine, eot=2, **QUICK)
        assert h.same(h.snapshot(model), found)
        fast_targeted_pgd(model, x, target, engine=engine, eot=2, **QUICK)  # said once
    assert h.same(h.snapshot(model), found)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_warns_under_a_filter_that_raises(h):
    class Warns(torch.nn.Module):
        def forward(self, images):
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            return images

    model, (x, _, target) = patchwork(h).append(Warns()), h.images(6)
    found, state = h.snapshot(model), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeprecationWarning):
            fast_targeted_pgd(model, x, target, **QUICK)
    assert h.same(h.snapshot(model), found)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_ctrl_c_while_waiting_for_another_thread_gives_nothing_away(monkeypatch):
    with turns.taking_turns({1}, thread=0):
        monkeypatch.setattr(turns._changed, "wait", lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt), turns.taking_turns({1}):
            pass
        assert [claim.thread for claim in turns._held] == [0]
    assert not turns._held
    assert not turns._waiting


def test_a_ctrl_c_while_generators_are_borrowed():
    state = torch.get_rng_state()

    def draw_and_stop():
        with random_numbers.borrowed_generators(torch.zeros(1), 3):
            torch.rand(5)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        draw_and_stop()
    assert torch.equal(torch.get_rng_state(), state)

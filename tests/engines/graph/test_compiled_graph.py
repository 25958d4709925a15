"""The compiled graph engine: the compiled program, captured and replayed (see also ../test_every_engine.py).

Over the stubs of CUDA graphs; test_graph_engine_gpu.py has it on a GPU.
"""

from __future__ import annotations

import logging

import pytest
import torch
from attack_fixtures import BN_MODES, NORMALIZE, SIX_STEPS, both, pairwise, stopping_early

from fairtat import TargetedPGD, fast_mixed_pgd, fast_pgd, fast_targeted_pgd
from fairtat.attacks import EngineFallback
from fairtat.engines.cache import record_of
from fairtat.engines.graph.captured import MAX_STEPS

FLOAT64 = torch.float64
ENGINE = "compiled_graph"
pytestmark = pytest.mark.usefixtures("fallbacks_are_errors")


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def program_of(model):
    (family,) = record_of(model, ENGINE).families.values()
    (program,) = family.programs.values()
    return program


@pytest.mark.parametrize(("bn_mode", "norm", "normalize"), pairwise(BN_MODES, ["linf", "l2"], [None, NORMALIZE]))
def test_targeted_equals_the_eager_engine(h, compiles, stub, bn_mode, norm, normalize):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(12, FLOAT64)
    options = {**SIX_STEPS, "norm": norm, "bn_mode": bn_mode, "normalize": normalize, "return_info": True}
    if normalize is not None:  # also one radius and one step for each sample
        options |= {"eps": torch.linspace(0, 0.2, 12), "step_size": torch.linspace(0, 0.05, 12), "y": y}
    expected, result, by_eager, by_graph = both(ENGINE, fast_targeted_pgd, model, x, target, calls=2, **options)
    for name in vars(expected):
        assert_same(getattr(result, name), getattr(expected, name))
    assert_same(list(by_graph.buffers()), list(by_eager.buffers()))
    assert not torch.equal(expected.x_adv, x)
    # One program; the graphs of the weights, of the steps and of the report, each replayed once a call.
    assert compiles == [12]
    assert (stub.captures, stub.replays) == (3, 6)


@pytest.mark.parametrize("steps", [1, 6, 7, 24, 50])
def test_a_graph_holds_as_many_steps_as_divide_the_attack(h, compiles, recorded, steps):
    model, (x, _, target) = h.cnn(FLOAT64).eval(), h.images(4, FLOAT64)
    options = {**SIX_STEPS, "steps": steps, "backend": "reference"}
    expected, x_adv, _, by_graph = both(ENGINE, fast_targeted_pgd, model, x, target, calls=2, **options)
    assert_same(x_adv, expected)
    program = program_of(by_graph)
    assert steps % program.steps_per_run == 0
    assert program.steps_per_run == {1: 1, 6: 6, 7: 7, 24: 12, 50: 10}[steps] <= MAX_STEPS
    # A replay for the weights, one for each graph's steps; the first call's check of the first run is another.
    assert recorded.replays >= 2 * (1 + steps // program.steps_per_run)


def test_each_attack_reads_the_weights_as_they_are(h, compiles, recorded):
    """Recorded graphs repeat operations, as real ones do, so what is not prepared anew stays as it was captured."""
    model, (x, y, target) = h.cnn(FLOAT64).eval(), h.images(8, FLOAT64)
    attack = TargetedPGD(model, engine=ENGINE, backend="reference", **SIX_STEPS)
    first = attack(x, target)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        model[1].running_mean.add_(0.1)
        expected = fast_targeted_pgd(model, x, target, engine="eager", backend="reference", **SIX_STEPS)
        assert_same(attack(x, target), expected)
    assert not torch.equal(first, expected)
    assert (compiles, recorded.captures) == ([8], 2)


@pytest.mark.parametrize(("norm", "extra_steps"), [("linf", 0), ("l2", 2)])
def test_early_stopping_equals_the_eager_engine(h, compiles, stub, norm, extra_steps):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(40, FLOAT64)
    options = {**stopping_early(norm), "return_info": True, "extra_steps": extra_steps}
    expected, result, *_ = both(ENGINE, fast_targeted_pgd, model, x, target, calls=2, **options)
    assert len(expected.steps.unique()) > 2
    for name in vars(expected):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), rtol=1e-9, atol=1e-12)
    assert compiles == [40]


def test_an_attack_ends_with_its_last_sample(h, compiles, stub):
    model, (x, _, _) = h.cnn().eval(), h.images(16)
    attack = TargetedPGD(model, engine=ENGINE, early_stop=True, init="zero", steps=30)
    reached = model(x).argmax(1)
    attack(x, reached)
    stub.replays = 0
    assert torch.equal(attack(x, reached), x)
    assert stub.replays == 2  # the weights and one run


def test_restarts_chunks_directions_and_layouts(h, compiles, stub):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(9, FLOAT64)
    options = {**SIX_STEPS, "restarts": 3, "chunk_size": 5, "return_info": True}
    expected, result, *_ = both(ENGINE, fast_targeted_pgd, model, x, target, calls=2, **options)
    assert_same(result.x_adv, expected.x_adv)
    last = x.contiguous(memory_format=torch.channels_last)
    expected, x_adv, *_ = both(ENGINE, fast_pgd, model, last, y, calls=2, **SIX_STEPS)
    assert_same(x_adv, expected)
    assert x_adv.stride() == last.stride()
    towards = torch.arange(9) % 2 == 0
    goal = torch.where(towards, target, y)
    expected, x_adv, *_ = both(ENGINE, fast_mixed_pgd, model, x, goal, towards, calls=2, **SIX_STEPS)
    assert_same(x_adv, expected)


def test_out_of_memory_is_tried_again_without_compiling_again(h, compiles, stub, monkeypatch):
    model, (x, _, target) = h.cnn(), h.images(6)
    capture, calls = stub.capture, []

    def once_full(function, lane):
        calls.append(lane)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("full")
        return capture(function, lane)

    monkeypatch.setattr(stub, "capture", once_full)
    expected = fast_targeted_pgd(model, x, target, engine="eager", **SIX_STEPS)
    x_adv = fast_targeted_pgd(model, x, target, engine=ENGINE, **SIX_STEPS)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-5)
    assert "free" in stub.log
    assert compiles == [6]


@pytest.mark.slow
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_what_inductor_makes_is_captured(h, stub, caplog, amp):
    """The program as it is in use, replayed by the stub."""
    model, (x, _, target) = h.cnn().eval(), h.images(8)
    model.requires_grad_()
    options = {**SIX_STEPS, "amp": amp, "normalize": NORMALIZE, "return_info": True}
    with caplog.at_level(logging.INFO, logger="fairtat"):
        expected, result, *_ = both(ENGINE, fast_targeted_pgd, model, x, target, calls=2, **options)
    off = (result.x_adv - expected.x_adv).abs() > 1e-6
    assert off.double().mean() < (0.01 if amp is None else 0.1)  # signs of gradients that are zero but for rounding
    assert not torch.equal(result.x_adv, x)
    assert "engine 'compiled_graph': tracing and compiling" in caplog.text
    assert "engine 'compiled_graph': captured" in caplog.text
    assert stub.captures == 3


def test_without_a_gpu_nothing_is_compiled(h, compiles):
    model, (x, _, target) = h.cnn(), h.images(6)
    with pytest.warns(EngineFallback, match="CUDA graphs need a GPU, and x is on cpu"):
        x_adv = fast_targeted_pgd(model, x, target, engine=ENGINE, **SIX_STEPS)
    assert torch.equal(x_adv, fast_targeted_pgd(model, x, target, engine="eager", **SIX_STEPS))
    assert compiles == []

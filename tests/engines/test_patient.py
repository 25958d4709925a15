"""engine="auto" on a CPU: when it compiles, when it leaves that alone, and what it gives either way."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from attack_fixtures import SIX_STEPS
from torch import nn

import fairtat
from fairtat import evaluate, fast_pgd, fast_targeted_pgd
from fairtat.engines import patient
from fairtat.engines.compiled import program
from fairtat.engines.patient import EAGER_PER_BUILD, LEAST_PASSES, TRIALS, build_seconds

FLOAT64 = torch.float64
pytestmark = pytest.mark.usefixtures("fallbacks_are_errors")


class FakeClock:
    """Everything between two looks at it takes ``seconds``: an eager pass, or one of a program."""

    def __init__(self):
        self.now, self.seconds = 0.0, 0.0

    def __call__(self):
        self.now += self.seconds
        return self.now


@pytest.fixture
def clock(monkeypatch):
    fake = FakeClock()
    monkeypatch.setattr(patient, "clock", fake)
    return fake


def auto(model, x, target, **options):
    return fast_targeted_pgd(model, x, target, **{**SIX_STEPS, **options})


def eagerly(model, x, target, **options):
    return auto(model, x, target, engine="eager", **options)


def earn(clock, model, x, target, **options):
    """Eager passes until the next one would compile."""
    clock.seconds = EAGER_PER_BUILD * build_seconds(model)
    for _ in range(LEAST_PASSES):
        auto(model, x, target, **options)


def test_short_work_is_never_compiled_nor_is_the_model_looked_into(h, compiles, clock, monkeypatch):
    model, (x, _, target) = h.cnn(), h.images(6)
    clock.seconds = 0.99 * EAGER_PER_BUILD * build_seconds(model) / 30
    monkeypatch.setattr(patient.Compiled, "serve", None)
    expected = eagerly(model, x, target)
    for _ in range(30):
        assert torch.equal(auto(model, x, target), expected)
    assert compiles == []


@pytest.mark.parametrize("share", [10.0, 1.0, 0.5, 0.3, 1 / 64])
def test_it_compiles_when_eager_passes_have_cost_a_multiple_of_a_build(h, compiles, clock, share):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    expected = eagerly(model, x, target)
    clock.seconds = share * EAGER_PER_BUILD * build_seconds(model)
    eager_calls = max(LEAST_PASSES, math.ceil(1 / share))
    for _ in range(eager_calls):
        assert torch.equal(auto(model, x, target), expected)  # to the last bit
    assert compiles == []
    clock.seconds = 0.0
    for _ in range(3):
        torch.testing.assert_close(auto(model, x, target), expected, rtol=0, atol=1e-12)
    assert compiles == [6]


def test_the_time_of_one_long_call_is_not_a_habit(h, compiles, clock):
    model, (x, _, target) = h.cnn(), h.images(6)
    clock.seconds = 1e6
    for _ in range(LEAST_PASSES):
        auto(model, x, target)
    assert compiles == []


def test_each_size_and_each_set_of_options_earns_its_own(h, compiles, clock):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(16, FLOAT64)
    earn(clock, model, x[:12], target[:12])
    auto(model, x, target)
    auto(model, x[:12], target[:12], loss="margin")
    assert compiles == []
    clock.seconds = 0.0
    auto(model, x[:12], target[:12])
    assert compiles == [12]
    # A smaller last batch is padded, one that is too small or larger is not compiled for.
    for n in (8, 3, 16):
        torch.testing.assert_close(
            auto(model, x[:n], target[:n]), eagerly(model, x[:n], target[:n]), rtol=0, atol=1e-12
        )
    assert compiles == [12]


def test_batch_statistics_are_never_padded(h, compiles, clock):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(12, FLOAT64)
    options = {"bn_mode": "train_frozen_stats"}
    earn(clock, model, x, target, **options)
    clock.seconds = 0.0
    auto(model, x, target, **options)
    assert compiles == [12]
    assert torch.equal(auto(model, x[:8], target[:8], **options), eagerly(model, x[:8], target[:8], **options))


def test_another_build_is_earned_anew(h, compiles, clock):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    earn(clock, model, x, target)
    clock.seconds = 0.0
    auto(model, x, target)
    assert compiles == [6]
    for width in (5, 7, 1):
        model[3] = nn.Conv2d(6, 8, 3, stride=2, padding=1, dtype=FLOAT64)
        model[0] = nn.Conv2d(3, 6, width, padding=width // 2, dtype=FLOAT64)
        assert torch.equal(auto(model, x, target), eagerly(model, x, target))
    assert compiles == [6]
    earn(clock, model, x, target)
    clock.seconds = 0.0
    auto(model, x, target)
    assert compiles == [6, 6]


def test_a_program_that_is_no_faster_goes_unused(h, compiles, clock, caplog):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    caplog.set_level(logging.INFO, "fairtat")
    earn(clock, model, x, target)
    for _ in range(TRIALS + 1):  # and the call that builds
        auto(model, x, target)
    assert compiles == [6]
    assert torch.equal(auto(model, x, target), eagerly(model, x, target))
    assert sum("goes back to 'eager'" in message for message in caplog.messages) == 1


class DecidesOnData(nn.Linear):
    def forward(self, x):
        z = super().forward(x.flatten(1))
        return z * 2 if z.sum() > 0 else z


def test_what_cannot_be_traced_is_tried_once_and_stays_eager(h, compiles, clock, caplog):
    model, (x, _, target) = DecidesOnData(108, 5), h.images(6)
    caplog.set_level(logging.INFO, "fairtat")
    earn(clock, model, x, target)
    for _ in range(3):
        assert torch.equal(auto(model, x, target), eagerly(model, x, target))
    assert compiles == []
    assert sum("stays 'eager'" in message for message in caplog.messages) == 1
    assert sum("compiling them" in message for message in caplog.messages) == 1


def test_without_a_compiler_it_is_eager(h, clock, monkeypatch):
    """Inductor's own error, raised here: what it finds out about a compiler it keeps for the whole process."""
    from torch._inductor.exc import InvalidCxxCompiler

    model, (x, _, target) = h.cnn(), h.images(6)
    tried = []

    def without_compiler(*_):
        tried.append(1)
        raise InvalidCxxCompiler

    monkeypatch.setattr(program, "compile_graph", without_compiler)
    earn(clock, model, x, target)
    for _ in range(3):
        assert torch.equal(auto(model, x, target), eagerly(model, x, target))
    assert tried == [1]


def test_it_says_once_what_it_does_and_how_to_turn_it_off(h, compiles, clock, caplog):
    model, (x, _, target) = h.cnn(), h.images(6)
    caplog.set_level(logging.INFO, "fairtat")
    earn(clock, model, x, target)
    assert caplog.messages == []
    clock.seconds = 0.0
    for _ in range(3):
        auto(model, x, target)
    (said,) = [message for message in caplog.messages if "auto" in message]
    assert "Sequential" in said
    assert "batches of 6" in said
    assert "engine='eager' turns this off" in said


@pytest.mark.parametrize("options", [{"early_stop": True}, {"engine": "eager"}, {"eot": 2}])
def test_options_that_stay_eager(h, compiles, clock, options):
    model, (x, _, target) = h.cnn(), h.images(6)
    clock.seconds = 1e6
    for _ in range(5):
        auto(model, x, target, **options)
    assert compiles == []


def test_deterministic_algorithms_keep_it_eager(h, compiles, clock):
    model, (x, _, target) = h.cnn(), h.images(6)
    clock.seconds = 1e6
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(5):
            auto(model, x, target)
    finally:
        torch.use_deterministic_algorithms(False)
    assert compiles == []


def test_a_callable_and_a_compiled_model_stay_as_they_are(h, compiles, clock):
    model, (x, _, target) = h.cnn().eval(), h.images(6)
    clock.seconds = 1e6
    compiled = torch.compile(model, backend="eager")
    for _ in range(LEAST_PASSES + 1):
        auto(lambda images: model(images), x, target)
        auto(compiled, x, target)
    assert compiles == []


def test_evaluations_keep_to_one_engine(h, compiles, clock):
    model, (x, y, _) = h.cnn().eval(), h.images(24)
    clock.seconds = 1e6
    for _ in range(3):
        evaluate(model, x, y, eps=0.1, steps=3, attacks=["pgd"], active_set=False, batch_size=6)
        fairtat.autoattack(model, x, y, eps=0.1, version="custom", attacks=["apgd-ce"], chunk_size=6)
    assert compiles == []


def test_accounts_are_bounded_and_go_with_their_model(h, clock):
    model = h.cnn()
    for n in range(1, patient.MAX_ACCOUNTS + 3):
        x, y, _ = h.images(n)
        fast_pgd(model, x, y, steps=1, eps=0.1)
    assert len(patient._ACCOUNTS[model].by_kind) == patient.MAX_ACCOUNTS
    before = len(patient._ACCOUNTS)
    del model
    assert len(patient._ACCOUNTS) == before - 1

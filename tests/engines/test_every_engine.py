"""What the compiled and the graph engine promise alike: the eager attack, a model left alone, one warning at most."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from attack_fixtures import BN_MODES, SIX_STEPS, both
from torch import nn

from fairtat import TargetedPGD, fast_pgd, fast_targeted_pgd
from fairtat.attacks import EngineFallback

FLOAT64 = torch.float64
pytestmark = pytest.mark.usefixtures("fallbacks_are_errors")


class Engine(NamedTuple):
    name: str
    built: Callable[[], int]  # programs compiled, or graphs captured, so far


@pytest.fixture(params=["compiled", "graph", "compiled_graph"])
def engine(request, compiles, stub):
    """An engine whose programs take no time to build, and need no GPU."""
    return Engine(request.param, lambda: len(compiles) + stub.captures)


def eagerly(model, *data, **options):
    return fast_targeted_pgd(model, *data, **{**options, "engine": "eager"})


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "targeted"),
    [("margin", True), ("dlr", True), ("ce", False), ("margin", False), ("dlr", False), ("kl", False)],
)
def test_every_loss_equals_the_eager_engine(h, engine, loss, targeted):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(9, FLOAT64)
    options = {**SIX_STEPS, "loss": loss}
    if loss == "kl":
        options |= {"clean_logits": torch.randn(9, h.classes, dtype=FLOAT64), "init": "normal"}
    attack, data = (fast_targeted_pgd, (x, target)) if targeted else (fast_pgd, (x, y))
    if targeted:
        options["y"] = y
    expected, x_adv, *_ = both(engine.name, attack, model, *data, calls=2, **options)
    assert engine.built() == {"compiled": 1, "graph": 1, "compiled_graph": 3}[engine.name]  # weights, program, graph
    assert not torch.equal(expected, x)
    if engine.name == "graph":
        assert torch.equal(x_adv, expected)
    else:
        assert_same(x_adv, expected)


@pytest.mark.parametrize("bn_mode", BN_MODES)
def test_a_smaller_last_batch_builds_nothing(h, engine, stub, bn_mode):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(16, FLOAT64)
    attack = TargetedPGD(model, engine=engine.name, bn_mode=bn_mode, **SIX_STEPS)
    for n in (16, 16, 11, 16, 3, 16):
        eager = copy.deepcopy(model)
        expected = eagerly(eager, x[:n], target[:n], bn_mode=bn_mode, return_info=True, **SIX_STEPS)
        result = attack(x[:n], target[:n], return_info=True)
        assert_same(result.x_adv, expected.x_adv)
        assert_same(result.loss, expected.loss)
        torch.testing.assert_close(list(model.buffers()), list(eager.buffers()))
    # The report is a graph of its own, and so is what the program needs of the weights.
    assert engine.built() == {"compiled": 1, "graph": 2, "compiled_graph": 4}[engine.name]
    graphs = {"compiled": 0, "graph": 2, "compiled_graph": 3}[engine.name]
    assert stub.replays == graphs * (5 if bn_mode == "eval" else 4)  # in eval mode alone is a batch padded


@pytest.mark.parametrize("bn_mode", BN_MODES)
def test_the_model_is_left_as_it_was_found(h, engine, bn_mode):
    model, (x, _, target) = h.cnn(), h.images(6)
    model[4].eval()
    model[0].weight.requires_grad_(False)
    model[8].weight.grad = torch.randn_like(model[8].weight)
    before, random_state = h.snapshot(model), torch.get_rng_state()
    for _ in range(2):
        fast_targeted_pgd(model, x, target, engine=engine.name, bn_mode=bn_mode, steps=3)
    after = h.snapshot(model)
    if bn_mode == "train":
        assert model[1].num_batches_tracked == before["buffers"][2] + 6
        assert torch.equal(model[4].running_mean, before["buffers"][3])  # frozen by hand
        del before["buffers"], after["buffers"]
    assert h.same(after, before)
    assert torch.equal(torch.get_rng_state(), random_state)


class DecidesOnData(nn.Linear):
    def forward(self, x):
        z = super().forward(x.flatten(1))
        return z * 2 if z.sum() > 0 else z


class SetsItself(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls = self.calls + 1
        return super().forward(x.flatten(1))


class HoldsATensor(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)) * HoldsATensor.factor


HoldsATensor.factor = torch.tensor(2.0, dtype=FLOAT64)


class ReplacesABuffer(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen = self.seen + 1
        return super().forward(x.flatten(1))


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1) + 0.1 * torch.randn_like(x.flatten(1)))


class Hooked(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_forward_hook(lambda module, inputs, output: output * 2)

    def forward(self, x):
        return super().forward(x.flatten(1))


UNSUPPORTED = [
    ("compiled", DecidesOnData, r"cannot be traced and compiled \(\w"),
    ("compiled", SetsItself, "its forward sets calls"),
    ("compiled", HoldsATensor, "cannot be traced and compiled"),
    ("compiled", Hooked, "hooks of the model"),
    ("compiled_graph", DecidesOnData, r"cannot be traced and compiled \(\w"),
    ("graph", SetsItself, "its forward sets calls, which a graph would not do"),
    ("graph", ReplacesABuffer, "its forward sets seen"),
    ("graph", Noisy, "its forward draws random numbers"),
    ("graph", Hooked, "the hooks of the model would run only"),
    ("compiled_graph", Hooked, "hooks of the model"),
]


@pytest.mark.parametrize(("engine", "kind", "message"), UNSUPPORTED, indirect=["engine"])
def test_an_unsupported_model_runs_eagerly_after_one_warning(h, engine, kind, message):
    x, _, target = h.images(6, FLOAT64)
    model = kind(108, 5).double()
    twin = copy.deepcopy(model)
    with pytest.warns(EngineFallback, match=message) as caught:
        x_adv = fast_targeted_pgd(model, x, target, engine=engine.name, **SIX_STEPS)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert torch.equal(x_adv, eagerly(twin, x, target, **SIX_STEPS))
    # No second warning (it would be an error here), and no second attempt.
    assert torch.equal(fast_targeted_pgd(model, x, target, engine=engine.name, **SIX_STEPS), x_adv)
    assert engine.built() == 0


def test_a_callable_runs_eagerly_with_a_warning(h, engine):
    model, (x, _, target) = h.cnn().eval(), h.images(6)
    with pytest.warns(EngineFallback, match=r"not a torch\.nn\.Module but a function"):
        x_adv = fast_targeted_pgd(lambda images: model(images), x, target, engine=engine.name, **SIX_STEPS)
    assert torch.equal(x_adv, eagerly(model, x, target, **SIX_STEPS))
    assert engine.built() == 0


class Detached(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)).detach()


def test_wrong_calls_fail_as_they_do_eagerly(h, engine):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    options = {"engine": engine.name, "steps": 2, "seed": 0}
    fast_targeted_pgd(model, x, target, **options)
    with pytest.raises(ValueError, match=r"must be below the model's 5 classes, got 7"):
        fast_targeted_pgd(model, x, torch.full_like(target, 7), **options)
    with pytest.raises(ValueError, match="needs at least 4 classes, the model has 3"):
        fast_targeted_pgd(nn.Linear(4, 3).double(), x[:, 0, 0, :4], target * 0, y=y * 0 + 1, loss="dlr", **options)
    with pytest.raises(RuntimeError, match="has no gradient with respect to its input"):
        fast_targeted_pgd(Detached(108, 5).double(), x, target, **options)
    assert_same(fast_targeted_pgd(model, x, target, **options), eagerly(model, x, target, **options))


def test_empty_batches_and_no_steps(h, engine):
    model, (x, _, target) = h.cnn(), h.images(4)
    result = fast_targeted_pgd(model, x[:0], target[:0], engine=engine.name, return_info=True)
    assert result.x_adv.shape == x[:0].shape
    assert result.logits.shape == (0, h.classes)
    assert torch.equal(fast_targeted_pgd(model, x, target, engine=engine.name, steps=0, init="zero"), x)
    assert engine.built() == 0

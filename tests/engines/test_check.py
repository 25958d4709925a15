"""No compiled or captured program is silently stale: what a model reads is seen, or its first pass is compared."""

from __future__ import annotations

import enum
import functools
import itertools
import types
import warnings
from collections import deque, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from attack_fixtures import pairwise
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fairtat import TargetedPGD, fast_targeted_pgd
from fairtat.attacks import EngineFallback
from fairtat.engines.cache import SETTINGS_VARY_AFTER
from fairtat.engines.check import Probe, _distance, probe

FLOAT64 = torch.float64
OPTIONS = {"eps": 0.3, "step_size": 0.1, "steps": 4, "seed": 0, "backend": "reference"}
OF_A_BUILD = {"compiled": 1, "graph": 1, "compiled_graph": 3}  # programs and graphs
ENGINES = list(OF_A_BUILD)
Pair = namedtuple("Pair", ["first", "second"])


@pytest.fixture(autouse=True)
def fallbacks_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineFallback)
        yield


@pytest.fixture
def builds(request, compiles, recorded):
    """How many programs or graphs were built, which run as they were built whatever becomes of the model."""
    return lambda: len(compiles) + recorded.captures


class Color(enum.Enum):
    RELU = "relu"
    TANH = "tanh"


@dataclass
class Config:
    act: str = "relu"
    inner: object = None


class Slotted:
    __slots__ = ("act", "unset")

    def __init__(self):
        self.act = "relu"


class Flips(nn.Module):
    def forward(self, weight):
        return weight.flip(0)


def relu(x, slope=0.0):
    return torch.where(x > 0, x, slope * x)


def tanh(x, slope=0.0):
    return torch.tanh(x)


def closed_over():
    act = "relu"

    def read():
        return act

    def write(value):
        nonlocal act
        act = value

    return read, write


class Base(nn.Module):
    def head(self, x):
        return self.last(x)


class Net(Base):
    """A network whose activation is read from everywhere."""

    shared = "relu"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 4)
        self.hidden = [nn.Softplus()]
        self.settings = {
            "dict": "relu", "list": ["relu"], "nested": {"a": [{"b": ("relu", ["relu"])}]}, "set": {"relu"},
            "deque": deque(["relu"]), "object": Config(inner=Config()), "slots": Slotted(), "enum": Color.RELU,
            "array": np.zeros(3), "named tuple": Pair("relu", ["relu"]), "partial": functools.partial(relu, slope=0.0),
        }  # fmt: skip
        self.read, self.write = closed_over()
        self.plain = types.FunctionType(relu.__code__, globals(), argdefs=(0.0,))

    @property
    def own(self):
        return "relu"

    def forward(self, x):
        x = self.hidden[0](self.first(x.flatten(1)))
        s = self.settings
        found = (
            s["dict"], s["list"][0], s["nested"]["a"][0]["b"][1][0], *s["set"], s["deque"][0], s["object"].act,
            s["object"].inner.act, s["slots"].act, s["enum"].value, s["named tuple"].second[0],
            "tanh" if s["array"].any() else "relu", self.shared, self.own, self.read(),
        )  # fmt: skip
        x = torch.tanh(x) if "tanh" in found else torch.relu(x - 0.5)
        return self.head(s["partial"](self.plain(x - 0.3) - 0.1))


def another_forward(self, x):
    return self.last(torch.sigmoid(self.first(x.flatten(1))))


def another_head(self, x):
    return self.last(x).flip(1)


def set_in(container, key, value):
    container[key] = value


CHANGES = {
    "a dict": lambda m, _: set_in(m.settings, "dict", "tanh"),
    "a list": lambda m, _: set_in(m.settings["list"], 0, "tanh"),
    "a list in a tuple in a dict in a list in a dict": lambda m, _: set_in(
        m.settings["nested"]["a"][0]["b"][1], 0, "tanh"
    ),
    "a set": lambda m, _: m.settings["set"].add("tanh"),
    "a deque": lambda m, _: m.settings["deque"].appendleft("tanh"),
    "a dataclass": lambda m, _: setattr(m.settings["object"], "act", "tanh"),
    "an object's object": lambda m, _: setattr(m.settings["object"].inner, "act", "tanh"),
    "a slot": lambda m, _: setattr(m.settings["slots"], "act", "tanh"),
    "an enum": lambda m, _: set_in(m.settings, "enum", Color.TANH),
    "an array": lambda m, _: set_in(m.settings["array"], 0, 1.0),
    "a list in a named tuple": lambda m, _: set_in(m.settings["named tuple"].second, 0, "tanh"),
    "a partial's arguments": lambda m, _: set_in(m.settings["partial"].keywords, "slope", -1.0),
    "a closure": lambda m, _: m.write("tanh"),
    "a function's code": lambda m, _: setattr(m.plain, "__code__", tanh.__code__),
    "a function's defaults": lambda m, _: setattr(m.plain, "__defaults__", (-1.0,)),
    "a module that is not registered": lambda m, _: setattr(m.hidden[0], "beta", 5.0),
    "forward of the object, by a method": lambda m, _: setattr(m, "forward", types.MethodType(another_forward, m)),
    "forward of the object, by a function": lambda m, _: setattr(m, "forward", functools.partial(another_forward, m)),
    "forward of the class": lambda m, patch: patch.setattr(Net, "forward", another_forward),
    "a method that forward calls": lambda m, patch: patch.setattr(Base, "head", another_head),
    "a property": lambda m, patch: patch.setattr(Net, "own", property(lambda self: "tanh")),
    "an attribute of the class": lambda m, patch: patch.setattr(Net, "shared", "tanh"),
    "the class of a layer": lambda m, patch: patch.setattr(nn.Linear, "forward", lambda self, x: -x @ self.weight.T),
    "a parametrization": lambda m, _: parametrize.register_parametrization(m.last, "weight", Flips()),
}


@pytest.mark.parametrize(("what", "engine", "check"), pairwise(list(CHANGES), ENGINES, ["first", "off"]))
def test_what_changes_a_model_is_seen(builds, monkeypatch, engine, check, what):
    model, x, target = Net().double(), torch.rand(6, 12, dtype=FLOAT64), torch.arange(6) % 4
    attack = TargetedPGD(model, engine_check=check, **OPTIONS)
    before = attack(x, target, engine=engine)
    at_first = builds()
    assert torch.equal(attack(x, target, engine=engine), before)
    assert builds() == at_first
    CHANGES[what](model, monkeypatch)
    expected = attack(x, target, engine="eager")
    assert not torch.allclose(expected, before, rtol=0, atol=1e-3)
    torch.testing.assert_close(attack(x, target, engine=engine), expected, rtol=0, atol=1e-12)
    assert builds() == 2 * at_first
    torch.testing.assert_close(attack(x, target, engine=engine), expected, rtol=0, atol=1e-12)
    assert builds() == 2 * at_first


@pytest.mark.parametrize("engine", ENGINES)
def test_a_number_in_a_tensor_is_what_it_was(builds, engine):
    class Scaled(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)) * self.scale.item()

    model, x, target = world(Scaled)
    model.scale = torch.tensor(1.0)
    attack = TargetedPGD(model, **OPTIONS)
    before = attack(x, target, engine=engine)
    model.scale.neg_()
    x_adv = attack(x, target, engine=engine)
    assert torch.equal(x_adv, attack(x, target, engine="eager"))
    assert not torch.equal(x_adv, before)


SCALE = 1.0  # a global variable is not part of a model


class ReadsTheWorld(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)) * SCALE


class ReadsAnObject(nn.Linear):
    """Of an iterator's state nothing can be seen."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.state = memoryview(bytearray(b"\x01"))

    def forward(self, x):
        return super().forward(x.flatten(1)) * (2 * self.state[0] - 1)


def world(make=ReadsTheWorld):
    torch.manual_seed(0)
    return make(12, 4).double(), torch.rand(6, 12, dtype=FLOAT64), torch.arange(6) % 4


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("check", ["first", "always", "off"])
def test_what_cannot_be_seen_is_found_by_checking_always(builds, monkeypatch, engine, check):
    model, x, target = world()
    attack = TargetedPGD(model, engine_check=check, **OPTIONS)
    before = attack(x, target, engine=engine)
    at_first = builds()
    for scale in (-1.0, 1.0, -1.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        expected = attack(x, target, engine="eager")
        for _ in range(2):
            x_adv = attack(x, target, engine=engine)
            assert torch.equal(x_adv, expected if check == "always" else before)
    assert builds() == at_first * (4 if check == "always" else 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_object_that_cannot_be_looked_into_is_a_doubt(builds, engine):
    model, x, target = world(ReadsAnObject)
    attack = TargetedPGD(model, **OPTIONS)
    attack(x, target, engine=engine)
    model.state[0] = 0
    assert torch.equal(attack(x, target, engine=engine), attack(x, target, engine="eager"))


def test_a_program_is_compared_once(builds, monkeypatch):
    model, x, target = world()
    calls = []
    monkeypatch.setattr(
        ReadsTheWorld, "forward", lambda self, x: (calls.append(1), nn.Linear.forward(self, x.flatten(1)))[1]
    )
    attack = TargetedPGD(model, engine="compiled", **OPTIONS)
    counts = []
    for options in ({}, {}, {"engine_check": "always"}, {"engine_check": "off"}):
        attack(x, target, **options)
        counts.append(len(calls))
    assert [b - a for a, b in itertools.pairwise(counts)] == [0, 1, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_program_that_was_wrong_from_the_start_gives_way_once(builds, engine, alone):
    class LooksBack(nn.Linear):
        def forward(self, x):
            watched = _get_current_dispatch_mode() is not None
            return super().forward(x.flatten(1)) * (-1 if watched else 1)

    model, x, target = world(LooksBack)
    attack = TargetedPGD(model, **OPTIONS)
    with pytest.warns(EngineFallback, match="what was built computes something else than the model") as caught:
        x_adv = attack(x, target, engine=engine)
    assert len(caught) == 1
    assert torch.equal(x_adv, attack(x, target, engine="eager"))
    assert torch.equal(x_adv, attack(x, target, engine=engine))  # another warning would be an error
    assert builds() == OF_A_BUILD[engine]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_log_that_grows_with_every_call_costs_few_builds(builds, engine):
    model, x, target = world()
    model.log = []
    attack = TargetedPGD(model, **OPTIONS)
    expected = attack(x, target)
    for n in range(8):
        model.log.append(n)
        assert torch.equal(attack(x, target, engine=engine), expected)
    assert builds() == (SETTINGS_VARY_AFTER + 1) * OF_A_BUILD[engine]
    model.weight = nn.Parameter(-model.weight.detach())
    model.log.append("what matters is seen all the same")
    assert torch.equal(attack(x, target, engine=engine), attack(x, target, engine="eager"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_forward_that_changes_what_it_holds_gives_way(builds, engine):
    class Logs(nn.Linear):
        def forward(self, x):
            self.log["calls"].append(1)
            return super().forward(x.flatten(1))

    model, x, target = world(Logs)
    model.log = {"calls": []}
    with pytest.warns(EngineFallback, match="its forward sets log"):
        fast_targeted_pgd(model, x, target, engine=engine, **OPTIONS)
    assert builds() == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_a_check_leaves_no_trace(h, builds, engine, bn_mode):
    (x, _, target), model = h.images(6, FLOAT64), h.cnn(FLOAT64)
    other = h.cnn(FLOAT64)
    state = torch.get_rng_state()
    for check, m in (("always", model), ("off", other)):
        x_adv = fast_targeted_pgd(m, x, target, engine=engine, engine_check=check, bn_mode=bn_mode, **OPTIONS)
    torch.testing.assert_close(list(model.buffers()), list(other.buffers()))
    assert h.same(h.snapshot(model)["tracking"], h.snapshot(other)["tracking"])
    assert torch.equal(torch.get_rng_state(), state)
    again = fast_targeted_pgd(h.cnn(FLOAT64), x, target, bn_mode=bn_mode, **{**OPTIONS, "engine": "eager"})
    torch.testing.assert_close(x_adv, again, rtol=0, atol=1e-12)


def test_random_layers_pass(h, builds):
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1) + 0.3 * torch.randn_like(x.flatten(1)))

    model, x, target = world(Noisy)
    fast_targeted_pgd(model, x, target, engine="compiled", **OPTIONS)  # a warning would be an error
    assert builds() == 1


def test_distances():
    a = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert _distance(a, a) == 0
    assert _distance(torch.zeros(2), torch.zeros(2)) == 0
    assert _distance(a, a + torch.tensor([[0.0, 0.05], [0.0, 0.0]])) == pytest.approx(0.01, rel=0.02)
    assert _distance(a, 2 * a) == pytest.approx(0.5)
    assert _distance(a, a[:, :1]) == torch.inf
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0])
    assert _distance(odd, odd.clone()) == 0
    assert _distance(odd, -odd) == torch.inf
    assert _distance(odd, torch.tensor([torch.nan, torch.inf, -torch.inf, 1.5])) == pytest.approx(1 / 3)
    assert _distance(odd, torch.ones(4)) == torch.inf


@pytest.mark.parametrize("shape", [(4, 3, 6, 6), (2, 3, 32, 32), (3, 108), (0, 5), (2, 1, 1, 200, 7)])
def test_a_probe_is_small_and_has_entries_of_every_row(shape):
    grad = torch.rand(shape)
    found = probe(torch.rand(shape[0], 4, requires_grad=True), grad)
    assert isinstance(found, Probe)
    assert not found.logits.requires_grad
    rows = grad.shape[1:-1].numel()
    assert found.gradient.shape[:-1] == grad.shape[:-1]
    assert rows <= found.gradient.shape[1:].numel() <= 16 + rows
    grad.zero_()
    assert shape[0] == 0 or found.gradient.any()

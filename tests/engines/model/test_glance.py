"""A glance sees every change that a thorough look sees, needs no Python call for a module, and keeps nothing alive."""

from __future__ import annotations

import copy
import gc
import sys
import types
import weakref

import pytest
import torch
import torch.nn.functional as F
from attack_fixtures import SIX_STEPS
from torch import nn

from fairtat import TargetedPGD, fast_targeted_pgd
from fairtat.engines.model.glance import Glance, Unclear
from fairtat.engines.model.structure import ModelStructure


class Config:
    def __init__(self):
        self.act = "relu"


def twice(x, factor=2.0, *, offset=0):
    return x * factor + offset


def make():
    """A model with settings of every kind, of classes of its own."""

    class Base(nn.Module):
        scale = 2.0
        table = {"a": [1]}  # noqa: RUF012

        def helper(self, x):
            return x * self.scale

    class Rich(Base):
        __doc__ = "text"

        def __init__(self):
            super().__init__()
            self.one, self.flag, self.name = 1, True, "name"
            self.shape, self.nested, self.numbers = (1, 2), (1, (2.0, "x")), [1, 2]
            self.cfg, self.object, self.kinds = {"act": "relu", "sizes": [1]}, Config(), {1, 2}
            self.act, self.function, self.method = F.relu, twice, self.helper
            self.closure = (lambda k: lambda x: x * k)(3)
            self.plain = torch.ones(2)
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.tied = self.linear
            self.register_buffer("counter", torch.zeros(2), persistent=False)
            self.register_buffer("late", None)

        def forward(self, x):
            return self.norm(self.linear(self.act(x)))

    return Rich()


def setter(name, value):
    return lambda model: setattr(model, name, value)


def rebind(model, name, value):
    getattr(model, name).data = value


def set_cell(function, value):
    function.__closure__[0].cell_contents = value


def replace_class(model):
    model.linear.__class__ = type("Other", (nn.Linear,), {})


def move(model, key):
    """The same values under another name, at the same place."""
    items = [(key + "_" if name == key else name, value) for name, value in vars(model).items()]
    vars(model).clear()
    vars(model).update(items)


def swap_parameters(model):
    a, b = model.linear._parameters["bias"], model.norm._parameters["bias"]
    model.linear._parameters["bias"], model.norm._parameters["bias"] = b, a


CHANGES = {
    "1 becomes True": setter("one", True),
    "1 becomes 1.0": setter("one", 1.0),
    "True becomes 1": setter("flag", 1),
    "text": setter("name", "other"),
    "tuple of equal numbers of other types": setter("shape", (True, 2)),
    "nested tuple": setter("nested", (1, (2.0, "y"))),
    "list in place": lambda m: m.numbers.append(3),
    "list, same length": lambda m: m.numbers.__setitem__(0, True),
    "list becomes a tuple": setter("numbers", (1, 2)),
    "dict in place": lambda m: m.cfg.__setitem__("act", "tanh"),
    "list in a dict": lambda m: m.cfg["sizes"].append(2),
    "object's attribute": lambda m: setattr(m.object, "act", "tanh"),
    "set in place": lambda m: m.kinds.add(3),
    "function": setter("act", F.gelu),
    "function's code": lambda m: setattr(m, "function", types.FunctionType(F.relu.__code__, {})),
    "closure": lambda m: set_cell(m.closure, 4),
    "plain tensor in place": lambda m: m.plain.add_(1),
    "plain tensor": setter("plain", torch.ones(2)),
    "attribute added": setter("new", 1),
    "attribute gone": lambda m: delattr(m, "one"),
    "attribute renamed": lambda m: move(m, "one"),
    "layer": setter("linear", nn.Linear(4, 4)),
    "layer added": lambda m: m.add_module("more", nn.ReLU()),
    "layer gone": lambda m: delattr(m, "norm"),
    "mode of a layer": lambda m: m.norm.eval(),
    "mode": lambda m: m.eval(),
    "eps": lambda m: setattr(m.norm, "eps", 1e-3),
    "class of a layer": replace_class,
    "weight": lambda m: setattr(m.linear, "weight", nn.Parameter(m.linear.weight.detach().clone())),
    "weight elsewhere": lambda m: rebind(m.linear, "weight", m.linear.weight.data.clone()),
    "weight transposed where it lies": lambda m: rebind(m.linear, "weight", m.linear.weight.data.t()),
    "buffer of another type where it lies": lambda m: rebind(m, "counter", m.counter.view(torch.int32)),
    "weight gone": lambda m: setattr(m.linear, "bias", None),
    "parameters change places": swap_parameters,
    "buffer": setter("counter", torch.zeros(2)),
    "buffer that was none": setter("late", torch.zeros(2)),
    "forward of the instance": lambda m: setattr(m, "forward", lambda x: x),
    "forward of a layer": lambda m: setattr(m.linear, "forward", lambda x: x),
    "forward of the class": lambda m: setattr(type(m), "forward", lambda self, x: x),
    "method of a base": lambda m: setattr(type(m).__mro__[1], "helper", lambda self, x: x),
    "code of a method": lambda m: setattr(type(m).forward, "__code__", (lambda self, x: x).__code__),
    "defaults of a method": lambda m: setattr(type(m).helper, "__defaults__", (1,)),
    "attribute of the class": lambda m: setattr(type(m), "scale", 3.0),
    "attribute of a base": lambda m: setattr(type(m).__mro__[1], "scale", 3.0),
    "dict of a base": lambda m: type(m).__mro__[1].table["a"].append(2),
    "hook": lambda m: m.linear.register_forward_hook(lambda *_: None),
    "pre-hook": lambda m: m.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda m: m.register_full_backward_hook(lambda *_: None),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_seen(what):
    model = make()
    glance = Glance(list(model.modules()))
    assert glance.same() == list(model.modules())
    CHANGES[what](model)
    gc.collect()
    assert glance.same() is None


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (lambda f: setattr(f, "__defaults__", (3.0,)), lambda f: setattr(f, "__defaults__", (2.0,))),
        (lambda f: setattr(f, "__kwdefaults__", {"offset": 1}), lambda f: setattr(f, "__kwdefaults__", {"offset": 0})),
        (lambda f: f.__kwdefaults__.update(offset=1), lambda f: f.__kwdefaults__.update(offset=0)),
    ],
)
def test_defaults_of_a_function(change, back):
    model = make()
    glance = Glance(list(model.modules()))
    try:
        change(twice)
        assert glance.same() is None
    finally:
        back(twice)


def test_what_training_does_is_no_change():
    model = make()
    glance = Glance(list(model.modules()))
    model(torch.rand(3, 4)).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    model.linear.weight.requires_grad_(False)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    assert glance.same() == list(model.modules())


def test_an_identity_is_not_taken_for_that_of_another_value():
    """Values that are dropped leave their address to the next ones."""
    model = make()
    glance = Glance(list(model.modules()))
    for _ in range(300):
        model.cfg = None
        model.cfg = {"act": "tanh", "sizes": [1]}
        model.linear.weight = None
        model.linear.weight = nn.Parameter(torch.zeros(4, 4))
        assert glance.same() is None


def test_nothing_is_kept_alive():
    model = make()
    model.itself = [model]
    glance = Glance(list(model.modules()))
    gone = weakref.ref(model), weakref.ref(model.linear.weight)
    del model
    gc.collect()
    assert [ref() for ref in gone] == [None] * 2
    assert glance.same() is None


def test_what_only_a_thorough_look_sees_has_no_glance():
    class Odd(torch.Tensor):
        pass

    hooked, odd = make(), make()
    hooked.register_forward_hook(lambda *_: None)
    odd.register_buffer("odd", torch.zeros(2).as_subclass(Odd))
    sparse = make()
    sparse.register_buffer("sparse", torch.eye(3).to_sparse())
    for model in (hooked, odd, sparse, torch.jit.script(nn.Linear(2, 2))):
        with pytest.raises(Unclear):
            Glance(list(model.modules()))


def deep(depth):
    layers = [layer for _ in range(depth) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(108, 5))


def calls_of(function):
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("training", [True, False])
def test_a_replay_needs_no_call_for_a_module(h, stub, alone, training):
    """Python-level calls of a whole attack that is a replay: the budget of the host's time before a launch."""
    stub.forget = True
    x, _, target = h.images(4)
    counts = []
    for depth in (1, 30):
        attack = TargetedPGD(
            deep(depth).train(training), engine="graph", engine_check="off", check=False, init="zero", **SIX_STEPS
        )
        for _ in range(3):
            attack(x, target)
        counts.append(calls_of(lambda: attack(x, target)))  # noqa: B023
    assert counts[0] == counts[1]
    assert counts[0] <= 380


@pytest.mark.parametrize("engine", ["graph", "compiled"])
def test_a_model_that_is_not_frozen_gives_the_same_attack(h, recorded, compiles, engine):
    """A replay leaves the model in the mode it is in; training moves it meanwhile, and engines share what is known."""
    model, (x, y, target) = h.cnn(), h.images(6)
    options = {**SIX_STEPS, "backend": "reference", "bn_mode": "eval"}
    seen = []
    for step in range(6):
        expected = fast_targeted_pgd(copy.deepcopy(model), x, target, engine="eager", **options)
        before = h.snapshot(model)
        x_adv = fast_targeted_pgd(model, x, target, engine=engine, **options)
        assert ((x_adv - expected).abs() > 1e-5).double().mean() < 0.01
        assert h.same(h.snapshot(model), before)
        if step == 3:
            model[2] = nn.Tanh()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(recorded.captures if engine == "graph" else len(compiles))
    assert seen == [1, 1, 1, 1, 2, 2]


def test_a_glance_is_as_old_as_the_thorough_look():
    """What it stands for is the signature of the model at that moment."""
    model = make()
    before = ModelStructure.of(model).signature(addresses=True)
    glance = Glance(list(model.modules()))
    assert glance.same()
    assert ModelStructure.of(model).signature(addresses=True) == before

"""engine="auto" on a CPU: a count of operations chooses, one attack at a time."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from fairtat.attacks import EngineFallback, apgd
from fairtat.attacks.autoattack import APGD, FAB, Square, autoattack
from fairtat.attacks.autoattack.stages import Stage
from fairtat.attacks.carlini_wagner import CarliniWagner
from fairtat.attacks.deep_fool import DeepFool
from fairtat.attacks.multi_targeted import MultiTargeted
from fairtat.engines import operations
from fairtat.engines.base import Unsupported
from fairtat.engines.compiled.engine import Compiled
from fairtat.engines.operations import OperationCount, engine_for
from fairtat.engines.patient import EAGER_PER_BUILD, build_seconds

pytestmark = pytest.mark.usefixtures("compiles")
APGD_AND_SQUARE = {"version": "custom", "attacks": [("apgd", APGD(n_iter=4)), ("square", Square(n_queries=40))]}


def worth(model):
    """The operations from which a program of this model is worth its build."""
    return EAGER_PER_BUILD * build_seconds(model) * operations._FLOPS


def per_image(model, x):
    count = OperationCount()
    with torch.no_grad(), count:
        model(x[:1])
    return count.total


@pytest.fixture
def case(h):
    model, (x, _, _) = h.cnn(torch.float64).eval(), h.images(6, torch.float64)
    return model, x, model(x).argmax(1)


def test_the_rule(case, monkeypatch):
    model, _, _ = case
    enough = worth(model)
    assert engine_for(model, 0.99 * enough, "x") == "eager"
    assert engine_for(model, 1.01 * enough, "x") == "compiled"
    with monkeypatch.context() as patched:  # one process of several threads and several of one choose the same
        patched.setattr(torch, "get_num_threads", lambda: 64)
        assert engine_for(model, 1.01 * enough, "x") == "compiled"
    hook = model.register_forward_hook(lambda *_: None)
    assert engine_for(model, 2 * enough, "x") == "eager"
    hook.remove()
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert engine_for(model, 2 * enough, "x") == "eager"


def test_each_attack_of_the_suite_gets_the_engine_that_its_own_passes_pay_for(case, compiles, monkeypatch):
    model, x, y = case
    most = {name: len(x) * stage.passes(10) * per_image(model, x) for name, stage in APGD_AND_SQUARE["attacks"]}
    assert most["apgd"] < 0.5 * most["square"]
    between = (most["apgd"] + most["square"]) / 2
    monkeypatch.setattr(operations, "_FLOPS", operations._FLOPS * between / worth(model))
    options = {"eps": 1e-3, **APGD_AND_SQUARE}
    chosen = autoattack(model, x, y, **options)
    assert compiles == [6]
    again = autoattack(model, x, y, **options)
    eagerly = autoattack(model, x, y, engine="eager", **options)
    assert torch.equal(again[0], chosen[0])  # the same call, the same bits
    assert torch.equal(chosen[1].robust, eagerly[1].robust)
    torch.testing.assert_close(chosen[0], eagerly[0], rtol=0, atol=1e-12)


def test_few_images_stay_eager_and_many_do_not(case, compiles, monkeypatch):
    model, x, y = case
    monkeypatch.setattr(operations, "_FLOPS", 4.5 * 5 * 3 * per_image(model, x) * operations._FLOPS / worth(model))
    apgd(model, x[:4], y[:4], eps=1e-3, n_iter=4)
    assert compiles == []
    apgd(model, x[:5], y[:5], eps=1e-3, n_iter=4)
    assert compiles == [5]


def test_a_model_that_cannot_be_compiled_is_attacked_eagerly_without_a_word_unless_it_was_asked_for(case, monkeypatch):
    model, x, y = case
    monkeypatch.setattr(operations, "_FLOPS", 1.0)

    def build(self, size, spans):
        raise Unsupported("a reason")

    monkeypatch.setattr(Compiled, "build", build)
    expected = apgd(model, x, y, n_iter=4, engine="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(apgd(model, x, y, n_iter=4), expected)
    with pytest.warns(EngineFallback, match="a reason"):
        apgd(model, x, y, n_iter=4, engine="compiled")


@pytest.mark.parametrize("wrapped", ["callable", "compiled in part"])
def test_what_has_no_program_is_not_counted(case, wrapped, monkeypatch):
    model, x, y = case
    monkeypatch.setattr(operations, "_FLOPS", 1.0)
    monkeypatch.setattr(OperationCount, "__enter__", None)
    inner = nn.Sequential(torch.compile(model, backend="eager")) if wrapped == "compiled in part" else model.forward
    assert torch.equal(apgd(inner, x, y, n_iter=2), apgd(model, x, y, n_iter=2, engine="eager"))


STAGES: dict[str, Stage] = {
    "apgd-ce": APGD("ce", n_iter=6, n_restarts=2),
    "apgd-t": APGD("dlr-targeted", n_iter=6),
    "fab": FAB(n_iter=6),
    "fab-t": FAB(targeted=True, n_iter=6),
    "square": Square(n_queries=119, n_restarts=2),
    "mt": MultiTargeted(n_iter=6),
    "cw-l2": CarliniWagner(n_iter=30, binary_search_steps=2, abort_early=False),
    "deepfool": DeepFool(n_iter=6),
}


@pytest.mark.parametrize("name", STAGES)
def test_passes_are_an_upper_bound_and_not_far_above_the_operations_made(case, name):
    # Where nothing falls, all steps are made. Back to the input costs as much as forward, and is counted as two.
    model, x, y = case
    with OperationCount() as count:
        autoattack(
            model, x, y, eps=0.0 if name == "deepfool" else 1e-9, norm="l2", version="custom",
            attacks=[(name, STAGES[name])], engine="eager",
        )  # fmt: skip
    asked = STAGES[name].passes(model(x).shape[1]) * per_image(model, x) * len(x)
    if name == "deepfool":  # with radius 0 no step is made
        assert count.total < asked
    else:
        assert 0.5 < count.total / asked <= 1.05, count.total / asked

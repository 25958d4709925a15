"""The compiled engine gives the eager engine's attack and compiles once (see also ../test_every_engine.py)."""

from __future__ import annotations

import gc
import logging
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from attack_fixtures import BN_MODES, NORMALIZE, SIX_STEPS, both, pairwise, stopping_early
from torch import nn

from fairtat import TargetedPGD, fast_pgd, fast_targeted_pgd
from fairtat.attacks import EngineFallback
from fairtat.engines.cache import record_of
from fairtat.engines.compiled import program

FLOAT64 = torch.float64
pytestmark = pytest.mark.usefixtures("fallbacks_are_errors")


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("bn_mode", "norm", "normalize"), pairwise(BN_MODES, ["linf", "l2"], [None, NORMALIZE]))
def test_targeted_equals_the_eager_engine(h, compiles, bn_mode, norm, normalize):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(9, FLOAT64)
    options = {**SIX_STEPS, "bn_mode": bn_mode, "norm": norm, "normalize": normalize}
    if norm == "l2":
        options |= {"eps": 0.8, "step_size": 0.2}
    if normalize is not None:  # also one radius and one step for each sample
        options["eps"] = torch.linspace(0.02, 0.3, 9, dtype=FLOAT64)
        options["step_size"] = torch.linspace(0.2, 0.01, 9, dtype=FLOAT64)
    expected, x_adv, by_eager, by_graph = both("compiled", fast_targeted_pgd, model, x, target, **options)
    assert compiles == [9]
    assert_same(x_adv, expected)
    assert not torch.equal(expected, x)
    for ours, theirs in zip(by_graph.buffers(), by_eager.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    moved = not torch.equal(by_graph[1].running_mean, model[1].running_mean)
    assert moved == (bn_mode == "train")


@pytest.mark.parametrize(
    ("bn_mode", "options"),
    [
        ("eval", {}),
        ("eval", {"restarts": 2, "chunk_size": 6}),
        ("train", {"restarts": 2, "chunk_size": 6}),
        ("train_frozen_stats", {"restarts": 3}),
        ("train", {"steps": 0}),
    ],
)
def test_the_report_equals_that_of_the_eager_engine(h, compiles, bn_mode, options):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(9, FLOAT64)
    options = {**SIX_STEPS, **options, "bn_mode": bn_mode, "return_info": True, "normalize": NORMALIZE}
    expected, result, by_eager, by_graph = both("compiled", fast_targeted_pgd, model, x, target, **options)
    for name in ("x_adv", "logits", "loss"):
        assert_same(getattr(result, name), getattr(expected, name))
    for name in ("pred", "reached", "zero_grad", "steps"):
        assert torch.equal(getattr(result, name), getattr(expected, name))
    torch.testing.assert_close(list(by_graph.buffers()), list(by_eager.buffers()))


def test_zero_gradients_are_counted(compiles):
    class Dead(nn.Module):
        def forward(self, x):
            return F.relu(x.flatten(1)[:, :3] - 0.5)

    x = torch.tensor([[0.1, 0.2, 0.3, 0.0], [0.9, 0.2, 0.8, 0.1]])
    expected, result, *_ = both(
        "compiled", fast_targeted_pgd, Dead(), x, torch.tensor([0, 1]), return_info=True, **{**SIX_STEPS, "eps": 0.01}
    )
    assert result.zero_grad.tolist() == expected.zero_grad.tolist() == [6, 0]


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 1, stride=2)),
        (nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=2)),
        (nn.Conv2d(3, 4, 2, stride=2), nn.ConvTranspose2d(4, 2, 3, stride=2)),
        (nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.GroupNorm(2, 4)),
    ],
    ids=str,
)
def test_networks_of_other_layers(h, compiles, layers):
    x, _, target = h.images(5, FLOAT64)
    model = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(h.classes)).double()
    model(x)
    expected, x_adv, *_ = both("compiled", fast_targeted_pgd, model, x, target, **SIX_STEPS)
    assert compiles == [5]
    assert_same(x_adv, expected)


def test_vectors_channels_last_and_outputs_with_logits(h, compiles):
    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return SimpleNamespace(logits=self.inner(x))

    x, _, target = h.images(5, FLOAT64)
    x = x.contiguous(memory_format=torch.channels_last)
    expected, x_adv, *_ = both("compiled", fast_targeted_pgd, Wrapped(h.cnn(FLOAT64)), x, target, **SIX_STEPS)
    assert_same(x_adv, expected)
    assert x_adv.is_contiguous(memory_format=torch.channels_last)
    vectors = x.flatten(1)
    expected, x_adv, *_ = both(
        "compiled", fast_targeted_pgd, nn.Linear(108, 4).double(), vectors, target % 4, **SIX_STEPS
    )
    assert_same(x_adv, expected)
    assert compiles == [5, 5]


@pytest.mark.parametrize("how", ["amp", "caller"])
@pytest.mark.parametrize("normalize", [None, NORMALIZE])
def test_bfloat16_is_that_of_the_eager_engine(h, compiles, how, normalize):
    model, (x, _, target) = h.cnn(), h.images(32)
    amp = torch.bfloat16 if how == "amp" else None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "caller"):
        options = {**SIX_STEPS, "amp": amp, "normalize": normalize, "return_info": True}
        expected, result, *_ = both("compiled", fast_targeted_pgd, model, x, target, **options)
    assert compiles == [32]
    assert result.x_adv.dtype == torch.float32
    assert result.logits.dtype == torch.bfloat16
    assert ((result.x_adv - expected.x_adv).abs() > 1e-6).double().mean() < 0.15  # as bfloat16 and float32 do
    assert (result.loss.mean() - expected.loss.mean()).abs() < 0.02 * expected.loss.mean()


def test_changed_weights_are_seen_without_another_compilation(h, compiles):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(9, FLOAT64)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        x_adv = fast_targeted_pgd(model, x, target, engine="compiled", **SIX_STEPS)
        assert_same(x_adv, fast_targeted_pgd(model, x, target, **SIX_STEPS))
        optimizer.zero_grad()
        F.cross_entropy(model(x_adv), y).backward()
        optimizer.step()
    with torch.no_grad():
        model[0].weight = nn.Parameter(torch.randn_like(model[0].weight))
    x_adv = fast_targeted_pgd(model, x, target, engine="compiled", **SIX_STEPS)
    assert_same(x_adv, fast_targeted_pgd(model, x, target, **SIX_STEPS))
    assert compiles == [9]


def test_settings_that_make_another_graph(h, compiles):
    model, (x, y, target) = h.cnn(), h.images(6)
    attack = TargetedPGD(model, engine="compiled", **SIX_STEPS)
    for options in ({}, {"seed": 1}, {"eps": 0.2}, {"step_size": torch.full((6,), 0.01)}, {"check": False}):
        attack(x, target, y, **options)
    assert compiles == [6]
    attack(x, target, y, loss="margin")
    attack(x, target, y, normalize=NORMALIZE)
    attack(x, target, y, bn_mode="train_frozen_stats")
    attack(x.contiguous(memory_format=torch.channels_last), target, y)
    fast_pgd(model, x, y, engine="compiled", **SIX_STEPS)
    assert len(compiles) == 6


def test_programs_go_with_the_model(h, compiles):
    model, (x, _, target) = h.cnn(), h.images(6)
    fast_targeted_pgd(model, x, target, engine="compiled", **SIX_STEPS)
    (family,) = record_of(model, "compiled").families.values()
    gone = weakref.ref(model), weakref.ref(family)
    del model, family
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_compilation_is_logged(h, compiles, caplog):
    x, _, target = h.images(6)
    with caplog.at_level(logging.INFO, "fairtat"):
        fast_targeted_pgd(h.cnn(), x, target, engine="compiled", steps=2)
    text = " ".join(record.getMessage() for record in caplog.records)
    assert "compiling Sequential for 6 images" in text
    assert "built in" in text


def test_a_model_under_torch_compile_is_taken_for_what_it_wraps(h, compiles):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    x_adv = fast_targeted_pgd(torch.compile(model, backend="eager"), x, target, engine="compiled", **SIX_STEPS)
    assert_same(x_adv, fast_targeted_pgd(model, x, target, **SIX_STEPS))
    assert compiles == [6]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("stage", ["tracing", "compiling", "running"])
def test_after_an_exception_too(h, compiles, monkeypatch, error, stage):
    def fail(*_):
        raise error

    model, (x, _, target) = h.cnn(), h.images(6)
    if stage == "tracing":
        monkeypatch.setattr(model[8], "forward", fail)
    else:
        monkeypatch.setattr(program, "compile_graph", fail if stage == "compiling" else lambda *_: fail)
    before, before_modes = h.snapshot(model), [dict(vars(m)) for m in model.modules()]
    if stage == "compiling" and error is ZeroDivisionError:
        with pytest.warns(EngineFallback, match=r"cannot be traced and compiled \(ZeroDivisionError"):
            fast_targeted_pgd(model, x, target, engine="compiled", bn_mode="train_frozen_stats", steps=2)
    else:
        with pytest.raises(error):
            fast_targeted_pgd(model, x, target, engine="compiled", bn_mode="train_frozen_stats", steps=2)
    assert h.same(h.snapshot(model), before)
    assert [dict(vars(m)) for m in model.modules()] == before_modes


@pytest.mark.parametrize(
    ("extra", "norm", "targeted", "return_info"),
    [
        ({}, "linf", True, True),
        ({}, "l2", False, False),
        ({"extra_steps": 2}, "linf", False, True),
        ({"normalize": NORMALIZE, "momentum": 0.9}, "linf", True, True),
        ({"restarts": 3, "chunk_size": 7}, "linf", False, True),
        ({"bn_mode": "train_frozen_stats"}, "l2", True, True),
        ({"step_schedule": [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.1, 0.1, 0.1]}, "linf", True, True),
    ],
)
def test_early_stopping_equals_the_eager_engine(h, compiles, extra, norm, targeted, return_info):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(40, FLOAT64)
    options = {**stopping_early(norm), "return_info": return_info, **extra}
    attack, goal = (fast_targeted_pgd, target) if targeted else (fast_pgd, y)
    expected, result, *_ = both("compiled", attack, model, x, goal, calls=2, **options)
    assert compiles
    if not return_info:
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
        return
    assert len(expected.steps.unique()) > 2
    for name in vars(expected):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), rtol=1e-9, atol=1e-12)


def test_with_early_stopping_nothing_runs_once_all_have_stopped(h, compiles, monkeypatch):
    model, (x, *_) = h.cnn().eval(), h.images(6)
    goal = model(x).argmax(1)
    runs = []
    run = program.CompiledSteps.run
    monkeypatch.setattr(program.CompiledSteps, "run", lambda *given: runs.append(1) or run(*given))
    attack = TargetedPGD(model, engine="compiled", early_stop=True, init="zero", steps=30, engine_check="off")
    assert torch.equal(attack(x, goal), x)
    assert len(runs) == 1


def test_inductor_gives_the_same_attack(h):
    model, (x, _, target) = nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.ReLU(), nn.Linear(16, 5)), h.images(64)
    expected, result, *_ = both("compiled", fast_targeted_pgd, model, x, target, return_info=True, **SIX_STEPS)
    assert ((result.x_adv - expected.x_adv).abs() > 1e-6).double().mean() <= 1e-3
    assert torch.equal(result.reached, expected.reached)


@pytest.mark.slow
@pytest.mark.parametrize("bn_mode", BN_MODES)
def test_inductor_on_a_cnn_in_every_mode(h, bn_mode):
    model, (x, _, target) = h.cnn(), h.images(64)
    options = {**SIX_STEPS, "bn_mode": bn_mode, "return_info": True, "normalize": NORMALIZE}
    expected, result, by_eager, by_graph = both("compiled", fast_targeted_pgd, model, x, target, **options)
    assert ((result.x_adv - expected.x_adv).abs() > 1e-6).double().mean() <= 1e-3
    assert torch.equal(result.reached, expected.reached)
    torch.testing.assert_close(list(by_graph.buffers()), list(by_eager.buffers()))
    assert h.same(h.snapshot(by_graph)["training"], h.snapshot(model)["training"])


@pytest.fixture(scope="module")
def digits():
    """(a small CNN that was fitted to handwritten digits, 512 test images, their labels)."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(data.target)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):
        for rows in torch.randperm(len(x) - 512).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval(), x[-512:], y[-512:]


@pytest.mark.slow
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_inductor_is_as_strong_on_a_fitted_network(digits, amp):
    model, x, y = digits
    options = {"eps": 0.1, "step_size": 0.02, "steps": 10, "seed": 0, "return_info": True}
    expected = fast_pgd(model, x, y, **options)
    x_adv = fast_pgd(model, x, y, engine="compiled", amp=amp, **options).x_adv
    with torch.no_grad():
        success = (model(x_adv).argmax(1) != y).double().mean()
    assert 0.1 < expected.reached.double().mean() < 0.9
    assert (success - expected.reached.double().mean()).abs() <= 0.005
    if amp is None:
        assert ((x_adv - expected.x_adv).abs() > 1e-6).double().mean() <= 1e-3

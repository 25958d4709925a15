"""The kinds of model that people attack, on every engine and in both norms, against the textbook attack in float64."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from attack_fixtures import pairwise
from torch import nn
from wild_models import DRAWING, EXACT, SIZE, Head, InPlace, N, Plain, conv, model_of, scene

import fairtat
from fairtat import fast_pgd, fast_targeted_pgd, ops
from fairtat.attacks import EngineFallback

LINF = {"norm": "linf", "eps": 0.1, "step_size": 0.03, "steps": 4, "seed": 0}
L2 = {**LINF, "norm": "l2", "eps": 0.8, "step_size": 0.3}
RADII = {"linf": LINF, "l2": L2}
ENGINES = ["eager", "compiled", "graph", "compiled_graph"]


def tensors(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "calls"}


@functools.cache
def expected(h, kind, norm):
    """The textbook attack, which hands out copies."""
    (x, _, target), model = scene(kind), model_of(kind)
    options = {key: value for key, value in RADII[norm].items() if key != "seed"}
    start = ops.pgd_init(x, options["eps"], seed=0, norm=norm)
    return h.textbook_pgd(lambda images: model(images.clone()), start, x, target, **options)


@pytest.fixture
def stand_ins(compiles, recorded):
    """Programs run as they were traced and graphs as they were recorded, which takes neither a compiler nor a GPU."""


def attacked(kind, engine, model, x, target, **options):
    """Two attacks in a row; at most the first one says that the engine cannot serve this kind, where it cannot."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [fast_targeted_pgd(model, x, target, engine=engine, **options) for _ in range(2)]
    told = [str(w.message) for w in caught if issubclass(w.category, EngineFallback)]
    reason = getattr({**EXACT, **DRAWING}[kind], engine, None)
    assert len(told) == (reason is not None)
    assert reason is None or reason in told[0]
    return results


@pytest.mark.parametrize(("kind", "engine", "norm"), pairwise(list(EXACT), ENGINES, ["linf", "l2"]))
def test_every_kind_on_every_engine(h, stand_ins, kind, norm, engine):
    model, (x, _, target) = model_of(kind), scene(kind)
    before, given = tensors(model), x.clone()
    for x_adv in attacked(kind, engine, model, x, target, backend="reference", **RADII[norm]):
        torch.testing.assert_close(x_adv, expected(h, kind, norm), rtol=0, atol=1e-9)
    assert torch.equal(x, given)
    assert h.same(tensors(model), before)


@pytest.mark.parametrize("engine_check", ["first", "off"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", DRAWING)
def test_what_draws_random_numbers_is_repeatable_and_attacked(h, stand_ins, company, kind, engine, engine_check):
    model, (x, _, target), state = model_of(kind), scene(kind), torch.get_rng_state()
    options = {"backend": "reference", "engine_check": engine_check, **LINF}
    first, second = attacked(kind, engine, model, x, target, **options)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert (first - x).abs().max() <= 0.1 + 1e-12

    def loss(images):
        torch.manual_seed(0)
        return F.cross_entropy(model(images.repeat(200, 1, 1, 1)), target.repeat(200)).item()

    start = ops.pgd_init(x, 0.1, seed=0)
    gained = loss(start) - loss(first)
    still = copy_without_draws(model)
    best = h.textbook_pgd(still, start, x, target, eps=0.1, step_size=0.03, steps=4)
    assert gained > 0.5 * (loss(start) - loss(best)) > 0


def copy_without_draws(model):
    still = Head().double()
    still.load_state_dict(model.state_dict())
    return still


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_weights_in_bfloat16(h, stand_ins, norm, engine):
    (x, _, target), options = scene("dropout"), RADII[norm]
    model = model_of("dropout").bfloat16()
    x = x.float()
    x_adv = fast_targeted_pgd(model, x, target, engine=engine, backend="reference", **options)
    assert x_adv.dtype == torch.float32
    exact = model_of("dropout")
    exact.load_state_dict(model.state_dict())
    plain = {key: value for key, value in options.items() if key != "seed"}
    start = ops.pgd_init(x, options["eps"], seed=0, norm=norm).double()
    best = h.textbook_pgd(exact, start, x.double(), target, **plain)

    def loss(images):
        return F.cross_entropy(exact(images.double()), target).item()

    assert loss(start) - loss(x_adv) > 0.8 * (loss(start) - loss(best)) > 0


@pytest.mark.parametrize("engine", ENGINES)
def test_what_returns_a_tuple_is_told_what_to_do(stand_ins, engine):
    class Tuple(Head):
        def forward(self, x):
            return super().forward(x), x

    x, _, target = scene("tuple")
    with pytest.raises(TypeError, match=r"got tuple; fairtat\.logits\.select\(model, index or key\) picks them"):
        fast_targeted_pgd(Tuple().double(), x, target, engine=engine, **LINF)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_logit_has_no_other_class(stand_ins, engine):
    model, (x, y, _) = Head(classes=1).double(), scene("one logit")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must be below the model's 1 classes"):
            fast_pgd(model, x, y.clamp(min=1), engine=engine, **LINF)
    with pytest.raises(ValueError, match="needs at least 2 classes, the model has 1"):
        fast_pgd(model, x, y * 0, engine=engine, loss="margin", **LINF)
    result = fast_pgd(model, x, y * 0, engine=engine, backend="reference", return_info=True, **LINF)
    assert result.loss.tolist() == [0] * N  # the one class is certain
    assert result.zero_grad.tolist() == [4] * N


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["in place", "in place, aside", "in place, unseen"])
@pytest.mark.parametrize(
    "options",
    [
        {"return_info": True},
        {"restarts": 2, "chunk_size": 5},
        {"early_stop": True, "return_info": True},
        {"init": "zero", "steps": 0, "return_info": True},
        {"normalize": ((0.5,) * 3, (0.5,) * 3)},
    ],
    ids=str,
)
def test_a_model_may_write_to_what_it_is_given(stand_ins, kind, engine, options):
    class Copies(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.clone())

    model, (x, _, target) = model_of(kind), scene(kind)
    given = x.clone()
    options = {**LINF, **options, "backend": "reference"}
    wanted = fast_targeted_pgd(Copies(model), x, target, engine="eager", **options)
    for _ in range(2):
        result = fast_targeted_pgd(model, x, target, engine=engine, **options)
        pairs = (
            [(result, wanted)]
            if isinstance(result, torch.Tensor)
            else zip(vars(result).values(), vars(wanted).values(), strict=True)
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    assert torch.equal(x, given)


def test_a_function_may_too():
    model, (x, _, target) = model_of("in place"), scene("in place")
    x_adv = fast_targeted_pgd(lambda images: model(images), x, target, **LINF)
    assert torch.equal(x_adv, fast_targeted_pgd(lambda images: model(images.clone()), x, target, **LINF))


def test_other_models_are_given_the_images_themselves():
    seen = []

    class Looking(Head):
        def body(self, x):
            seen.append(x.data_ptr())
            return x

    x, _, target = scene("plain")
    model = Looking().double()
    for _ in range(2):
        seen.clear()
        x_adv = fast_targeted_pgd(model, x, target, engine="eager", return_info=True, **LINF).x_adv
        assert set(seen) == {x_adv.data_ptr()}


@pytest.mark.parametrize("kind", ["traced", "scripted", "scripted and frozen", "in place"])
def test_they_are_evaluated(kind):
    torch.manual_seed(0)
    plain = InPlace() if kind == "in place" else Plain(conv()).eval()
    x = torch.rand(40, *SIZE)
    y = plain(x.clone()).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = {
            "in place": lambda: plain,
            "traced": lambda: torch.jit.trace(plain, x),
            "scripted": lambda: torch.jit.script(plain),
            "scripted and frozen": lambda: torch.jit.freeze(torch.jit.script(plain)),
        }[kind]()
    settings = {
        "attacks": ["pgd-2", "square-10"],
        "eps": 0.02 if kind == "in place" else 0.3,
        "batch_size": 15,
        "check_sanity": True,
    }
    result = fairtat.evaluate(model, x, y, **settings)
    expected = fairtat.evaluate(lambda images: plain(images.clone()), x, y, **settings)
    averages = [condition.figures.average for condition in result.conditions]
    assert averages == [condition.figures.average for condition in expected.conditions]
    assert averages[0] == 1
    assert 0 < averages[1] < 1  # PGD finds some


@pytest.mark.parametrize("bn_mode", ["train", "train_frozen_stats"])
@pytest.mark.parametrize("kind", ["traced", "scripted", "scripted and frozen"])
def test_of_torchscript_batch_statistics_are_refused(kind, bn_mode):
    model, (x, _, target) = model_of(kind), scene(kind)
    with pytest.raises(ValueError, match=f"bn_mode='{bn_mode}' cannot reach BatchNorm inside TorchScript"):
        fast_targeted_pgd(model, x, target, bn_mode=bn_mode, **LINF)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attention", "fft", "bicubic", "top-k", "in place"])
def test_inductor_serves_what_is_unusual(h, kind):
    model, (x, _, target) = model_of(kind), scene(kind)
    for x_adv in attacked(kind, "compiled", model, x, target, **L2):
        torch.testing.assert_close(x_adv, expected(h, kind, "l2"), rtol=0, atol=1e-9)

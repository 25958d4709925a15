"""The suite, its flags, and what all attacks promise whose steps pause."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

import fairtat
from fairtat.attacks import apgd, cw_l2, deepfool, fab, multi_targeted_pgd, square
from fairtat.attacks.autoattack import APGD, FAB, Square, autoattack
from fairtat.attacks.autoattack.suite import STAGES, _stages
from fairtat.engines.model.structure import ModelStructure
from fairtat.integrations.autoattack import AutoAttack

SHORT = [
    ("apgd-ce", APGD("ce", n_iter=10)),
    ("apgd-t", APGD("dlr-targeted", n_iter=10, n_target_classes=2)),
    ("fab-t", FAB(targeted=True, n_iter=5, n_target_classes=2)),
    ("square", Square(n_queries=60)),
]
CALLS = [
    lambda model, x, y, **options: apgd(model, x, y, n_iter=3, **options),
    lambda model, x, y, **options: fab(model, x, y, n_iter=3, **options),
    lambda model, x, y, **options: square(model, x, y, n_queries=3, **options),
    lambda model, x, y, **options: autoattack(
        model, x, y, version="custom", attacks=[("square", Square(n_queries=3))], **options
    )[0],
    lambda model, x, y, **options: deepfool(model, x, y, **{"norm": "linf", "n_iter": 3, **options}),
    lambda model, x, y, **options: multi_targeted_pgd(model, x, y, n_iter=3, n_target_classes=2, **options),
]
CW = pytest.param(lambda *data, **options: cw_l2(*data, n_iter=4, binary_search_steps=2, **options), id="cw_l2")


def test_the_versions_are_those_of_the_authors():
    names = {version: list(stages) for version, stages in STAGES.items()}
    assert names == {
        "standard": ["apgd-ce", "apgd-t", "fab-t", "square"],
        "plus": ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"],
        "rand": ["apgd-ce", "apgd-dlr"],
    }
    standard, plus, rand = (STAGES[version] for version in ("standard", "plus", "rand"))
    assert standard["apgd-t"] == APGD("dlr-targeted", 100, 1, 9, 1, 0.75)
    assert (standard["square"].n_queries, standard["square"].p_init, standard["fab-t"].n_restarts) == (5000, 0.8, 1)
    assert [plus[name].n_restarts for name in plus] == [5, 5, 5, 1, 1, 1]
    assert {stage.eot_iter for stage in rand.values()} == {20}


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.12), ("l2", 0.7)])
def test_flags_say_which_attack_found_what(trained, norm, eps):
    model, x, y = trained
    x_adv, flags = fairtat.autoattack(model, x, y, eps=eps, norm=norm, version="custom", attacks=SHORT, seed=1)
    with torch.no_grad():
        pred = model(x_adv).argmax(1)
    assert torch.equal(flags.pred, pred)
    assert torch.equal(flags.robust, pred == y)
    assert flags.attacks == ("clean", *(name for name, _ in SHORT))
    assert torch.equal(flags.robust, flags.found_by == -1)
    left = len(x)
    for k, accuracy in enumerate(flags.accuracy):
        left -= int((flags.found_by == k).sum())
        assert accuracy == pytest.approx(left / len(x))
    assert flags.robust_accuracy == flags.accuracy[-1] < flags.accuracy[1] < flags.accuracy[0]
    delta = (x_adv - x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max() <= eps * (1 + 1e-6) + 2**-24
    # Each stage does what it does alone.
    alone = apgd(model, x, y, eps=eps, norm=norm, n_iter=10, seed=1, return_info=True)
    assert torch.equal(alone.reached, (flags.found_by == 0) | (flags.found_by == 1))
    assert torch.equal(alone.x_adv[alone.reached], x_adv[alone.reached])


def test_no_stage_meets_an_image_that_has_fallen(trained):
    model, x, y = trained
    seen = []

    def counted(images):
        seen.append(len(images))
        return model(images)

    _, flags = autoattack(counted, x, y, eps=0.12, version="custom", attacks=[("square", Square(n_queries=29))])
    first = len(x)
    right = round(flags.accuracy[0] * first)
    assert seen[:2] == [first, right]
    assert max(seen[2:]) <= right


def test_few_classes_are_said(trained):
    _, x, y = trained
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    y = y % 2
    _, flags = autoattack(model, x, y, eps=0.02, version="custom", attacks=SHORT[:3])
    assert flags.notes == (
        "apgd-t: 2 classes are too few for the loss 'dlr-targeted': the margin took its place",
        "apgd-t: 2 classes have 1 targets, not 2",
        "fab-t: 2 classes have 1 targets, not 2",
    )


def test_random_models_are_judged_once_per_run():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

        def forward(self, x):
            return self.inside(x + 0.1 * torch.randn_like(x))

    torch.manual_seed(0)
    model, x = Noisy().eval(), torch.rand(30, 1, 8, 8)
    y = model.inside(x).argmax(1)
    before = torch.get_rng_state()
    stages = [("apgd-ce", APGD("ce", n_iter=5, eot_iter=3))]
    x_adv, flags = autoattack(model, x, y, eps=0.05, version="custom", attacks=stages, seed=4)
    again, _ = autoattack(model, x, y, eps=0.05, version="custom", attacks=stages, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x_adv, again)
    assert 0 < flags.robust_accuracy < flags.accuracy[0]


@pytest.mark.parametrize("call", [*CALLS, CW])
def test_the_model_is_left_as_it_was_found(h, call):
    model, (x, y, _) = h.cnn(), h.images(6)
    before, generator = h.snapshot(model), torch.get_rng_state()
    with torch.no_grad():
        call(model, x, y)
    assert h.same(h.snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("call", [*CALLS, CW])
def test_it_is_left_so_after_an_exception(h, call):
    model, x = h.cnn(), h.images(6)[0]
    y = h.cnn().eval()(x).argmax(1)
    calls = []

    def stumble(module, inputs):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("stumbled")

    model[3].register_forward_pre_hook(stumble)
    before = h.snapshot(model)
    with pytest.raises(RuntimeError, match="stumbled"):
        call(model, x, y)
    assert h.same(h.snapshot(model), before)


@pytest.mark.parametrize("call", [*CALLS, CW])
def test_no_images_are_no_trouble(h, call):
    model, (x, y, _) = h.cnn(), h.images(6)
    assert call(model, x[:0], y[:0]).shape == (0, 3, 6, 6)


@pytest.mark.parametrize("call", [*CALLS, CW])
@pytest.mark.parametrize("memory_format", [torch.channels_last])
def test_any_layout_of_the_images_serves(h, call, memory_format):
    model, (x, y, _) = h.cnn(torch.float64).eval(), h.images(6, torch.float64)
    expected = call(model, x, y, eps=0.1)
    found = call(model, x.contiguous(memory_format=memory_format), y, eps=0.1)
    torch.testing.assert_close(found.contiguous(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("call", [*CALLS, CW])
def test_a_model_that_overwrites_its_input_is_given_copies(h, call):
    (x, y, _) = h.images(6)
    inside = h.cnn().eval()

    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = inside

        def forward(self, x):
            x.mul_(1.0).add_(0.0).clamp_(0.2, 0.8)
            return self.inside(x)

    class Copies(Overwrites):
        def forward(self, x):
            return super().forward(x.clone())

    before = x.clone()
    assert torch.equal(call(Overwrites(), x, y), call(Copies(), x, y))
    assert torch.equal(x, before)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"eps": 8}, ValueError, "eps must be at most 1 in linf"),
        ({"eps": -0.1}, ValueError, "eps must be finite and at least 0"),
        ({"norm": "l3"}, ValueError, "norm must be one of 'linf', 'l2'"),
        ({"engine": "compield"}, ValueError, "engine must be one of .*did you mean 'compiled'"),
        ({"gradient": "st"}, ValueError, "gradient must be one of 'autograd', 'ste'"),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
        ({"chunksize": 3}, TypeError, "'chunksize' is not an option of the attack; did you mean 'chunk_size'"),
        ({"target": torch.zeros(5, dtype=torch.int64)}, ValueError, r"target must have shape \(6,\)"),
        ({"sample_ids": torch.zeros(6)}, TypeError, "sample_ids must be int64"),
    ],
)
def test_bad_input_is_one_clear_error(h, call, changes, error, message):
    model, (x, y, _) = h.cnn(), h.images(6)
    with pytest.raises(error, match=message):
        call(model, x, y, **changes)
    with pytest.raises(ValueError, match="x must be in"):
        call(model, x + 1, y)
    with pytest.raises(ValueError, match="must be below the model's 5 classes, got 7"):
        call(model, x, torch.full_like(y, 7))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: APGD("dlr-t"), "loss must be one of"),
        (lambda: APGD(n_iter=0), "n_iter must be at least 1, got 0"),
        (lambda: APGD(n_restarts=2**16), "n_restarts must be less than 65536"),
        (lambda: APGD(rho=1.5), "rho must be finite"),
        (lambda: FAB(n_target_classes=0), "n_target_classes must be at least 1"),
        (lambda: Square(n_queries=0), "n_queries must be at least 1"),
        (lambda: Square(p_init=2.0), "p_init must be finite"),
        (lambda: _stages("fast", None), "version must be one of"),
        (lambda: _stages("standard", ["square"]), "attacks goes with version='custom'"),
        (lambda: _stages("custom", None), "attacks must be a list of names"),
        (lambda: _stages("custom", "square"), "attacks must be a list of names"),
        (lambda: _stages("custom", ["sqare"]), "did you mean 'square'"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_straight_through_gradients_find_what_plain_ones_cannot(trained):
    model, x, y = trained

    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = model

        def forward(self, x):
            return self.inside(torch.round(16 * x) / 16)

    rounded = Rounded()
    plain = apgd(rounded, x, y, eps=0.1, n_iter=15, return_info=True)
    through = apgd(rounded, x, y, eps=0.1, n_iter=15, gradient="ste", return_info=True)
    tried = plain.steps > 1
    assert (plain.zero_grad[tried] >= plain.steps[tried] - 1).all()
    assert (through.zero_grad[through.steps > 0] == 0).all()
    assert through.reached.sum() > plain.reached.sum()
    assert torch.equal(through.reached, rounded(through.x_adv).argmax(1) != y)


def test_threads_attack_one_model_in_turn(trained):
    model, x, y = trained
    expected = [square(model, x[:40], y[:40], eps=0.15, n_queries=20, seed=s) for s in range(3)]
    found = [None] * 3

    def work(s):
        found[s] = square(model, x[:40], y[:40], eps=0.15, n_queries=20, seed=s)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_the_adapter_has_the_interface_of_the_authors(trained, capsys):
    model, x, y = trained
    judge = AutoAttack(model, norm="Linf", eps=0.12, version="custom", attacks_to_run=["apgd-ce", "square"], seed=2)
    judge.apgd.n_restarts, judge.apgd.n_iter, judge.square.n_queries = 1, 10, 30
    x_adv, y_adv = judge.run_standard_evaluation(x, y, bs=50, return_labels=True)
    expected, flags = autoattack(
        model, x, y, eps=0.12, version="custom", seed=2, chunk_size=50,
        attacks=[("apgd-ce", APGD("ce", n_iter=10)), ("square", Square(n_queries=30))],
    )  # fmt: skip
    assert torch.equal(x_adv, expected)
    assert torch.equal(y_adv, flags.pred)
    assert judge.clean_accuracy(x, y) == pytest.approx(flags.accuracy[0])
    shown = capsys.readouterr().out
    assert "using custom version including apgd-ce, square" in shown
    assert f"robust accuracy: {flags.robust_accuracy:.2%}" in shown
    single = judge.run_standard_evaluation_individual(x, y, bs=50)
    assert list(single) == ["apgd-ce", "square"]


def test_the_adapter_refuses_what_there_is_not(trained):
    model, x, y = trained
    with pytest.raises(ValueError, match="norm must be one of 'Linf', 'L2'"):
        AutoAttack(model, norm="L1")
    with pytest.raises(ValueError, match="attacks_to_run goes with version='custom'"):
        AutoAttack(model, attacks_to_run=["square"])
    with pytest.raises(ValueError, match="attacks_to_run must name attacks with version='custom'"):
        AutoAttack(model, version="custom").run_standard_evaluation(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("number", range(6))
def test_what_inductor_makes_of_them_finds_the_same(trained, fallbacks_are_errors, number, norm):
    model, (x, y) = trained[0], (each[:48] for each in trained[1:])
    attack = [
        lambda **options: apgd(model, x, y, loss="dlr-targeted", n_target_classes=1, n_iter=20, **options),
        lambda **options: fab(model, x, y, targeted=True, n_target_classes=1, n_iter=10, **options),
        lambda **options: fab(model, x, y, n_iter=5, **options),
        lambda **options: square(model, x, y, n_queries=75, **options),
        lambda **options: deepfool(model, x, y, n_iter=10, nb_candidates=3, **options),
        lambda **options: multi_targeted_pgd(model, x, y, n_target_classes=1, **options),
    ][number]
    options = {"norm": norm, "eps": {"linf": 0.2, "l2": 1.2}[norm], "return_info": True}
    eager, compiled = attack(**options), attack(engine="compiled", **options)
    assert eager.reached.sum() > 0
    # Rounding may decide on an image at the edge.
    assert (eager.reached != compiled.reached).sum() <= 1


@pytest.mark.parametrize("attack", [autoattack, apgd, fab, square, deepfool, multi_targeted_pgd])
def test_a_norm_that_is_not_there_is_refused_by_name(attack: Any) -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"norm must be one of 'linf', 'l2', got 'l1'"):
        attack(model, x, y, eps=1.0, norm="l1")


def test_a_compiled_batch_is_no_larger_than_its_images_need(trained, compiles, fallbacks_are_errors):
    model, x, y = trained[0], *(each[:70] for each in trained[1:])
    stages = [("apgd-ce", APGD(n_iter=20)), ("apgd-t", APGD("dlr-targeted", n_iter=10, n_target_classes=3))]
    options = {"eps": 0.08, "version": "custom", "attacks": stages}
    _, flags = autoattack(model, x, y, engine="compiled", **options)
    _, eager = autoattack(model, x, y, **options)
    assert torch.equal(flags.robust, eager.robust)
    right, left = (round(70 * share) for share in flags.accuracy[:2])
    assert 64 < right <= 70
    assert 48 < left <= 64
    # Padded to multiples of 8 and 4; all three targets share a program.
    assert compiles == [72, -(-left // 4) * 4]


def test_the_model_is_looked_at_again_only_after_it_was_called(trained, compiles, fallbacks_are_errors, monkeypatch):
    model, x, y = trained
    looked = []

    def counted(*arguments: Any) -> ModelStructure:
        looked.append(1)
        return of(*arguments)

    of = ModelStructure.of
    monkeypatch.setattr(ModelStructure, "of", counted)
    result = square(model, x, y, eps=1e-4, n_queries=200, engine="compiled", return_info=True)
    assert result.steps.max() == 201
    assert torch.equal(result.reached, model(x).argmax(1) != y)  # so nothing was found, and nothing judged
    assert compiles
    assert len(looked) <= 3  # seven rounds: before the build, after it, after its check

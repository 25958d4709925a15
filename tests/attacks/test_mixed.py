"""fast_mixed_pgd: a batch of both directions is the two attacks on its two parts."""

from __future__ import annotations

import pytest
import torch
from pairwise import pairwise
from torch import nn

from fairtat import fast_mixed_pgd, fast_pgd, fast_targeted_pgd, ops

FLOAT64 = torch.float64
SIX_STEPS = {"eps": 0.1, "step_size": 0.03, "steps": 6, "seed": 5}
PAIRS = [("ce", "ce"), ("ce", "kl"), ("margin", "ce"), ("dlr", "dlr"), ("dlr", "kl"), ("ce", "margin")]


class RowByRow(nn.Module):
    """Two layers as plain sums, which give a sample the same bits in a batch of any size."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(108, 12, generator=generator, dtype=dtype) / 5)
        self.second = nn.Parameter(torch.randn(12, 5, generator=generator, dtype=dtype))

    def forward(self, x):
        hidden = torch.tanh((x.flatten(1)[:, :, None] * self.first).sum(1))
        return (hidden[:, :, None] * self.second).sum(1)


def mixed_batch(h, n, dtype=torch.float32, share=0.4):
    """(x, goal, targeted, y, target): the goal is a target or the label."""
    x, y, target = h.images(n, dtype)
    targeted = torch.rand(n, generator=torch.Generator().manual_seed(n)) < share
    return x, torch.where(targeted, target, y), targeted, y, target


def apart(model, x, goal, targeted, *, loss, y, clean_logits=None, **options):
    """The two attacks on the two parts, each sample with its id, as the rows of each column."""
    ids = torch.arange(len(x))
    rows = {}
    for towards, part in ((True, targeted), (False, ~targeted)):
        own = {name: v[part] if isinstance(v, torch.Tensor) and v.ndim else v for name, v in options.items()}
        if towards:
            own["y"] = y[part]
            attack, kind = fast_targeted_pgd, loss[0]
        else:
            own["clean_logits"] = clean_logits[part] if loss[1] == "kl" else None
            attack, kind = fast_pgd, loss[1]
        result = attack(model, x[part], goal[part], loss=kind, sample_ids=ids[part], return_info=True, **own)
        rows[towards] = part, vars(result)
    columns = {}
    for name, value in rows[True][1].items():
        columns[name] = value.new_empty((len(x), *value.shape[1:]))
        for part, found in rows.values():
            columns[name][part] = found[name]
    return columns


@pairwise(
    pair=PAIRS, share=(0.0, 0.4, 1.0), engine=("eager", "compiled", "graph"), norm=("linf", "l2"),
    backend=("reference", "auto"), per_sample=(False, True),
)  # fmt: skip
def test_it_is_the_two_attacks_on_the_two_parts(h, stub, compiles, pair, share, engine, norm, backend, per_sample):
    model = RowByRow().eval()
    x, goal, targeted, y, _ = mixed_batch(h, 11, share=share)
    with torch.no_grad():
        clean = model(x)
    kl = {"clean_logits": clean} if "kl" in pair else {}
    options = {**SIX_STEPS, "norm": norm, "backend": backend, "init": "normal", "engine": engine}
    if norm == "l2":
        options |= {"eps": 0.8, "step_size": 0.3}
    if per_sample:
        options |= {"eps": torch.linspace(0.02, 0.2, 11), "step_size": torch.linspace(0.05, 0.01, 11)}
    given = {"y": y} if pair[0] == "dlr" else {}
    found = fast_mixed_pgd(model, x, goal, targeted, loss=pair, return_info=True, **given, **kl, **options)
    expected = apart(model, x, goal, targeted, loss=pair, y=y, **kl, **options)
    for name, value in vars(found).items():
        if norm == "linf":
            assert torch.equal(value, expected[name]), name
        else:  # a number and a tensor of it are rounded in another order
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("options", [
    {"early_stop": True}, {"early_stop": True, "extra_steps": 1}, {"restarts": 3}, {"restarts": 3, "chunk_size": 7},
    {"restarts": 3, "early_stop": True, "chunk_size": 4}, {"normalize": ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))},
    {"early_stop": True, "bn_mode": "train"}, {"amp": torch.bfloat16},
], ids=str)  # fmt: skip
def test_stops_restarts_and_chunks_are_those_of_each_direction(h, stub, engine, options):
    model = RowByRow().eval()
    x, goal, targeted, y, _ = mixed_batch(h, 13)
    options = {**SIX_STEPS, "engine": engine, "eps": 0.06, **options}
    found = fast_mixed_pgd(model, x, goal, targeted, loss=("margin", "ce"), return_info=True, **options)
    expected = apart(model, x, goal, targeted, loss=("margin", "ce"), y=y, **options)
    for name, value in vars(found).items():
        assert torch.equal(value, expected[name]), name
    assert torch.equal(found.reached, (found.pred == goal) == targeted)
    if options.get("early_stop"):
        assert len(set(found.steps.tolist())) > 1
    plain = fast_mixed_pgd(model, x, goal, targeted, loss=("margin", "ce"), **options)
    assert torch.equal(plain, found.x_adv)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_each_direction_is_the_textbook_in_float64(h, pair):
    model = h.cnn(FLOAT64).eval()
    x, goal, targeted, y, _ = mixed_batch(h, 12, FLOAT64)
    with torch.no_grad():
        clean = model(x) if "kl" in pair else None
    start = ops.pgd_init(x, 0.1, seed=3)
    found = fast_mixed_pgd(
        model, x, goal, targeted, loss=pair, y=y, clean_logits=clean, eps=0.1, step_size=0.03, steps=5, seed=3
    )
    assert bool(targeted.any())
    assert not bool(targeted.all())
    for towards, part in ((True, targeted), (False, ~targeted)):
        kind = pair[0] if towards else pair[1]
        expected = h.textbook_pgd(
            model, start[part], x[part], goal[part], eps=0.1, step_size=0.03, steps=5, targeted=towards, loss=kind,
            y=y[part] if towards else None, clean_logits=clean[part] if kind == "kl" else None,
        )  # fmt: skip
        torch.testing.assert_close(found[part], expected, rtol=0, atol=1e-12)


def test_one_name_stands_for_both_and_the_corners_are_the_other_attacks(h):
    model = h.cnn().eval()
    x, _, _, y, target = mixed_batch(h, 9)
    all_of_them = torch.ones(9, dtype=torch.bool)
    towards = fast_mixed_pgd(model, x, target, all_of_them, loss="margin", **SIX_STEPS)
    assert torch.equal(towards, fast_targeted_pgd(model, x, target, loss="margin", **SIX_STEPS))
    away = fast_mixed_pgd(model, x, y, ~all_of_them, **SIX_STEPS)
    assert torch.equal(away, fast_pgd(model, x, y, **SIX_STEPS))


def test_the_mask_is_read_and_not_kept(h, stub):
    """A captured graph serves the next batch's directions, and the caller's tensor stays as it was."""
    model = RowByRow().eval()
    for seed in range(3):
        x, y, target = h.images(8, seed=seed)
        targeted = torch.rand(8, generator=torch.Generator().manual_seed(seed)) < 0.5
        goal, kept = torch.where(targeted, target, y), targeted.clone()
        found = fast_mixed_pgd(model, x, goal, targeted, engine="graph", **SIX_STEPS)
        assert torch.equal(found, fast_mixed_pgd(model, x, goal, targeted, engine="eager", **SIX_STEPS))
        assert torch.equal(targeted, kept)
    assert stub.captures == 1


@pytest.mark.parametrize("return_info", [False, True])
def test_an_empty_batch(h, return_info):
    model, (x, y, _) = h.cnn(), h.images(3)
    result = fast_mixed_pgd(model, x[:0], y[:0], y[:0].bool(), y=y[:0], restarts=2, return_info=return_info)
    assert (result.x_adv if return_info else result).shape == (0, 3, 6, 6)
    if return_info:
        assert result.logits.shape == (0, h.classes)
        assert "targeted" not in vars(result)


X = torch.full((4, 3, 6, 6), 0.5)
Y, GOAL, MASK = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 1, 4, 3]), torch.tensor([True, False, True, False])
BAD = {
    "a bool": ({"targeted": True}, TypeError, "targeted must be a tensor, got bool"),
    "a list": ({"targeted": [True] * 4}, TypeError, "targeted must be a tensor, got list"),
    "integers": ({"targeted": MASK.long()}, TypeError, "targeted must be bool, got int64"),
    "of another batch": ({"targeted": MASK[:3]}, ValueError, r"targeted must have shape \(4,\), got \(3,\)"),
    "a column": ({"targeted": MASK[:, None]}, ValueError, r"targeted must have shape \(4,\), got \(4, 1\)"),
    "elsewhere": ({"targeted": MASK.to("meta")}, ValueError, r"targeted must be on the device of x \(cpu\), got meta"),
    "a goal below 0": ({"goal": GOAL - 2}, ValueError, "goal must be class indices of at least 0, got -1"),
    "a goal beyond C": ({"goal": GOAL + 1, "y": None}, ValueError, "goal and y must be below the model.s 5 .* got 5"),
    "a goal of floats": ({"goal": GOAL.float()}, TypeError, "goal must be int64 or .* got float32"),
    "a short goal": ({"goal": GOAL[:2]}, ValueError, r"goal must have shape \(4,\), got \(2,\)"),
    "towards the label": (
        {"goal": Y}, ValueError, "must be another class than y where targeted.* for 2 targeted samples and .* 0 oth",
    ),
    "away from another class": (
        {"targeted": MASK & False}, ValueError, "y elsewhere, got .* for 0 targeted samples and another class for 2",
    ),
    "kl towards a target": (
        {"loss": ("kl", "ce"), "clean_logits": torch.zeros(4, 5)}, ValueError,
        "loss of the targeted samples must be one of 'ce', 'margin', 'dlr', got 'kl'",
    ),
    "kl for both": ({"loss": "kl"}, ValueError, "loss must be one of 'ce', 'margin', 'dlr', got 'kl'"),
    "an unknown second loss": (
        {"loss": ("ce", "dlrr")}, ValueError, "loss of the untargeted samples must be .*; did you mean 'dlr'",
    ),
    "three losses": ({"loss": ("ce",) * 3}, TypeError, "loss must be a name or a pair"),
    "kl without clean logits": ({"loss": ("ce", "kl")}, ValueError, "clean_logits goes with loss='kl'"),
    "clean logits without kl": ({"clean_logits": torch.zeros(4, 5)}, ValueError, "clean_logits goes with loss='kl'"),
    "dlr without y": ({"loss": ("dlr", "ce"), "y": None}, ValueError, "loss='dlr' towards a target needs y"),
    "an option of another attack": ({"epsilon": 0.1}, TypeError, "'epsilon' is not an option"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "error", "message"), BAD.values(), ids=BAD)
def test_what_it_refuses(h, given, error, message):
    model = h.cnn()
    before = h.snapshot(model)
    arguments = {"x": X, "goal": GOAL, "targeted": MASK, "y": Y, **given}
    with pytest.raises(error, match=message):
        fast_mixed_pgd(model, **arguments)
    assert h.same(h.snapshot(model), before)


@pytest.mark.parametrize("call", [fast_targeted_pgd, fast_pgd])
def test_the_other_attacks_take_one_loss(h, call):
    with pytest.raises(TypeError, match=r"loss must be one of 'ce', .* got tuple"):
        call(h.cnn(), X, GOAL, loss=("ce", "kl"))


@pytest.mark.parametrize(("pair", "classes", "message"), [
    (("margin", "ce"), 1, r"loss='margin' needs at least 2 classes, the model has 1"),
    (("ce", "dlr"), 2, "loss='dlr' needs at least 3 classes, the model has 2; use loss='margin'"),
    (("dlr", "ce"), 3, "targeted loss='dlr' needs at least 4 classes, the model has 3"),
])  # fmt: skip
def test_either_loss_may_need_more_classes(pair, classes, message):
    goal, y = torch.tensor([0, 0]), torch.tensor([min(1, classes - 1), 0])
    with pytest.raises(ValueError, match=message):
        fast_mixed_pgd(
            lambda x: x.flatten(1)[:, :classes], X[:2], goal, torch.tensor([True, False]), loss=pair, check=False, y=y
        )

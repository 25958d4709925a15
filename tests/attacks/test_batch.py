"""Batches that cannot be attacked, and those that can although they look unusual."""

from __future__ import annotations

import pytest
import torch

from fairtat import fast_pgd, fast_targeted_pgd

N, NAN, INF = 4, float("nan"), float("inf")
Y = torch.tensor([0, 1, 2, 3])
TARGET = torch.tensor([1, 2, 3, 4])
X = torch.full((N, 3, 6, 6), 0.5)


def with_value(tensor, value):
    """A copy with one element replaced, not the first."""
    tensor = tensor.clone()
    tensor.view(-1)[tensor.numel() // 2 + 1] = value
    return tensor


BAD = [
    ("a list of images", {"x": [0.5]}, TypeError, "x must be a tensor, got list"),
    ("float16 images", {"x": X.half()}, TypeError, r"x must be float32 or float64, got float16: .*x\.float\(\)"),
    ("bfloat16 images", {"x": X.bfloat16()}, TypeError, r"x must be float32 or float64, got bfloat16: .*amp="),
    ("uint8 images", {"x": X.byte()}, TypeError, "x must be float32 or float64, got uint8"),
    ("one dimension", {"x": X[:, 0, 0, 0]}, ValueError, r"x must have shape \(N, \.\.\.\) .* got \(4,\)"),
    ("NaN", {"x": with_value(X, NAN)}, ValueError, "x must be finite, got NaN or infinite values"),
    ("inf", {"x": with_value(X, INF)}, ValueError, "x must be finite"),
    ("byte range", {"x": X * 255}, ValueError, r"x must be in \[0\.0, 1\.0\], got values from 127\.5 to 127\.5"),
    ("below bounds", {"x": with_value(X, -2e-6)}, ValueError, r"x must be in \[0\.0, 1\.0\], got values from -2e-06"),
    ("target is a list", {"target": [1, 2, 3, 4]}, TypeError, "target must be a tensor, got list"),
    ("float target", {"target": TARGET.float()}, TypeError, "target must be int64 or .* got float32"),
    ("bool target", {"target": TARGET.bool()}, TypeError, "target must be int64 or .* got bool"),
    ("short target", {"target": TARGET[:3]}, ValueError, r"target must have shape \(4,\), got \(3,\)"),
    ("one-hot target", {"target": torch.eye(4).long()}, ValueError, r"target must have shape \(4,\), got \(4, 4\)"),
    (
        "target elsewhere",
        {"target": TARGET.to("meta")},
        ValueError,
        r"target must be on the device of x \(cpu\), got meta",
    ),
    (
        "negative target",
        {"target": with_value(TARGET, -1)},
        ValueError,
        "target must be class indices of at least 0, got -1",
    ),
    (
        "target beyond C",
        {"target": with_value(TARGET, 5)},
        ValueError,
        "target and y must be below the model's 5 classes, got 5$",
    ),
    (
        "labels from 1, beyond C",
        {"target": torch.tensor([1, 2, 3, 4]), "y": torch.tensor([5, 1, 2, 3])},
        ValueError,
        "below the model's 5 classes, got 5; if the labels start at 1, subtract 1$",
    ),
    ("y beyond C", {"y": with_value(Y, 7)}, ValueError, "target and y must be below the model's 5 classes, got 7"),
    ("negative y", {"y": with_value(Y, -3)}, ValueError, "y must be class indices of at least 0, got -3"),
    (
        "true label as target",
        {"target": Y, "y": Y},
        ValueError,
        "target must be another class than y, got the true label for 4 of 4",
    ),
    ("one true label", {"target": with_value(TARGET, 3)}, ValueError, "got the true label for 1 of 4 samples"),
    ("dlr without y", {"loss": "dlr", "y": None}, ValueError, "loss='dlr' towards a target needs y"),
    ("eps of another N", {"eps": torch.ones(3)}, ValueError, r"eps must have shape \(4,\), got \(3,\)"),
    ("eps an image", {"eps": torch.ones_like(X)}, ValueError, r"eps must have shape \(4,\)"),
    ("eps elsewhere", {"eps": torch.ones(4, device="meta")}, ValueError, "eps must be on the device of x"),
    (
        "negative eps",
        {"eps": with_value(torch.ones(4), -0.1)},
        ValueError,
        r"eps must be at least 0\.0, got values from -0\.1",
    ),
    ("NaN step", {"step_size": with_value(torch.ones(4), NAN)}, ValueError, "step_size must be finite"),
    ("inf eps", {"eps": with_value(torch.ones(4), INF)}, ValueError, "eps must be finite"),
    (
        "init of another shape",
        {"init": X[:, :1]},
        ValueError,
        r"init must have shape \(4, 3, 6, 6\), got \(4, 1, 6, 6\)",
    ),
    ("init of another dtype", {"init": X.double()}, TypeError, "init must be float32, got float64"),
    ("NaN init", {"init": with_value(X, NAN)}, ValueError, "init must be finite"),
    ("float ids", {"sample_ids": torch.ones(4)}, TypeError, "sample_ids must be int64 or .* got float32"),
    ("ids of another N", {"sample_ids": torch.arange(5)}, ValueError, r"sample_ids must have shape \(4,\), got \(5,\)"),
    (
        "two channels",
        {"normalize": ([0.5] * 2, [0.1] * 3)},
        ValueError,
        "normalize: mean must have one value for each of the 3 channels .* got 2",
    ),
    (
        "std tensor of 0",
        {"normalize": (torch.ones(3), torch.tensor([1.0, 0.0, 1.0]))},
        ValueError,
        "normalize: std must be positive, got values from 0",
    ),
    ("NaN mean", {"normalize": (torch.full((3,), NAN), [1.0] * 3)}, ValueError, "normalize: mean must be finite"),
    ("amp of float64", {"x": X.double(), "amp": torch.bfloat16}, ValueError, "amp needs float32 images"),
    (
        "backend of float64",
        {"x": X.double(), "backend": "cpu"},
        ValueError,
        "backend='cpu' (cannot run|is not available)",
    ),
]


@pytest.mark.parametrize(("what", "given", "error", "message"), BAD, ids=[row[0] for row in BAD])
def test_bad_batches_are_refused_before_any_update(h, what, given, error, message):
    model = h.cnn(given.get("x", X).dtype if what == "amp of float64" else torch.float32)
    before = h.snapshot(model)
    arguments = {"x": X, "target": TARGET, "y": Y, "bn_mode": "train", **given}
    if "beyond C" in what:
        arguments["bn_mode"] = "eval"  # the model has to be asked once
    with pytest.raises(error, match=message):
        fast_targeted_pgd(model, **arguments)
    assert h.same(h.snapshot(model), before)


@pytest.mark.parametrize(
    ("loss", "with_y", "classes", "message"),
    [
        ("margin", False, 1, "loss='margin' needs at least 2 classes, the model has 1"),
        ("dlr", False, 2, "loss='dlr' needs at least 3 classes, the model has 2; use loss='margin'"),
        ("dlr", True, 3, "targeted loss='dlr' needs at least 4 classes, the model has 3; use loss='margin'"),
    ],
)
def test_losses_that_need_more_classes(loss, with_y, classes, message):
    y = torch.tensor([0, 0])
    attack, labels = (fast_targeted_pgd, {"target": y + 1, "y": y}) if with_y else (fast_pgd, {"y": y})
    with pytest.raises(ValueError, match=message):
        attack(torch.nn.Linear(3, classes), torch.rand(2, 3), loss=loss, **labels)


def test_clean_logits_go_with_kl_alone(h):
    x, y, _ = h.images(4)
    model = h.cnn()
    for given, loss, error, message in [
        (None, "kl", ValueError, "clean_logits goes with loss='kl' and no other, got None with loss='kl'"),
        (torch.ones(4, 5), "ce", ValueError, "clean_logits goes with loss='kl' and no other, got a value"),
        (torch.ones(3, 5), "kl", ValueError, r"clean_logits must have shape \(4, C\), got \(3, 5\)"),
        (torch.ones(4, 6), "kl", ValueError, r"clean_logits must have the model's 5 classes, got shape \(4, 6\)"),
        (torch.ones(4, 5).long(), "kl", TypeError, "clean_logits must be float32 or .* got int64"),
    ]:
        with pytest.raises(error, match=message):
            fast_pgd(model, x, y, loss=loss, clean_logits=given)


def test_values_are_not_read_with_check_off_but_shapes_are(h):
    model = h.cnn()
    x_adv = fast_targeted_pgd(model, X + 1e-3, Y, y=Y, check=False, steps=1)
    assert x_adv.shape == X.shape
    with pytest.raises(ValueError, match="target must have shape"):
        fast_targeted_pgd(model, X, TARGET[:3], check=False)


def test_rounding_beyond_the_bounds_is_forgiven_and_clipped(h):
    x = X.clone()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = -3e-8, 1 + 5e-7
    x_adv = fast_targeted_pgd(h.cnn(), x, TARGET, eps=1e-3)
    assert x_adv.min() == 0
    assert x_adv.max() == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_narrow_labels_are_widened(h, dtype):
    model = h.cnn()
    expected = fast_targeted_pgd(model, X, TARGET, y=Y, seed=0, steps=2)
    x_adv = fast_targeted_pgd(
        model, X, TARGET.to(dtype), y=Y.to(dtype), seed=0, steps=2, sample_ids=torch.arange(4, dtype=dtype)
    )
    assert torch.equal(x_adv, expected)


def test_strided_labels_ids_and_radii(h):
    model = h.cnn()
    eps = torch.rand(N) * 0.1
    options = {"seed": 0, "steps": 2}
    expected = fast_targeted_pgd(model, X, TARGET, eps=eps, sample_ids=Y, **options)
    twice = [torch.stack([t, t + 1], 1)[:, 0] for t in (TARGET, eps, Y)]
    assert not any(t.is_contiguous() for t in twice)
    x_adv = fast_targeted_pgd(model, X, twice[0], eps=twice[1], sample_ids=twice[2], **options)
    assert torch.equal(x_adv, expected)


def lazily_negated(t):
    """The values of ``t`` as a view of their negation, which PyTorch carries out when somebody asks."""
    return torch._neg_view(-t)


class Negating(torch.nn.Module):
    """The same model whose logits, or whose gradient to the input, are a view of their negation."""

    def __init__(self, where):
        super().__init__()
        self.linear = torch.nn.Linear(108, 5)
        self.where = where

    def forward(self, x):
        if self.where == "gradient":
            x = NegatedGradient.apply(x)
        z = self.linear(x.flatten(1))
        return lazily_negated(z) if self.where == "logits" else z


class NegatedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return lazily_negated(grad)


ATTACK = {"eps": 0.1, "step_size": 0.03, "steps": 3, "seed": 0, "engine": "eager"}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("where", ["logits", "gradient"])
def test_a_negation_that_the_model_left_pending_is_carried_out(where, norm):
    model = Negating(where)
    x_adv = fast_targeted_pgd(model, X, TARGET, y=Y, norm=norm, **ATTACK)
    model.where = "nowhere"
    assert torch.equal(x_adv, fast_targeted_pgd(model, X, TARGET, y=Y, norm=norm, **ATTACK))


@pytest.mark.parametrize("name", ["x", "target", "y", "eps", "step_size", "normalize", "sample_ids", "init"])
def test_a_pending_negation_of_an_input_is_carried_out(name):
    model = Negating("nowhere")
    x = torch.rand(X.shape, generator=torch.Generator().manual_seed(0))
    values = {
        "x": x, "target": TARGET, "y": Y,
        "eps": torch.linspace(0.1, 0.2, N), "step_size": torch.linspace(0.01, 0.02, N),
        "normalize": torch.tensor([0.2, 0.3, 0.4]), "sample_ids": torch.arange(N) + 7,
    }  # fmt: skip
    if name == "init":
        values["init"] = (x + 0.02).clamp(0, 1)

    def attacked(change):
        given = {**values, name: change(values[name])}
        given["normalize"] = (given["normalize"], torch.ones(3))
        return fast_targeted_pgd(model, given.pop("x"), given.pop("target"), loss="dlr", **{**ATTACK, **given})

    assert torch.equal(attacked(lazily_negated), attacked(torch.clone))


def test_a_pending_negation_of_clean_logits_is_carried_out():
    model, clean = Negating("nowhere"), torch.randn(N, 5)
    options = {**ATTACK, "loss": "kl"}
    expected = fast_pgd(model, X, Y, clean_logits=clean, **options)
    assert torch.equal(fast_pgd(model, X, Y, clean_logits=lazily_negated(clean), **options), expected)


def test_images_without_memory_of_their_own_are_refused():
    with pytest.raises(TypeError, match="x must be a plain tensor with memory of its own"):
        fast_pgd(Negating("nowhere"), torch._to_functional_tensor(X), Y, check=False, **ATTACK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": 1e39, "norm": "l2"}, r"eps must be finite and at least 0 in float32, got 1e\+39"),
        ({"step_size": 10**400}, "step_size must be finite and at least 0 in float64, got an int"),
        ({"bounds": (0, 1e39)}, "bounds must be float32 numbers, or infinite for none"),
        ({"normalize": ([1e39] * 3, [1.0] * 3)}, r"normalize: mean must be finite in float32, got 1e\+39"),
        ({"normalize": ([0.0] * 3, [10**400] * 3)}, "normalize: std must be finite, got an int of 1329 bits"),
    ],
    ids=["eps", "step_size", "bounds", "mean", "std"],
)
def test_numbers_beyond_float32_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        fast_pgd(Negating("nowhere"), X, Y, **{**ATTACK, **change})

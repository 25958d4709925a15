"""What models return and compute in: every kind of output, dtype and autocast."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fairtat import fast_pgd, fast_targeted_pgd, ops

OPTIONS = {"eps": 0.1, "step_size": 0.02, "steps": 5, "seed": 0}
NORMALIZE = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.1))


def share(a, b):
    return ((a - b).abs() > 1e-6).double().mean().item()


@pytest.mark.parametrize(
    "wrap", [lambda z: z, lambda z: {"logits": z, "loss": None}, lambda z: SimpleNamespace(logits=z)]
)
def test_outputs_that_hold_logits(h, wrap):
    model, (x, _, target) = h.cnn(), h.images(6)
    model.eval()
    expected = fast_targeted_pgd(model, x, target, **OPTIONS)
    assert torch.equal(fast_targeted_pgd(lambda images: wrap(model(images)), x, target, **OPTIONS), expected)


@pytest.mark.parametrize(
    ("wrap", "error", "message"),
    [
        (lambda z: (z,), TypeError, r"must return .* object with \.logits, .* got tuple"),
        (lambda z: {"scores": z}, TypeError, "must return .* dict with 'logits', got dict"),
        (lambda z: SimpleNamespace(logits=None), TypeError, "got SimpleNamespace"),
        (lambda z: z.argmax(1), TypeError, r"got torch\.int64 tensor"),
        (lambda z: z[:, 0], ValueError, r"logits of shape \(6, C\) for 6 images, got \(6,\)"),
        (lambda z: z[:5], ValueError, r"logits of shape \(6, C\) for 6 images, got \(5, 5\)"),
    ],
)
def test_outputs_that_hold_none(h, wrap, error, message):
    model, (x, _, target) = h.cnn(), h.images(6)
    with pytest.raises(error, match=message):
        fast_targeted_pgd(lambda images: wrap(model(images)), x, target)


def test_what_is_no_model(h):
    x, _, target = h.images(6)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module or a callable, got str"):
        fast_targeted_pgd("resnet18", x, target)
    with pytest.raises(ValueError, match=r"x must be on the model's device \(meta\), got cpu"):
        fast_targeted_pgd(h.cnn().to("meta"), x, target)


@pytest.mark.parametrize("how", ["amp", "caller", "model"])
@pytest.mark.parametrize("normalize", [None, NORMALIZE])
@pytest.mark.parametrize("targeted", [True, False])
def test_bfloat16_attacks_as_strongly_and_keeps_images_in_float32(h, how, normalize, targeted):
    x, y, target = h.images(64)
    goal, attack = (target, fast_targeted_pgd) if targeted else (y, fast_pgd)
    model = h.cnn().eval()
    exact = attack(model, x, goal, normalize=normalize, return_info=True, **OPTIONS)
    if how == "amp":
        result = attack(model, x, goal, normalize=normalize, amp=torch.bfloat16, return_info=True, **OPTIONS)
    elif how == "caller":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = attack(model, x, goal, normalize=normalize, return_info=True, **OPTIONS)
    else:
        result = attack(model.bfloat16(), x, goal, normalize=normalize, return_info=True, **OPTIONS)
        model.float()
    assert result.logits.dtype == torch.bfloat16
    assert result.x_adv.dtype == torch.float32
    assert (result.x_adv - x).abs().max() <= 0.1 + 2e-7
    assert 0 < share(result.x_adv, exact.x_adv) < 0.15  # another seed changes nearly all
    start = ops.pgd_init(x, 0.1, seed=0)
    gained = [
        h.loss_value("ce", model(images if normalize is None else self_normalised(images)), goal).mean().item()
        for images in (start, exact.x_adv, result.x_adv)
    ]
    assert (gained[1] < gained[0]) == targeted
    assert abs(gained[2] - gained[1]) < 0.05 * abs(gained[1] - gained[0])


def self_normalised(images):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in NORMALIZE)
    return (images - mean) / std


def test_autocast_goes_around_the_model_alone(h):
    seen = []
    inner, (x, _, target) = h.cnn(), h.images(6)

    def model(images):
        seen.append((torch.is_autocast_enabled("cpu"), images.dtype))
        return inner(images)

    fast_targeted_pgd(model, x, target, amp=torch.bfloat16, steps=1)
    fast_targeted_pgd(model, x, target, amp=torch.bfloat16, steps=1, normalize=NORMALIZE)
    fast_targeted_pgd(model, x, target, steps=1)
    assert seen == [(True, torch.float32), (True, torch.bfloat16), (False, torch.float32)]
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("how", ["amp", "model"])
def test_float16_keeps_gradients_that_float16_alone_would_lose(norm, how):
    """The chain multiplies the gradient by 1e-8 on the way back: below 6e-8 float16 rounds to 0."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4)), torch.rand(6, 12)
    model[0].weight.data.mul_(1e-4)
    model[1].weight.data.mul_(1e-4)
    target = torch.arange(6) % 4
    options = {"eps": 1.0, "step_size": 0.05, "steps": 1, "init": "zero", "norm": norm}
    expected = fast_targeted_pgd(model, x, target, **options) - x
    if how == "amp":
        moved = fast_targeted_pgd(model, x, target, amp=torch.float16, **options) - x
    else:
        moved = fast_targeted_pgd(model.half(), x, target, **options) - x
    # Most pixels move, and where they move it is the right way.
    cosine = (moved * expected).sum() / (moved.norm() * expected.norm())
    assert cosine > 0.9


def test_float16_keeps_the_size_of_gradients_that_the_l2_step_divides_by():
    """At a gradient of 1e-12 the guard in ``g / (||g|| + 1e-12)`` halves the step; a scaled one would not feel it."""
    torch.manual_seed(0)
    layer, x = nn.Linear(12, 4), torch.rand(6, 12)
    options = {"eps": 1.0, "step_size": 0.05, "steps": 1, "init": "zero", "norm": "l2", "bounds": (-1.0, 2.0)}

    def model(images):
        return layer(images * 1e-12)

    exact, half = (
        fast_targeted_pgd(model, x, torch.arange(6) % 4, amp=amp, **options) - x for amp in (None, torch.float16)
    )
    assert 0.005 < exact.norm(dim=1).mean() < 0.045
    torch.testing.assert_close(half, exact, rtol=0.02, atol=1e-4)


def test_a_confident_float16_model_keeps_its_gradient():
    """18 apart, the other class has probability 1.5e-8: less than float16 can hold."""
    layer = nn.Linear(4, 2, bias=False).half()
    layer.weight.data.copy_(torch.tensor([[18.0, 0, 0, 0], [0, 0, 0, 1.0]]))
    x = torch.tensor([[1.0, 0.5, 0.5, 0.0]])
    result = fast_targeted_pgd(layer, x, torch.tensor([0]), steps=3, init="zero", return_info=True)
    assert result.logits[0, 0] > result.logits[0, 1] + 17
    assert result.zero_grad.tolist() == [0]


def test_float16_activations_behind_float32_logits_keep_their_gradient():
    torch.manual_seed(0)
    layers, x = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4)), torch.rand(6, 12)
    layers[0].weight.data.mul_(1e-4)
    layers[1].weight.data.mul_(1e-4)
    result = fast_targeted_pgd(
        lambda images: layers(images).float(), x, torch.arange(6) % 4, steps=1, amp=torch.float16, return_info=True
    )
    assert result.logits.dtype == torch.float32
    assert result.zero_grad.sum() == 0


@pytest.mark.parametrize(
    ("model_dtype", "image_dtype"), [(torch.float64, torch.float32), (torch.float32, torch.float64)]
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("normalize", [None, NORMALIZE])
def test_float32_and_float64_mix(h, model_dtype, image_dtype, norm, normalize):
    x, _, target = h.images(6, image_dtype)
    expected = fast_targeted_pgd(h.cnn(torch.float64), x.double(), target, norm=norm, normalize=normalize, **OPTIONS)
    result = fast_targeted_pgd(
        h.cnn(model_dtype), x, target, norm=norm, normalize=normalize, return_info=True, **OPTIONS
    )
    assert result.x_adv.dtype == image_dtype
    assert result.logits.dtype == model_dtype
    assert ((result.x_adv - expected).abs() > 1e-4).double().mean() < 0.01

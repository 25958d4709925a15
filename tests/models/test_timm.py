"""timm's models by name: the data's shape reaches them, mistakes are told, pretrained ones see normalized images."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from fairtat.errors import UserError
from fairtat.models import build
from fairtat.models.normalized import Normalized


@pytest.mark.parametrize(
    ("name", "channels", "size", "options"),
    [
        ("resnet10t", 1, (28, 28), {}),  # takes no image size
        ("xcit_nano_12_p16_224", 3, (32, 48), {}),
        ("vit_tiny_patch16_224", 3, (32, 32), {"patch_size": 4, "depth": 2}),  # takes one, and only that one
    ],
)
def test_models_fit_the_data(
    timm: ModuleType, name: str, channels: int, size: tuple[int, int], options: dict[str, int]
) -> None:
    model = build(f"timm:{name}", 7, channels, size, **options).eval()
    x = torch.rand(2, channels, *size, requires_grad=True)
    logits = model(x)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def test_the_model_is_the_one_that_timm_makes(timm: ModuleType) -> None:
    torch.manual_seed(0)
    ours = build("timm:resnet10t", 5, 3, (32, 32))
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", num_classes=5)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18x", {}, r"timm .* has no model 'resnet18x'; did you mean 'resnet18\w?'\?"),
        ("qqqqqqqqqq", {}, r"has no model 'qqqqqqqqqq'; timm.list_models\(\) has the names"),
        ("resnet10t", {"widht": 3}, r"cannot be built for 3x32x32 images with options \{'widht': 3\}: .*widht"),
    ],
)
def test_mistakes(timm: ModuleType, name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(f"timm:{name}", 10, 3, (32, 32), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [3, 1])
def test_pretrained_models_see_normalized_images(timm: ModuleType, channels: int) -> None:
    model = build("timm:resnet10t", 10, channels, (32, 32), pretrained=True, fetch=False).eval()
    assert isinstance(model, Normalized)
    x = torch.rand(2, channels, 32, 32)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
    if channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(channels)], dim=1)
    torch.testing.assert_close(model(x), model.model(by_hand))
    plain = build("timm:resnet10t", 10, channels, (32, 32))
    assert list(model.model.state_dict()) == list(plain.state_dict())


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"model 'timm:resnet18' needs timm: pip install 'fairtat\[vision\]'"):
        build("timm:resnet18", 10)

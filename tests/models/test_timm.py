"""timm's models by name: the data's shape reaches them, mistakes are told, pretrained ones see normalized images."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_model

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


@pytest.fixture
def pretrained(timm: ModuleType, tmp_path: Path) -> dict[str, Any]:
    """Options that have timm load weights of 5 classes, as it loads published ones, from a file."""
    save_model(timm.create_model("resnet10t", num_classes=5), str(tmp_path / "five.safetensors"))
    overlay = {"file": str(tmp_path / "five.safetensors"), "num_classes": 5}
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def test_pretrained_weights_of_other_classes_are_refused_where_the_head_is_needed(pretrained: dict[str, Any]) -> None:
    message = r"model 'timm:resnet10t': its pretrained weights have 5 classes, but the data have 7"
    with pytest.raises(UserError, match=message):
        build("timm:resnet10t", 7, 3, (32, 32), new_head=False, **pretrained)
    of_features = {**pretrained["pretrained_cfg_overlay"], "num_classes": 0}
    with pytest.raises(UserError, match=r"its pretrained weights have no head \(0 classes\), but the data have 7"):
        build("timm:resnet10t", 7, new_head=False, pretrained=True, pretrained_cfg_overlay=of_features)
    # Nothing is loaded where other weights come next, so nothing is wrong with it.
    build("timm:resnet10t", 7, 3, (32, 32), new_head=False, fetch=False, **pretrained)


def test_pretrained_weights_of_the_same_classes_are_whole(pretrained: dict[str, Any], timm: ModuleType) -> None:
    built = [build("timm:resnet10t", 5, new_head=new_head, **pretrained) for new_head in (True, False)]
    theirs = timm.create_model("resnet10t", num_classes=5, **pretrained)
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = theirs.eval()((x - mean) / std)
    for model in built:
        torch.testing.assert_close(model.eval()(x), expected)


def test_a_head_that_is_new_is_told(
    pretrained: dict[str, Any], timm: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="fairtat")
    model = build("timm:resnet10t", 7, **pretrained)
    lines = [record.getMessage() for record in caplog.records if record.name == "fairtat"]
    assert lines == [
        "model 'timm:resnet10t': its pretrained weights have 5 classes, but the data have 7: the last layer starts "
        "from random weights"
    ]
    assert isinstance(model, Normalized)
    theirs = timm.create_model("resnet10t", num_classes=5, **pretrained)
    assert torch.equal(model.model.conv1[0].weight, theirs.conv1[0].weight)
    caplog.clear()
    build("timm:resnet10t", 5, **pretrained)
    assert not [record for record in caplog.records if record.name == "fairtat"]


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"model 'timm:resnet18' needs timm: pip install 'fairtat\[vision\]'"):
        build("timm:resnet18", 10)

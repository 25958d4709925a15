"""`fairtat evaluate` of pretrained models: what is judged is what was published, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_model

from fairtat.evaluation import Evaluation

Command = Callable[..., Any]

CLASSES = 5


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Files of images by their number of classes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    files = {}
    for classes in (CLASSES, CLASSES + 2):
        pixels = rng.integers(0, 256, (2 * classes, 32, 32, 3), dtype=np.uint8)
        np.savez(f"{classes}.npz", images=pixels, labels=np.arange(2 * classes) % classes)
        files[classes] = f"{classes}.npz"
    return files


@pytest.fixture
def published(timm: ModuleType, tmp_path: Path) -> tuple[str, ...]:
    """Arguments that name weights of five classes, which timm loads as it loads published ones."""
    torch.manual_seed(0)
    save_model(timm.create_model("test_resnet", num_classes=CLASSES), str(tmp_path / "five.safetensors"))
    overlay = {"file": str(tmp_path / "five.safetensors"), "num_classes": CLASSES}
    options = json.dumps({"pretrained": True, "pretrained_cfg_overlay": overlay})
    return (
        "--model.name",
        "timm:test_resnet",
        "--model.options",
        options,
        "--attacks",
        "pgd-1@0.01",
        "--sanity",
        "false",
    )


def test_pretrained_weights_of_other_classes_are_refused(
    fairtat: Command, images: dict[int, str], published: tuple[str, ...]
) -> None:
    code, out, err = fairtat("evaluate", *published, "--data.name", images[CLASSES + 2])
    assert (code, out) == (2, "")
    assert "its pretrained weights have 5 classes, but the data have 7" in err
    assert err.count("\n") == 1
    assert not Path("evaluations").exists()


def test_pretrained_weights_of_the_same_classes_are_judged(
    fairtat: Command, images: dict[int, str], published: tuple[str, ...], timm: ModuleType
) -> None:
    assert fairtat("evaluate", *published, "--data.name", images[CLASSES]).code == 0
    found = Evaluation.load(f"evaluations/timm-test_resnet-{CLASSES}/all.json")
    model = timm.create_model("test_resnet", num_classes=CLASSES, **json.loads(published[3])).eval()
    with np.load(images[CLASSES]) as arrays:
        x = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2) / 255
        labels = torch.from_numpy(arrays["labels"])
    mean, std = (torch.tensor(model.pretrained_cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        predicted = model((x - mean) / std).argmax(1)
    expected = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
    expected.index_put_((labels, predicted), torch.tensor(1), accumulate=True)
    assert torch.equal(found.clean.confusion.cpu(), expected)


def test_weights_given_beside_pretrained_are_those_that_count(
    fairtat: Command, images: dict[int, str], published: tuple[str, ...], timm: ModuleType
) -> None:
    """The fine-tuned weights have the data's classes, and the published ones are not even looked for."""
    save_model(timm.create_model("test_resnet", num_classes=CLASSES + 2), "tuned.safetensors")
    options = json.dumps({"pretrained": True})  # no network here
    command = ("evaluate", *published, "--model.options", options, "--weights", "tuned.safetensors")
    assert fairtat(*command, "--data.name", images[CLASSES + 2]).code == 0
    assert fairtat(*command, "--data.name", images[CLASSES]).code == 2


def test_a_model_of_the_hub_is_named_alone(fairtat: Command, images: dict[int, str], timm: ModuleType) -> None:
    command = ("evaluate", "--model.name", "hf:org/net", "--attacks", "pgd-1@0.01", "--sanity", "false", "--data.name")
    code, out, err = fairtat(*command, images[CLASSES])
    assert (code, out) == (2, "")
    assert "put config.json and model.safetensors of org/net into the folder models/org/net" in err
    Path("models/org/net").mkdir(parents=True)
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    timm.models.save_for_hf(model, "models/org/net", model_config={"num_classes": CLASSES}, safe_serialization=True)
    code, out, err = fairtat(*command, images[CLASSES])
    assert (code, err) == (0, "")
    assert "weights published" in out
    assert Evaluation.load(f"evaluations/hf-org-net-{CLASSES}/all.json").clean.total == 2 * CLASSES
    code, _, err = fairtat(*command, images[CLASSES + 2])
    assert code == 2
    assert "model 'hf:org/net': its pretrained weights have 5 classes, but the data have 7" in err


@pytest.mark.parametrize("download", ["false", "true"])
def test_only_an_option_goes_to_the_network(
    fairtat: Command, images: dict[int, str], monkeypatch: pytest.MonkeyPatch, download: str
) -> None:
    asked = []
    monkeypatch.setattr("fairtat.models.fetch", lambda name, weights: asked.append((name, weights)))
    command = ("evaluate", "--model.name", "mlp", "--weights", "hf:org/net/w.pt", "--model.download", download)
    code, _, err = fairtat(*command, "--data.name", images[CLASSES], "--attacks", "pgd-1@0.01", "--sanity", "false")
    assert code == 2
    assert "put w.pt of org/net into the folder models/org/net" in err
    assert asked == ([("mlp", "hf:org/net/w.pt")] if download == "true" else [])

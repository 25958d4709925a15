"""What is said before the first step."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fairtat.errors import UserError
from fairtat.models import digits_cnn
from fairtat.models.normalized import Normalized
from fairtat.training.config import from_dict
from fairtat.training.distributed import World
from fairtat.training.setup import choose_device, make_trainer

pytest.importorskip("sklearn")

CPU = torch.device("cpu")
TINY = {"model": {"options": {"width": 2}}, "epochs": 2}


def test_a_shift_that_these_images_cannot_be_padded_for_is_found_before_training() -> None:
    config = from_dict({**TINY, "data": {"augment": "crop_flip", "pad": 8}})
    with pytest.raises(UserError, match=r"data\.pad is 8; expected 0 to 7 for images of 8x8"):
        make_trainer(config, CPU, World())


@pytest.mark.parametrize(("warmup", "told"), [(1, False), (2, True), (70, True)])
def test_a_run_that_ends_before_its_class_weights_apply_is_told(
    warmup: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = from_dict({**TINY, "fairness": {"weights": "dafa", "weight_options": {"warmup": warmup}}})
    with caplog.at_level(logging.WARNING, logger="fairtat"):
        make_trainer(config, CPU, World())
    assert (f"dafa weights apply after {warmup} epochs, and epochs is 2" in caplog.text) == told


def test_a_run_starts_from_given_weights(tmp_path: Path) -> None:
    other = make_trainer(from_dict({**TINY, "seed": 5}), CPU, World()).model
    save_file(other.state_dict(), tmp_path / "model.safetensors")
    for weights in (tmp_path, tmp_path / "model.safetensors"):  # a run folder, or the file in it
        config = from_dict({**TINY, "model": {"options": {"width": 2}, "weights": str(weights)}})
        model = make_trainer(config, CPU, World()).model
        for name, tensor in other.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
    # What a run goes on with is its checkpoint.
    (tmp_path / "model.safetensors").unlink()
    make_trainer(config, CPU, World(), resumed=True)
    with pytest.raises(UserError, match="no such weights file"):
        make_trainer(config, CPU, World())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    other = make_trainer(from_dict({"model": {"options": {"width": 3}}}), CPU, World()).model
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    config = from_dict({**TINY, "model": {"options": {"width": 2}, "weights": str(tmp_path / "w.safetensors")}})
    with pytest.raises(UserError, match=r"w\.safetensors: .* has shape .* but the model expects"):
        make_trainer(config, CPU, World())


def test_weights_of_other_classes_need_leave_for_a_new_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(3)
    other = digits_cnn(7, 1, (8, 8), width=2)
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    section = {"options": {"width": 2}, "weights": str(tmp_path / "w.safetensors")}
    with pytest.raises(UserError, match=r"w\.safetensors: its weights have 7 classes, but the model has 10"):
        make_trainer(from_dict({**TINY, "model": section}), CPU, World())
    with caplog.at_level(logging.INFO, logger="fairtat"):
        model = make_trainer(from_dict({**TINY, "model": {**section, "new_head": True}}), CPU, World()).model
    line = "w.safetensors: has other classes: classifier.weight, classifier.bias start from random weights"
    assert line in caplog.text
    random = make_trainer(from_dict(TINY), CPU, World()).model.state_dict()
    for name, value in model.state_dict().items():
        expected = random if name.startswith("classifier.") else other.state_dict()
        assert torch.equal(value, expected[name]), name


def test_a_linear_probe_of_a_new_head_moves_nothing_else(tmp_path: Path) -> None:
    """The recipe of docs/training.md."""
    torch.manual_seed(3)
    other = digits_cnn(7, 1, (8, 8), width=2).state_dict()
    save_file(other, tmp_path / "w.safetensors")
    config = from_dict({
        **TINY,
        "model": {"options": {"width": 2}, "weights": str(tmp_path / "w.safetensors"), "new_head": True},
        "optim": {"freeze": ["*"], "thaw": ["classifier"]},
        "attack": {"steps": 1},
        "eval": {"steps": 1},
    })  # fmt: skip
    trainer = make_trainer(config, CPU, World())
    before = trainer.model.state_dict()["classifier.weight"].clone()
    trainer.run_epoch()
    after = trainer.model.state_dict()
    assert not torch.equal(after["classifier.weight"], before)
    assert all(torch.equal(after[name], value) for name, value in other.items() if not name.startswith("classifier."))


def test_the_weights_of_timm_start_a_run(
    timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    published = timm.get_pretrained_cfg("test_resnet")
    folder = Path("models") / published.hf_hub_id
    section: dict[str, Any] = {"name": "timm:test_resnet", "weights": "timm"}
    with pytest.raises(UserError, match=r"model\.safetensors is not on this machine; add --model\.download true"):
        make_trainer(from_dict({**TINY, "model": section}), CPU, World())
    folder.mkdir(parents=True)
    theirs = timm.create_model("test_resnet", num_classes=published.num_classes)
    save_file(theirs.state_dict(), folder / "model.safetensors")
    with pytest.raises(
        UserError, match=f"its pretrained weights have {published.num_classes} classes, but the data have"
    ):
        make_trainer(from_dict({**TINY, "model": section}), CPU, World())
    config = from_dict({**TINY, "model": {**section, "new_head": True}})
    with caplog.at_level(logging.INFO, logger="fairtat"):
        model = make_trainer(config, CPU, World()).model
    assert "the last layer starts from random weights" in caplog.text
    assert isinstance(model, Normalized)  # by timm's mean and std, with the gray images of digits
    key = "layer1.0.conv2.weight"
    assert torch.equal(model.state_dict()[key], theirs.state_dict()[key])
    (folder / "model.safetensors").unlink()
    make_trainer(config, CPU, World(), resumed=True)
    with pytest.raises(UserError, match=r"model\.weights is timm; expected model\.name timm:NAME, got mlp"):
        from_dict({"model": {"name": "mlp", "weights": "timm"}})


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "mps", "cuda:99", "cuda:-1"])
def test_a_device_that_is_not_here_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=f"device is '{name}'"):
        choose_device(name)

"""What is said before the first step."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fairtat.errors import UserError
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


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "mps", "cuda:99", "cuda:-1"])
def test_a_device_that_is_not_here_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=f"device is '{name}'"):
        choose_device(name)

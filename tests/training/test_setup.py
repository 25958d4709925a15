"""What is said before the first step."""

from __future__ import annotations

import logging

import pytest
import torch

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


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "mps", "cuda:99", "cuda:-1"])
def test_a_device_that_is_not_here_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=f"device is '{name}'"):
        choose_device(name)

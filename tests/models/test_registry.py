"""Models by name, and the user's own."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

from fairtat.errors import UserError
from fairtat.models import MODELS, build
from fairtat.training.config import ModelConfig


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_name_builds_a_model_for_the_data(name: str) -> None:
    options = {"preact_resnet18": {"width": 4}, "wrn28_10": {"widen": 1}, "wrn34_10": {"widen": 1}}.get(name, {})
    model = build(name, 7, 2, (16, 16), **options).eval()
    assert model(torch.rand(3, 2, 16, 16)).shape == (3, 7)


def test_the_help_of_the_command_line_names_them_all() -> None:
    text = inspect.getsource(ModelConfig)
    assert [name for name in MODELS if not re.search(rf"\b{name}\b", text)] == []


def test_options_reach_the_builder() -> None:
    assert build("mlp", 10, 1, (8, 8), width=5).classifier.in_features == 5


def test_a_model_normalizes_its_images_by_itself() -> None:
    torch.manual_seed(0)
    model = build("mlp", 5, 3, (4, 4), mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]).eval()
    torch.manual_seed(0)
    plain = build("mlp", 5, 3, (4, 4)).eval()
    x = torch.rand(2, 3, 4, 4)
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    assert torch.equal(model(x), plain((x - mean) / std))
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_one_number_serves_all_channels() -> None:
    model = build("mlp", 5, 3, (4, 4), mean=[0.5], std=[0.25])
    assert model.mean.flatten().tolist() == [0.5] * 3
    assert model.std.flatten().tolist() == [0.25] * 3


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5, 0.5], [1.0], r"mean is \[0.5, 0.5\]; expected 3 numbers, one per channel, or one for all"),
        ([0.5], None, r"std is None; expected 3 numbers.*above 0 \(mean and std go together\)"),
        (None, [1.0], "mean is None"),
        ([0.5], [0.0], r"std is \[0.0\]; expected .*above 0"),
        ([0.5], [], "std is None"),
    ],
)
def test_a_mean_or_std_that_does_not_fit_is_an_error(mean, std, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("mlp", 5, 3, (4, 4), mean=mean, std=std)


OWN = """
import torch
def net(num_classes, in_channels, image_size, hidden=3):
    height, width = image_size
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_channels * height * width, hidden),
                               torch.nn.Linear(hidden, num_classes))
def not_a_model(**kwargs):
    return 3
"""


def test_a_model_of_ones_own_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models_ok.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    model = build("own_models_ok:net", 4, 1, (5, 5), hidden=6)
    assert model(torch.rand(2, 1, 5, 5)).shape == (2, 4)
    with pytest.raises(UserError, match=r"has no function 'nett'; did you mean 'net'\?"):
        build("own_models_ok:nett", 4)
    with pytest.raises(UserError, match=r"returned a int; expected a torch\.nn\.Module"):
        build("own_models_ok:not_a_model", 4)


BARE = """
import torch
def fixed():
    return torch.nn.Linear(4, 2)
def classes_alone(num_classes, *, bias=True):
    return torch.nn.Linear(4, num_classes, bias=bias)
class Net(torch.nn.Linear):
    def __init__(self, image_size, in_channels):
        super().__init__(in_channels * image_size[0] * image_size[1], 2)
def everything(**given):
    model = torch.nn.Identity()
    model.given = given
    return model
def other(classes):
    return torch.nn.Linear(4, classes)
"""


def test_a_builder_gets_what_its_signature_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bare_models.py").write_text(BARE)
    monkeypatch.chdir(tmp_path)
    assert build("bare_models:fixed", 7).out_features == 2
    assert build("bare_models:classes_alone", 7, bias=False).bias is None
    assert build("bare_models:Net", 7, 3, (2, 2)).in_features == 12
    assert build("bare_models:everything", 7, 3, (2, 2), width=1).given == {
        "num_classes": 7,
        "in_channels": 3,
        "image_size": (2, 2),
        "width": 1,
    }
    with pytest.raises(UserError, match=r"cannot be built with options.*classes"):
        build("bare_models:other", 7)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits_cn", {}, r"no model is called 'digits_cn'; did you mean 'digits_cnn'\?"),
        ("nowhere_at_all:net", {}, "cannot import module 'nowhere_at_all'"),
        ("mlp", {"widht": 3}, r"cannot be built with options \{'widht': 3\}.*widht"),
    ],
)
def test_mistakes(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, 10, 1, (8, 8), **options)

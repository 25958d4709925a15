"""`fairtat evaluate --model.name`: models that fairtat did not train, and their images."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairtat.evaluation import Evaluation
from fairtat.training import load_run

Command = Callable[..., Any]
Options = tuple[str, ...]

OUTSIDE = ("--attack.eps", "0.1", "--attack.steps", 1, "--model.name", "mlp", "--data.name")
"""A model with random weights, to be followed by the data."""


@pytest.fixture
def outside(runs: Path) -> Options:
    """A run's model, its weights and images as somebody else would have them."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    run = load_run("runs/at")
    save_file({f"module.{name}": value for name, value in run.model.state_dict().items()}, "weights.safetensors")
    test = run.splits().test
    np.savez("images.npz", images=test.floats(test.images).numpy(), labels=test.labels.numpy())
    model = ("--model.name", "mlp", "--weights", "weights.safetensors")
    return (*model, "--data.name", "images.npz", "--attack.eps", "0.1")


def test_a_model_from_elsewhere_gets_the_same_figures(fairtat: Command, outside: Options) -> None:
    code, out, err = fairtat("evaluate", *outside, "--attack.steps", 2)
    assert (code, err) == (0, "")
    assert "written: evaluations/mlp-images/all.json" in out
    fairtat("evaluate", "runs/at", "--attack.steps", 2)
    own, other = (Evaluation.load(path) for path in ("runs/at/evaluation/test.json", "evaluations/mlp-images/all.json"))
    assert torch.equal(own.clean.confusion, other.clean.confusion)
    assert other.source["weights"] == "weights.safetensors"


def test_a_layout_that_cannot_be_told_is_an_option(
    fairtat: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("thin.npz", images=rng.integers(0, 256, (12, 3, 8, 3), dtype=np.uint8), labels=np.arange(12) % 3)
    arguments = ("evaluate", *OUTSIDE, "thin.npz")
    code, _, err = fairtat(*arguments)
    assert (code, "set data.layout to nchw or nhwc" in err) == (2, True)
    assert fairtat(*arguments, "--data.layout", "nhwc").code == 0


def test_the_test_part_of_a_file_is_what_is_judged(fairtat: Command, runs: Path) -> None:
    """By default, as for the named sets; a file with one part is judged whole."""
    splits = load_run("runs/at").splits()
    arrays = {}
    for part, data in (("train", splits.train), ("test", splits.test)):
        arrays |= {f"x_{part}": data.floats(data.images).numpy(), f"y_{part}": data.labels.numpy()}
    np.savez("both.npz", **arrays)
    np.savez("alone.npz", x_test=arrays["x_test"], y_test=arrays["y_test"])
    np.savez("plain.npz", images=arrays["x_test"], labels=arrays["y_test"])
    found = {}
    for name, split in (("both", "test"), ("alone", "test"), ("plain", "all")):
        command = ("evaluate", "runs/at", "--data.name", f"{name}.npz", "--attack.steps", 1)
        assert fairtat(*command, "--sanity", "false").code == 0
        found[name] = Evaluation.load(f"runs/at/evaluation/{name}/{split}.json")
        assert found[name].source["split"] == split
    fairtat("evaluate", "runs/at", "--attack.steps", 1, "--sanity", "false")
    own = Evaluation.load("runs/at/evaluation/test.json")
    for evaluation in found.values():
        assert torch.equal(evaluation.clean.confusion, own.clean.confusion)
    command = ("evaluate", "runs/at", "--data.name", "both.npz", "--split", "all", "--attack.steps", 1)
    assert fairtat(*command, "--sanity", "false").code == 0
    everything = Evaluation.load("runs/at/evaluation/both/all.json")
    assert everything.clean.total == len(splits.train)


@pytest.fixture
def folder_of_two_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        for k in range(10):
            for number, side in enumerate((8, 12)):
                pixels = np.random.default_rng(10 * number + k).integers(0, 256, (side, side), dtype=np.uint8)
                place = tmp_path / "mixed" / part / str(k)
                place.mkdir(parents=True, exist_ok=True)
                image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "mixed"


def test_images_of_differing_sizes_are_scaled_if_asked(fairtat: Command, folder_of_two_sizes: Path) -> None:
    arguments = ("evaluate", *OUTSIDE, "mixed")
    code, _, err = fairtat(*arguments)
    assert (code, "data.image_size" in err) == (2, True)
    for split, images in (("test", 20), ("all", 20)):
        assert fairtat(*arguments, "--data.image_size", 8, "--split", split).code == 0
        assert Evaluation.load(f"evaluations/mlp-mixed/{split}.json").clean.total == images


def test_former_names_of_options_work_and_warn(fairtat: Command, outside: Options) -> None:
    options = ("--model.options", "{width: 128}", "--model.mean", "0.5", "--model.std", "[0.5]")
    assert fairtat("evaluate", *outside, *options, "--attack.steps", 1).code == 0
    stored = Path("evaluations/mlp-images/all.json")
    expected = stored.read_bytes()
    stored.unlink()
    former = [word.replace("model.name", "model").replace("data.name", "data") for word in outside]
    options = ("--model-options", "{width: 128}", "--mean=0.5", "--std", "0.5")
    code, _, err = fairtat("evaluate", *former, *options, "--attack.steps", 1)
    assert code == 0
    assert [line.split(";")[0] for line in err.splitlines()] == [
        f"warning: {old} is now {new}"
        for old, new in (
            ("--model", "--model.name"),
            ("--data", "--data.name"),
            ("--model_options", "--model.options"),
            ("--mean", "--model.mean"),
            ("--std", "--model.std"),
        )
    ]
    assert stored.read_bytes() == expected


def test_turned_images_are_told_and_turned_or_not_as_asked(
    fairtat: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    exif = image.Exif()
    exif[0x0112] = 3
    for place in [Path("set", part, name) for part in ("train", "test") for name in "abc"]:
        place.mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
            image.fromarray(pixels).save(place / f"{number}.png", exif=exif)
    arguments = ("evaluate", *OUTSIDE, "set")
    applied = fairtat(*arguments)
    assert applied.code == 0
    assert "notice: 6 of 6 images are turned as their EXIF orientation says" in caplog.text
    caplog.clear()
    ignored = fairtat(*arguments, "--data.exif", "ignore")
    assert (ignored.code, caplog.text) == (0, "")
    assert "reused" not in ignored.out  # other images are another question


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--weights", "nowhere.pt"), "error: nowhere.pt: no such weights file"),
        (("--data.name", "nowhere.npz"), "error: nowhere.npz: no such file"),
        (("--model.name", "mpl"), "did you mean 'mlp'?"),
        (("--attacks", "pdg-20"), "no attack is called 'pdg'; did you mean 'pgd'?"),
        (("--attacks", "pgd:l2"), "a radius in l2 is needed too"),
        (("--corruptions", "fogg"), "did you mean 'fog'?"),
        (("--corruptions", "fog", "--severities", "7"), "severity of fog is 7; expected 1 to 5"),
        (("--targeted", "fgsm"), "the attacks that take a target are pgd and cw"),
        (("--model.mean", "0.5"), "--model.mean and --model.std go together"),
        (("--model.mean", "0.5,0.5", "--model.std", "1"), "--model.mean has 2 numbers, but the images have 1 channels"),
        (("--model.options", "{width: 7}"), "is it a model of another size, or for another number of classes?"),
        (("--device", "gpu"), "expected auto, cpu, cuda, cuda:N, xpu or xpu:N"),
        (("--model.options", "{num_classes: 43}"), "--model.options has 'num_classes', which"),
        (("--model.options", "{image_size: 43}"), "--model.options has 'image_size', which"),
        (("--model.options", "{mean: [0.5]}"), "--model.options has 'mean', which"),
    ],
)
def test_mistakes_with_a_model_from_elsewhere_are_one_line(
    fairtat: Command, outside: Options, change: Options, message: str
) -> None:
    arguments = dict(zip(*[iter(outside)] * 2, strict=True))
    arguments.update(zip(*[iter(change)] * 2, strict=True))
    code, out, err = fairtat("evaluate", *[word for pair in arguments.items() for word in pair])
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("evaluations/mlp-images/all.json").exists()


FOREIGN = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.linear(x.flatten(1) - 0.5)


def build():
    return Net()
"""


def rewritten(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of one's own, as a new process would see it."""
    Path(f"{name}.py").write_text(text)
    monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    shutil.rmtree("__pycache__", ignore_errors=True)


def test_an_edited_forward_is_asked_again(fairtat: Command, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = load_run("runs/at").splits().test
    np.savez("images.npz", images=test.floats(test.images).numpy(), labels=test.labels.numpy())
    # A radius of its own: no --attack.eps is asked for. And a builder that takes nothing.
    command = ("evaluate", "--model.name", "edited_net:build", "--data.name", "images.npz", "--attacks", "pgd-2@0.1")
    stored = "evaluations/edited_net-build-images/all.json"
    rewritten("edited_net", FOREIGN, monkeypatch)
    code, out, err = fairtat(*command)
    assert (code, err) == (0, "")
    assert "weights its own" in out
    before = Evaluation.load(stored)
    assert before.attack.eps == 0.1
    assert "reused" in fairtat(*command).out
    rewritten("edited_net", FOREIGN.replace("- 0.5)", "- 0.5).roll(1, 1)"), monkeypatch)
    out = fairtat(*command).out
    assert "reused" not in out
    assert "replaced: the earlier results are of other weights, settings or code of the model" in out
    after = Evaluation.load(stored)
    assert torch.equal(after.clean.confusion, before.clean.confusion.roll(1, 1))

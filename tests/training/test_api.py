"""Whole runs: what is refused before anything is written, and what survives an end that was not planned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fairtat import training
from fairtat.errors import UserError
from fairtat.training import EpochMetrics, Observer, RunStart, TrainConfig, TrainingDiverged, load_run, train


def epochs_in(folder: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_runs_of_one_seed_are_equal_to_the_bit(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    first, second = (train(tiny(output=str(tmp_path / name))) for name in "ab")
    one, two = (torch.load(o.path / "checkpoint.pt", weights_only=True)["model"] for o in (first, second))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_observers_hear_everything(tiny: Callable[..., TrainConfig]) -> None:
    heard: list[object] = []

    class Listener(Observer):
        def on_start(self, start: RunStart) -> None:
            assert (start.path / "checkpoint.pt").exists()
            heard.append(start.train_samples)

        def on_epoch(self, metrics: EpochMetrics) -> None:
            heard.append(metrics.epoch)

    config = tiny()
    train(config, observer=Listener())
    run = load_run(config.output)
    assert heard == [len(run.splits().train), 1, 2]


def test_stopping_keeps_the_last_complete_epoch(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny(epochs=5)
    finished = 0

    class Count(Observer):
        def on_epoch(self, metrics: EpochMetrics) -> None:
            nonlocal finished
            finished = metrics.epoch

    outcome = train(config, observer=Count(), should_stop=lambda: finished == 2)
    assert (outcome.interrupted, outcome.epoch) == (True, 2)
    assert load_run(outcome.path).epoch == 2
    assert epochs_in(outcome.path) == [1, 2]


def test_stopping_in_the_first_epoch_leaves_the_untrained_model(tiny: Callable[..., TrainConfig]) -> None:
    outcome = train(tiny(), should_stop=lambda: True)
    assert (outcome.interrupted, outcome.epoch, outcome.last) == (True, 0, None)
    assert load_run(outcome.path).epoch == 0


def test_a_diverging_run_keeps_the_last_good_epoch(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        train(tiny(optim={"lr": 1e30}))
    run = load_run(tmp_path / "run")
    assert run.epoch == 0
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())


def test_a_crash_between_epochs_loses_only_the_running_one(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    class Crash(Observer):
        def on_step(self, progress) -> None:
            if progress.epoch == 2 and progress.step == 3:
                raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="the power went"):
        train(tiny(), observer=Crash())
    assert load_run(tmp_path / "run").epoch == 1


OWN = """
import torch
def wrong_shape(num_classes, **kwargs):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes + 1))
def crashes(num_classes, **kwargs):
    return torch.nn.Linear(3, num_classes)
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"name": "digts"}}, "no data set is called 'digts'; did you mean 'digits'?"),
        ({"data": {"name": "missing.npz"}}, "missing.npz: no such file"),
        ({"data": {"name": "nan.npz"}}, "nan.npz: 1 of 30 images hold NaN or infinity"),
        ({"data": {"name": "label.npz"}}, "label.npz: labels lie in [0, 7]; expected 0 to 2"),
        ({"data": {"test": 0.9499}}, "leave none to train on"),
        ({"drop_last": True, "batch_size": 700}, "batch_size is 700, which leaves no batch of 629 training images"),
        ({"model": {"name": "digits_cn", "options": {}}}, "did you mean 'digits_cnn'?"),
        ({"model": {"options": {"widht": 3}}}, "cannot be built with options"),
        ({"model": {"name": "own_bad:wrong_shape", "options": {}}}, "logits of shape (2, 11) for 2 images"),
        ({"model": {"name": "own_bad:crashes", "options": {}}}, "does not run on images (1, 8, 8)"),
        ({"device": "gpu"}, "device is 'gpu'; expected auto, cpu, cuda, cuda:N, xpu or xpu:N"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but PyTorch sees"),
        ({"attack": {"loss": "dlr"}, "data": {"name": "two.npz"}}, "the attack does not fit: "),
    ],
)
def test_bad_input_writes_nothing(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    images, labels = np.full((30, 8, 8), 0.5, np.float32), np.arange(30) % 3
    np.savez("two.npz", images=images, labels=labels % 2)
    np.savez("label.npz", images=images, labels=np.where(np.arange(30) == 5, 7, labels), class_names=["a", "b", "c"])
    images[4, 2, 2] = np.nan
    np.savez("nan.npz", images=images, labels=labels)
    Path("own_bad.py").write_text(OWN)
    with pytest.raises(UserError) as caught:
        train(tiny(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_without_an_output_the_folder_is_named_by_time(
    tiny: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = train(tiny(output=None, epochs=1))
    assert outcome.path.parent == Path("runs")
    assert load_run(outcome.path).config.output == str(outcome.path)


def test_own_images_train(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = (rng.random((90, 6, 5, 3)) * 60).astype(np.uint8)
    images[np.arange(90), :, :, labels] += 150
    np.savez(tmp_path / "colors.npz", images=images, labels=labels, class_names=["red", "green", "blue"])
    outcome = train(tiny(data={"name": str(tmp_path / "colors.npz"), "test": 0.2, "val": 0.2}, epochs=3))
    assert outcome.last is not None
    assert outcome.last.val_clean.average == 1.0
    assert outcome.last.val_robust.worst_class_name == "red"  # all equal: the first


def test_the_old_name_of_a_result_warns() -> None:
    with pytest.warns(DeprecationWarning, match="is now TrainResult"):
        assert training.Outcome is training.TrainResult
    with pytest.raises(AttributeError, match="no attribute 'Outcomes'"):
        _ = training.Outcomes

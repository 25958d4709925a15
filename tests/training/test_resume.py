"""A run that goes on is the run that never stopped; and what stands in the way is said in one line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fairtat.errors import UserError
from fairtat.training import EpochMetrics, Observer, TrainConfig, load_run, resume, train
from fairtat.training.run.lock import run_lock

Make = Callable[..., TrainConfig]
SameRun = Callable[[Path, Path], None]

DROPOUT = """
from torch import nn
def net(num_classes, **kwargs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Dropout(0.3), nn.Linear(32, num_classes))
"""


def stop_after(steps: int) -> Callable[[], bool]:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > steps

    return stop


def begun(config: TrainConfig, steps: int) -> Path:
    outcome = train(config, should_stop=stop_after(steps))
    assert outcome.interrupted
    return outcome.path


@pytest.mark.parametrize(
    "changes",
    [
        {"fairness": {"targets": "confusion", "margins": ["G-rob", "T-cfps"]}, "optim": {"schedule": "onecycle"}},
        {"objective": {"name": "trades"}, "averaging": {"name": "ema", "every": "step"}, "amp": "fp16"},
        {"averaging": {"name": "fawa", "threshold": 0.05}, "awp": {"gamma": 0.01, "begin": 1}, "checkpoint_every": 2},
        {
            "model": {"name": "own_dropout:net", "options": {}},
            "accumulate": 2,
            "data": {"augment": "crop_flip", "pad": 1},
        },
        {"model": {"name": "digits_cnn", "options": {"width": 4}}, "attack": {"bn_mode": "train"}, "amp": "bf16"},
        {
            "optim": {"name": "adamw", "lr": 1e-3, "schedule": "cosine", "warmup": 1, "groups": [{"match": "*bias"}]},
            "augment": {"mixup": 0.8, "cutmix": 1.0, "mix_share": 0.7, "cutout": 3},
        },
        {"optim": {"name": "lion", "lr": 1e-3, "decay": "matrices"}, "attack": {"name": "apgd"}},
        {
            "model": {"name": "digits_cnn", "options": {"width": 4}},
            "averaging": {"name": "swa", "begin": 2},
            "optim": {"freeze": ["*0.weight"], "clip": 0.5},
        },
        {"objective": {"grad_align": 0.2}, "attack": {"steps": 1, "rel_step": 1.25}, "augment": {"randaugment": 1}},
    ],
    ids=[
        "fair-tat",
        "trades-ema-fp16",
        "fawa-awp",
        "dropout-augment",
        "batchnorm",
        "adamw-mix",
        "lion-apgd",
        "swa-freeze",
        "grad-align-randaugment",
    ],
)
def test_stopped_twice_and_resumed_it_is_the_same_run(
    tiny: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_run: SameRun,
    changes: dict[str, Any],
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_dropout.py").write_text(DROPOUT)
    config = tiny(epochs=5, **changes)
    whole = train(replace(config, output=str(tmp_path / "whole"))).path
    broken = begun(config, steps=17)  # ten steps an epoch: in the second one
    torch.manual_seed(12345)  # another process
    resume(broken, should_stop=stop_after(25), trust_model=True)
    outcome = resume(broken, trust_model=config.model.name)
    assert (outcome.epoch, outcome.interrupted) == (5, False)
    environment = json.loads((broken / "environment.json").read_text())
    assert [entry["after_epoch"] for entry in environment["resumed"]] == sorted(
        entry["after_epoch"] for entry in environment["resumed"]
    )
    assert len(environment["resumed"]) == 2
    assert_same_run(whole, broken)


def test_a_run_of_before_knows_no_options_of_its_own_code(tiny: Make, tmp_path: Path, assert_same_run: SameRun) -> None:
    """As an earlier version wrote it: without data.options and objective.options."""
    config = tiny(epochs=3)
    whole = train(replace(config, output=str(tmp_path / "whole"))).path
    broken = begun(config, steps=17)
    for file in (broken / "checkpoint.pt", broken / "best.pt"):
        state = torch.load(file, weights_only=True)
        assert state["config"]["data"].pop("options") == state["config"]["objective"].pop("options") == {}
        torch.save(state, file)
    values = yaml.safe_load((broken / "config.yaml").read_text())
    del values["data"]["options"], values["objective"]["options"]
    (broken / "config.yaml").write_text(yaml.safe_dump(values))
    assert load_run(broken).epoch == 1
    resume(broken)
    assert_same_run(whole, broken)


def test_the_best_epoch_is_chosen_by_validation_and_kept(tiny: Make, tmp_path: Path) -> None:
    seen: list[EpochMetrics] = []

    class Listener(Observer):
        def on_epoch(self, metrics: EpochMetrics) -> None:
            seen.append(metrics)

    # A learning rate that spoils the model in the end: the best epoch is not the last.
    config = tiny(epochs=6, optim={"lr": 0.3, "schedule": "onecycle", "momentum": 0.98})
    train(config, observer=Listener())
    scores = [m.val_robust.average + m.val_robust.worst for m in seen]
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert best["epoch"] == 1 + scores.index(max(scores))
    assert best["score"] == max(scores)
    assert load_run(tmp_path / "run", weights="best").epoch == best["epoch"]
    assert load_run(tmp_path / "run").epoch == 6


def test_averaged_weights_are_what_is_validated_saved_and_evaluated(tiny: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    config = tiny(epochs=3, averaging={"name": "ema", "decay": 0.9, "every": "step"})
    outcome = train(config)
    state = torch.load(outcome.path / "checkpoint.pt", weights_only=True)
    average = state["averaging"]["model"]
    assert not torch.equal(average["classifier.weight"], state["model"]["classifier.weight"])
    run = load_run(outcome.path)
    published = load_file(outcome.path / "model.safetensors")
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, average[name])
        assert torch.equal(value, published[name])
    val = run.splits().val
    with torch.no_grad():
        accuracy = float((run.model(val.floats(val.images)).argmax(1) == val.labels).double().mean())
    assert outcome.last is not None
    assert outcome.last.averaged is not None
    assert outcome.last.averaged.clean.average == pytest.approx(accuracy)
    assert outcome.last.score == outcome.last.averaged.robust.average + outcome.last.averaged.robust.worst


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_damaged_checkpoint_costs_one_epoch(
    tiny: Make, tmp_path: Path, assert_same_run: SameRun, caplog: pytest.LogCaptureFixture, keep: float
) -> None:
    config = tiny(epochs=4)
    whole = train(replace(config, output=str(tmp_path / "whole"))).path
    broken = begun(config, steps=36)  # in the fourth epoch: an epoch asks 11 times
    content = (broken / "checkpoint.pt").read_bytes()
    (broken / "checkpoint.pt").write_bytes(content[: int(keep * len(content))])
    with caplog.at_level(logging.WARNING, "fairtat"):
        resume(broken)
    (record,) = caplog.records
    assert "checkpoint.pt: cannot be read" in record.getMessage()
    assert "going back to epoch 2 in checkpoint.previous.pt" in record.getMessage()
    assert_same_run(whole, broken)


def test_lines_past_the_checkpoint_and_torn_lines_go(tiny: Make, tmp_path: Path, assert_same_run: SameRun) -> None:
    config = tiny(epochs=3)
    whole = train(replace(config, output=str(tmp_path / "whole"))).path
    broken = begun(config, steps=25)
    line = (broken / "metrics.jsonl").read_text().splitlines()[-1]
    with (broken / "metrics.jsonl").open("a") as stream:
        stream.write(line.replace('"epoch": 2', '"epoch": 3') + "\n" + line[: len(line) // 2])
    (broken / ".checkpoint.pt.123.tmp").write_bytes(b"half")
    resume(broken)
    assert_same_run(whole, broken)


def test_more_epochs_where_the_learning_rate_is_constant(tiny: Make, tmp_path: Path, assert_same_run: SameRun) -> None:
    config = tiny(epochs=4, optim={"schedule": "constant"})
    whole = train(replace(config, output=str(tmp_path / "whole"))).path
    short = train(replace(config, epochs=2)).path
    resume(short, config=config)
    assert yaml.safe_load((short / "config.yaml").read_text())["epochs"] == 4
    assert_same_run(whole, short)


def test_settings_that_change_no_meaning_may_change(tiny: Make, tmp_path: Path) -> None:
    config = tiny(epochs=3)
    broken = begun(config, steps=12)
    other = tiny(epochs=3, threads=1, checkpoint_every=3, attack={"backend": "reference"})
    assert resume(broken, config=other).epoch == 3
    assert load_run(broken).config.attack.backend == "reference"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": {"eps": 0.2}}, "attack.eps is 0.2, but this run was begun with 0.05; --resume may change only"),
        ({"epochs": 9}, "epochs is 9, but this run was begun with 3; with optim.schedule step it decides every"),
        ({"seed": 1}, "seed is 1, but this run was begun with 0"),
        ({"batch_size": 32}, "batch_size is 32"),
    ],
)
def test_settings_that_change_the_meaning_may_not(tiny: Make, changes: dict[str, Any], message: str) -> None:
    broken = begun(tiny(epochs=3), steps=12)
    before = {file.name: file.read_bytes() for file in broken.iterdir()}
    with pytest.raises(UserError) as caught:
        resume(broken, config=tiny(**{"epochs": 3, **changes}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in broken.iterdir()} == before


def test_what_cannot_be_resumed(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such run folder"):
        resume(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no checkpoint to resume from"):
        resume(tmp_path / "empty")
    finished = train(tiny()).path
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (finished / name).write_bytes(b"noise")
    with pytest.raises(UserError, match=r"checkpoint.pt: cannot be read.*; .*checkpoint.previous.pt: cannot be read"):
        resume(finished)


def test_a_finished_run_is_left_as_it_is(tiny: Make) -> None:
    finished = train(tiny()).path
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    outcome = resume(finished)
    assert (outcome.epoch, outcome.interrupted, outcome.last) == (2, False, None)
    assert {file.name: file.read_bytes() for file in finished.iterdir()} == before


def test_a_folder_in_use_is_left_alone(tiny: Make) -> None:
    broken = begun(tiny(), steps=3)
    with run_lock(broken), pytest.raises(UserError, match="this process is training in this folder already"):
        resume(broken)


def test_data_that_changed_are_noticed(tiny: Make, tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    file = tmp_path / "mine.npz"
    np.savez(file, images=rng.random((60, 4, 4), np.float32), labels=np.arange(60) % 3)
    broken = begun(tiny(data={"name": str(file), "test": 0.2, "val": 0.2}, batch_size=8), steps=2)
    np.savez(file, images=rng.random((60, 5, 4), np.float32), labels=np.arange(60) % 3)
    with pytest.raises(UserError, match=r"was trained with image_shape \[1, 4, 4\], but the data now have \[1, 5, 4\]"):
        resume(broken)

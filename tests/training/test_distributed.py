"""Two and three processes take the steps that one would take."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import ENVIRONMENT, every_strike, started, strike, wait_for

from fairtat import models
from fairtat.reference import class_stats as layout
from fairtat.training import TrainConfig, load_run
from fairtat.training.config import to_dict

pytestmark = pytest.mark.slow

Make = Callable[..., TrainConfig]
Metrics = Callable[[Path], list[dict[str, Any]]]

# Several runs in one job, because starting one takes seconds.
PROGRAM = """
import json, sys
from pathlib import Path
from fairtat.training import train
from fairtat.training.config import from_dict
for name, values in json.loads(Path(sys.argv[1]).read_text()).items():
    train(from_dict({**values, "output": str(Path(sys.argv[2]) / name)}))
"""

# Models without BatchNorm: the processes' parts add up to the whole batch.
VARIANTS: dict[str, dict[str, Any]] = {
    "fair-tat": {"fairness": {"targets": "cfps", "margins": "G-rob"}, "data": {"augment": "crop_flip", "pad": 1}},
    "last-batch-of-one": {"batch_size": 157, "fairness": {"targets": "random"}},  # 629 training images
    "trades": {"objective": {"name": "trades"}, "optim": {"clip": 0.1}, "accumulate": 2},
    "awp": {
        "awp": {"gamma": 0.01},
        "fairness": {"targets": "confusion"},
        "averaging": {"name": "ema", "every": "step"},
    },
    "adamw-frozen-swa": {
        "optim": {"name": "adamw", "lr": 1e-3, "freeze": ["hidden"], "warmup": 1, "schedule": "linear"},
        "averaging": {"name": "swa"},
    },
    "apgd": {"attack": {"name": "apgd"}, "batch_size": 157},  # the last batch is of one image
    "grad-align": {"objective": {"grad_align": 0.2}, "attack": {"steps": 1, "rel_step": 1.25}},
    "fair-ard": {"fairness": {"weights": "fair_ard"}},
    "absld": {"objective": {"name": "absld"}, "accumulate": 2},
}


def run_all(configs: dict[str, TrainConfig], folder: Path, processes: int) -> None:
    folder.mkdir()
    (folder / "configs.json").write_text(json.dumps({name: to_dict(config) for name, config in configs.items()}))
    (folder / "program.py").write_text(PROGRAM)
    with started(processes, str(folder / "program.py"), str(folder / "configs.json"), str(folder)) as process:
        _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err[-3000:]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def temperatures(folder: Path) -> torch.Tensor:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["objective"]["temperature"]


def test_statistics_are_equal_and_weights_nearly(tiny: Make, tmp_path: Path, metrics_of: Metrics) -> None:
    teacher = {"weights": str(tmp_path / "teacher.pt")}
    torch.manual_seed(1)
    torch.save(models.build("mlp", 10, 1, (8, 8), width=32).state_dict(), teacher["weights"])
    configs = {
        name: tiny(threads=1, **changes, distill=teacher if name == "absld" else {})
        for name, changes in VARIANTS.items()
    }
    for processes in (1, 2, 3):
        run_all(configs, tmp_path / str(processes), processes)
    for name in VARIANTS:
        alone = tmp_path / "1" / name
        stats = torch.load(alone / "checkpoint.pt", weights_only=True)["fair"]["last"]["buffer"]
        for processes in (2, 3):
            together = tmp_path / str(processes) / name
            other = torch.load(together / "checkpoint.pt", weights_only=True)["fair"]["last"]["buffer"]
            # All but the sums of the losses, which are rounded numbers that differ in the last bits.
            rows = [row for row in range(len(stats)) if row not in (layout.LOSS, layout.LOSS + 1)]
            assert torch.equal(stats[rows], other[rows])
            for ours, theirs in zip(metrics_of(alone), metrics_of(together), strict=True):
                assert ours.pop("train_loss") == pytest.approx(theirs.pop("train_loss"), rel=1e-6)
                assert ours == theirs  # accuracies, radii and targets
            if name == "absld":
                ours, theirs = (temperatures(folder) for folder in (alone, together))
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
                assert ours.unique().numel() > 10
            # A sum of 64 float32 numbers in another order, 20 steps long: rounding of 2**-24 each.
            pairs = [(value, weights(together)[key]) for key, value in weights(alone).items()]
            assert max(float((a - b).abs().max()) for a, b in pairs) < 64 * 20 * 2**-24 * 0.1 * 10
            environment = json.loads((together / "environment.json").read_text())
            assert environment["processes"] == processes


def test_batchnorm_is_the_same_on_every_process_after_an_epoch(tiny: Make, tmp_path: Path) -> None:
    # What the first process saves is what all have: a run resumed by another number of processes goes on from there.
    model = {"name": "digits_cnn", "options": {"width": 4}}
    base = {"model": model, "threads": 1, "epochs": 4, "optim": {"schedule": "constant"}}
    configs = {
        "trades": tiny(**base, objective={"name": "trades"}),
        "train": tiny(**base, attack={"bn_mode": "train"}, channels_last=True, amp="bf16"),
    }
    run_all(configs, tmp_path / "2", 2)
    run_all(configs, tmp_path / "1", 1)
    for name in configs:
        one, two = (load_run(tmp_path / folder / name) for folder in "12")
        val = one.splits().val
        with torch.no_grad():
            x = val.floats(val.images)
            accuracies = [float((run.model(x).argmax(1) == val.labels).double().mean()) for run in (one, two)]
        # Trained on parts whose batch statistics differ, so not the same, but both have learned.
        assert min(accuracies) > 0.5
        counted = [key for key in two.model.state_dict() if key.endswith("num_batches_tracked")]
        assert counted
        for key in counted:
            assert torch.equal(one.model.state_dict()[key], two.model.state_dict()[key])
        last = [json.loads(line) for line in (tmp_path / "2" / name / "metrics.jsonl").read_text().splitlines()][-1]
        assert accuracies[1] == pytest.approx(last["val_clean"]["average"])


def epochs_in(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.fault(
    "a process of a distributed job dies, or the job gets SIGTERM",
    "the job ends with one line that says how to resume, and resumes with another number of processes",
)
@every_strike
def test_a_job_that_ends_early_goes_on_with_another_number_of_processes(
    tiny: Make, tmp_path: Path, metrics_of: Metrics, rank: int | None
) -> None:
    config = tmp_path / "config.yaml"
    run = tmp_path / "run"
    values = to_dict(tiny(epochs=100_000, threads=1, optim={"schedule": "constant"}, output=str(run)))
    config.write_text(json.dumps(values))  # JSON is YAML
    with started(2, "-m", "fairtat", "train", "--config", str(config)) as process:
        wait_for(lambda: epochs_in(run) >= 3, "the job does not train")
        strike(process, rank)
        out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    saved = load_run(run).epoch
    assert saved >= 2  # the third may have been cut off between its line and its checkpoint
    if rank is None:
        assert f"interrupted: {run} holds epoch {saved} of 100000; continue with: torchrun" in out
        assert out.count("interrupted:") == 1
    else:
        assert f"error: {run}: another process of this job has gone; epoch" in err
        assert f"start the job again with --resume {run}" in err

    def goes_on(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)

    goes_on(
        "from dataclasses import replace; from fairtat.training import resume; "
        "from fairtat.training.api import stored_config\n"
        f"resume({str(run)!r}, config=replace(stored_config({str(run)!r}), epochs={saved + 1}))"
    )
    assert [line["epoch"] for line in metrics_of(run)] == list(range(1, saved + 2))


def test_a_mistake_is_told_once(tiny: Make, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(to_dict(tiny(batch_size=2))))
    with started(2, "-m", "fairtat", "train", "--config", str(config)) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == ["error: batch_size is 2; expected at least 4 for 2 processes with accumulate 1, two images a part"]
    assert not (tmp_path / "run").exists()

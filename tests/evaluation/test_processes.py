"""`torchrun -m fairtat evaluate`: the files of one process, whatever dies in between."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import every_strike, started, strike, wait_for

from fairtat.training import train
from fairtat.training.config import from_dict

pytestmark = pytest.mark.slow

ASKED = ("--attacks", "pgd-3,fgsm+cw-3", "--eps_sweep", "0.05,0.1", "--targeted", "pgd-1", "--batch_size", "100")
LONG = ("--attacks", "pgd-300", "--active_set", "false", "--batch_size", "12", "--sanity", "false")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("model") / "run"
    attack = {"eps": 0.1, "step_size": 0.05, "steps": 1}
    values: dict[str, Any] = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "attack": attack, "epochs": 1}
    train(from_dict({**values, "threads": 1, "output": str(folder)}))
    return folder


def evaluated(processes: int, run: Path, output: Path, *options: str) -> tuple[int, str, str]:
    with started(processes, "-m", "fairtat", "evaluate", str(run), "--output", str(output), *options) as job:
        out, err = job.communicate(timeout=180)
    return job.returncode, out, err


@pytest.fixture(scope="module")
def alone(model: Path) -> Path:
    """The files of a single process, which nothing disturbed, in the folders asked and long."""
    for name, options in (("asked", ASKED), ("long", LONG)):
        code, _, err = evaluated(1, model, model.parent / name, *options)
        assert code == 0, err
    return model.parent


def assert_same_files(folder: Path, other: Path) -> None:
    assert json.loads((folder / "test.json").read_text()) == json.loads((other / "test.json").read_text())
    assert (folder / "test.npz").read_bytes() == (other / "test.npz").read_bytes()


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_write_the_files_of_one(model: Path, alone: Path, tmp_path: Path, processes: int) -> None:
    code, out, err = evaluated(processes, model, tmp_path / "shared", *ASKED)
    assert code == 0, err
    assert out.count("written: ") == 1
    assert_same_files(tmp_path / "shared", alone / "asked")
    # What was kept serves any number of processes.
    _, out, _ = evaluated(1, model, tmp_path / "shared", *ASKED)
    assert "computed: " not in out


def attacked(parts: Path) -> int:
    """Images that are kept of the attack, whichever process did them; the clean ones, another file, come first."""
    done: Counter[str] = Counter()
    for path in parts.glob("*.npz"):
        # A process's own file goes once it is part of another.
        with suppress(FileNotFoundError), np.load(path) as file:
            done[path.name.partition(".")[0]] += int(file["done"].sum())
    return min(done.values()) if len(done) == 2 else 0


@pytest.mark.fault(
    "a process of a shared evaluation dies, or the job gets SIGTERM",
    "one line says how to go on; any number of processes finish from what is kept, to the same files",
)
@every_strike
def test_what_is_computed_outlives_the_job(model: Path, alone: Path, tmp_path: Path, rank: int | None) -> None:
    parts = tmp_path / "killed" / "parts"
    with started(2, "-m", "fairtat", "evaluate", str(model), "--output", str(tmp_path / "killed"), *LONG) as job:
        wait_for(lambda: any(parts.glob("*.1.npz")) and attacked(parts) >= 48, "the job does not evaluate")
        strike(job, rank)
        _, err = job.communicate(timeout=60)
    assert job.returncode != 0
    assert not (tmp_path / "killed" / "test.json").exists()
    if rank is None:
        assert err.count("interrupted; what is computed is kept, resume with: torchrun --nproc-per-node 2 -m") == 1
    elif rank == 1:
        assert "what is computed is kept" in err
    assert attacked(parts) >= 48
    code, out, err = evaluated(3 if rank is None else 1, model, tmp_path / "killed", *LONG)
    assert code == 0, err
    assert "reused, since the model still answers as it did: clean, pgd-300" in out
    assert_same_files(tmp_path / "killed", alone / "long")


def test_a_mistake_is_told_once(model: Path, tmp_path: Path) -> None:
    code, out, err = evaluated(2, model, tmp_path / "none", "--attacks", "pgdd-3")
    assert code != 0
    assert out == ""
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1

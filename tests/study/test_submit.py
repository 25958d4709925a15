"""A study's models as jobs, by submitit's own local executor: processes that it starts and watches as a cluster's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairtat.cli.main import main as fairtat
from fairtat.errors import UserError
from fairtat.study import Results, load_study
from fairtat.study.submit import submitting
from tests.study.test_plan import written
from tests.study.test_runs import TINY

pytest.importorskip("submitit")


@pytest.mark.slow
def test_a_study_runs_as_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, *TINY)
    monkeypatch.chdir(tmp_path)
    assert fairtat(["study", "run", str(file), "--jobs", "2", "--submit", "{cluster: local, timeout_min: 5}"]) == 0
    assert len(Results(load_study(file), tmp_path / "study-results.json").entries()) == 3
    logs = {path.name: path.read_text() for path in (tmp_path / "runs/small").glob("*.log")}
    assert set(logs) == {"at@1-0.log", "at@2-0.log", "fairtat@1-0.log"}
    assert all("$ fairtat train" in log and "$ fairtat evaluate" in log for log in logs.values())


@pytest.fixture(params=["foreground", "background"])
def shell(request: pytest.FixtureRequest) -> Iterator[None]:
    """As a shell starts a command: in its background, SIGINT is ignored."""
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler if request.param == "foreground" else signal.SIG_IGN
    )
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("shell")
def test_a_job_that_fails_says_so_and_one_that_is_stopped_keeps_its_epochs(tmp_path: Path) -> None:
    start = submitting(tmp_path / ".submitit", {"cluster": "local"})
    failing = start(tmp_path / "failing", ("train", "--epochs", "none"), 1)
    assert failing.wait() == 2
    assert "epochs" in (tmp_path / "failing.log").read_text()
    run = tmp_path / "run"
    words = ("--data.name", "digits", "--model.name", "mlp", "--attack.steps", "1", "--epochs", "2000")
    job = start(run, ("train", *words, "--output", str(run)), 1)
    deadline = time.monotonic() + 120
    while not (run / "checkpoint.pt").exists():
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    job.send_signal(signal.SIGINT)
    assert job.wait() != 0
    log = tmp_path / "run.log"
    while "resume" not in log.read_text():  # the job's own child, which outlives it by an epoch
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cluster": "pbs"}, "cluster is 'pbs'; expected slurm or local"),
        ({"cluster": "local", "timeout": 5}, "timeout"),
        ({"cluster": "slurm"}, "slurm|srun"),
    ],
)
def test_wrong_parameters_are_told_before_anything_runs(
    tmp_path: Path, parameters: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.defpath)  # no Slurm here
    with pytest.raises(UserError, match=message):
        submitting(tmp_path, parameters)


def test_without_submitit_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'fairtat\[submitit\]'"):
        submitting(tmp_path, {})

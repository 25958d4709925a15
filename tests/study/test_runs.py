"""Studies from the command line: planned, run, interrupted, resumed and reported; and wrong input."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairtat.cli.main import main as fairtat
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.files import DamagedFile, sealed_json
from fairtat.study import Results, load_study, run_cells, state_of
from tests.study.test_plan import written

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

REPORT = ["cells.csv", "curves.png", "report.html", "report.md", "training.csv"]
TINY = (
    ("epochs: 3", "epochs: 1, eval: {steps: 1}, model: {name: mlp, options: {width: 8}}"),
    ("attack: {steps: 2}", "attack: {steps: 1}"),
    ('"pgd-5,cw-5"', '"pgd-1,cw-1", active_set: false, engine: eager, amp: bf16'),
    ("[1, 1/2, 2]", "[1, 2]"),
    ("seeds: 2", "seeds: 1"),
)  # fmt: skip


class Ended:
    """A process that ran to its end before it was looked at."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def wait(self) -> int:
        return self.code

    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


class Here:
    """Runs the commands in this process and notes them."""

    def __init__(self, fail: str = "", interrupt: str = "") -> None:
        self.commands: list[str] = []
        self.fail, self.interrupt = fail, interrupt

    def __call__(self, folder: Path, words: Sequence[str], threads: int) -> Ended:
        self.commands.append(f"{'resume' if '--resume' in words else words[0]} {folder.name}")
        if self.commands[-1] == self.interrupt:
            raise KeyboardInterrupt
        return Ended(1 if self.commands[-1] == self.fail else fairtat(list(words)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path, *TINY)


def test_a_study_runs_is_interrupted_goes_on_and_reports(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["study", "run", str(file)]
    monkeypatch.setattr("fairtat.study.runs.launch", first := Here(interrupt="evaluate at@2-0"))
    assert fairtat(words) == 130
    assert first.commands == ["train at@1-0", "evaluate at@1-0", "train at@2-0", "evaluate at@2-0"]
    study = load_study(file)
    assert len(Results(study, tmp_path / "study-results.json").entries()) == 1
    assert [state_of(study, cell, Path("runs/small") / cell.name) for cell in study.cells()] == [
        "judged", "trained", "not begun",
    ]  # fmt: skip
    capsys.readouterr()
    assert fairtat(["study", "plan", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "in the results" in shown
    assert "3 models, 2 to make" in shown
    monkeypatch.setattr("fairtat.study.runs.launch", second := Here())
    assert fairtat(words) == 0
    assert second.commands == ["evaluate at@2-0", "train fairtat@1-0", "evaluate fairtat@1-0"]
    report = tmp_path / "study-report"
    assert sorted(path.name for path in report.iterdir()) == REPORT
    text = (report / "report.md").read_text()
    assert "3 of 3 models. Judged by pgd-1, cw-1 at linf 0.15" in text
    assert text.count("Primary: FAIR-TAT less AT in robust worst") == 1
    with (report / "cells.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 4 * 10
    stored = json.loads((tmp_path / "runs/small/at@2-0/evaluation/test.json").read_text())
    clean = next(condition for condition in stored["conditions"] if condition["name"] == "clean")
    mine = [int(r["correct"]) for r in rows if (r["arm"], r["factor"], r["condition"]) == ("at", "2", "clean")]
    assert mine == [each["correct"] for each in clean["classes"]]
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    assert fairtat(["study", "report", str(file)]) == 0
    assert before == {path.name: path.read_bytes() for path in report.iterdir()}
    # The results file alone goes to another machine: its models are not made again, and the one it lacks is.
    shutil.rmtree("runs")
    content = json.loads((tmp_path / "study-results.json").read_text())
    content["cells"].pop("fairtat@1-0")
    (tmp_path / "study-results.json").write_bytes(sealed_json(content))
    monkeypatch.setattr("fairtat.study.runs.launch", third := Here())
    capsys.readouterr()
    assert fairtat(words) == 0
    assert third.commands == ["train fairtat@1-0", "evaluate fairtat@1-0"]
    assert "2 of 3 models are in study-results.json already" in capsys.readouterr().out.replace(f"{tmp_path}/", "")
    assert before["cells.csv"] == (report / "cells.csv").read_bytes()


def test_a_judge_may_ask_more_of_models_that_are_there(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Corruptions, and slow attacks on some images of each class: the models are judged again and not trained."""
    pytest.importorskip("kornia")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fairtat.study.runs.launch", Here())
    words = ["study", "run", str(file)]
    assert fairtat(words) == 0
    corruptions = 'corruptions: "contrast,gaussian_noise", severities: [1, 3]'
    more = f'"pgd-1,cw-1,fgsm", {corruptions}, subset: {{attacks: apgd-ce, per_class: 3}}'
    file.write_text(
        file.read_text()
        .replace('"pgd-1,cw-1"', more)
        .replace("figure: clean average", "figure: apgd-ce average")
        .replace("figure: robust worst", "figure: corrupted average")
    )
    capsys.readouterr()
    assert fairtat(["study", "plan", str(file)]) == 0
    assert "3 models, 3 to make" in capsys.readouterr().out
    monkeypatch.setattr("fairtat.study.runs.launch", here := Here(interrupt="evaluate fairtat@1-0"))
    assert fairtat(words) == 130
    assert here.commands == ["evaluate at@1-0"] * 2 + ["evaluate at@2-0"] * 2 + ["evaluate fairtat@1-0"]
    monkeypatch.setattr("fairtat.study.runs.launch", here := Here())
    assert fairtat(words) == 0
    assert here.commands == ["evaluate fairtat@1-0"] * 2

    results = Results(load_study(file), tmp_path / "study-results.json")
    assert results.subset is not None
    assert np.bincount(results.labels[results.subset]).tolist() == [3] * 10
    whole, part = (
        Evaluation.load(tmp_path / "runs/small/at@2-0/evaluation" / name)
        for name in ("test.json", "test-3-per-class.json")
    )
    found = next(entry for entry in results.entries() if entry.factor == 2)
    assert whole.samples is not None
    assert part.samples is not None
    of_each = [whole.samples.correct(f"{name}/{k}") for name in ("contrast", "gaussian_noise") for k in (1, 3)]
    np.testing.assert_array_equal(found.correct["corrupted"], np.mean(of_each, axis=0))
    np.testing.assert_array_equal(found.correct["apgd-ce"][results.subset], part.samples.correct("apgd-ce"))
    assert np.isnan(found.correct["apgd-ce"][~results.subset]).all()
    text = (tmp_path / "study-report" / "report.md").read_text()
    assert "| arm | factor | pgd-1 | cw-1 | fgsm | corrupted | apgd-ce |" in text
    accuracy = np.mean(part.condition("apgd-ce").figures.accuracy)
    assert f"| {100 * accuracy:.1f} / " in text
    assert "at severities 1, 3. apgd-ce: on 3 images of each class." in text
    with (tmp_path / "study-report" / "cells.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["condition"] == "apgd-ce"]
    assert {row["images"] for row in rows} == {"3"}
    # Another subset is another judge; without one, the rest is still there.
    as_run = file.read_text()
    file.write_text(as_run.replace("per_class: 3", "per_class: 4"))
    assert fairtat(["study", "report", str(file)]) == 2
    assert "its subset has 3 images of each class, but this study's has 4" in capsys.readouterr().err
    moved = as_run.replace("pgd-1,cw-1,fgsm", "pgd-1,cw-1,fgsm,apgd-ce")
    file.write_text(moved.replace("attacks: apgd-ce, per_class", "attacks: square, per_class"))
    study = load_study(file)
    results = Results(study, tmp_path / "study-results.json")
    assert not any(cell in results for cell in study.cells())
    assert all("apgd-ce" not in entry.correct for entry in results.entries())
    file.write_text(as_run.replace(more, '"pgd-1,cw-1"').replace("apgd-ce average", "clean average"))
    file.write_text(file.read_text().replace("corrupted average", "robust average"))
    assert fairtat(["study", "report", str(file)]) == 0


def test_a_failed_model_is_named_and_the_others_are_made(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(file)
    said: list[str] = []
    failed = run_cells(
        study, study.cells()[:2], tmp_path / "runs", None, 2, say=said.append, start=Here(fail="train at@1-0")
    )
    assert failed == ["at@1-0"]
    assert any("`fairtat train` ended with code 1; see" in line for line in said)
    assert state_of(study, study.cells()[1], tmp_path / "runs" / "at@2-0") == "judged"


def test_a_cell_alone_leaves_the_results_to_be_collected(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fairtat.study.runs.launch", here := Here())
    assert fairtat(["study", "run", str(file), "--cell", "1"]) == 0
    assert here.commands == ["train at@2-0", "evaluate at@2-0"]
    assert not (tmp_path / "study-results.json").exists()


def test_slurm_gets_a_task_for_each_model(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fairtat(["study", "slurm", str(file), "--runs", "/scratch/my runs"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-2\n" in script
    assert f"""exec fairtat study run {file} --runs '/scratch/my runs' --cell "$SLURM_ARRAY_TASK_ID"\n""" in script


def test_runs_and_results_of_other_settings_are_refused(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fairtat.study.runs.launch", Here())
    assert fairtat(["study", "run", str(file)]) == 0
    file.write_text(file.read_text().replace("width: 8", "width: 9"))
    assert fairtat(["study", "run", str(file)]) == 2
    assert "arm at: model.options is {'width': 8}, but this study has {'width': 9}" in capsys.readouterr().err
    assert fairtat(["study", "run", str(file), "--results", "other.json"]) == 1
    assert "remove that folder or choose another --runs" in capsys.readouterr().out
    as_run = file.read_text().replace("width: 9", "width: 8")
    for of_judge, other in (("pgd-1,cw-1", "pgd-2,cw-1"), ("amp: bf16", "amp: none"), ("active_set: false, ", "")):
        file.write_text(as_run.replace(of_judge, other))
        assert fairtat(["study", "report", str(file)]) == 2
        assert "judge is" in capsys.readouterr().err
    file.write_text(as_run)
    assert fairtat(["study", "report", str(file)]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "x.yaml"), "invalid choice: 'train' (choose from 'plan', 'run', 'report', 'slurm')"),
        (("run", "missing.yaml"), "missing.yaml: no such file"),
        (("run", "FILE", "--jobs", "0"), "--jobs must be at least 1, got 0"),
        (("run", "FILE", "--cell", "9"), "--cell must be in [0, 2], got 9"),
        (("report", "FILE"), "holds no model yet; `fairtat study run"),
    ],
)
def test_wrong_input(file: Path, words: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fairtat(["study", *(str(file) if word == "FILE" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_results_file_is_refused(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results: Any = tmp_path / "study-results.json"
    results.write_text('{"format": 1, "study')
    with pytest.raises(DamagedFile):
        Results(load_study(file), results)
    results.write_text('{"format": 7}')
    with pytest.raises(UserError, match="format is 7, but this study has 1; choose another --results"):
        Results(load_study(file), results)

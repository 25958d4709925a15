"""The study's mathematics against numbers worked out by hand, and what it does with runs that are there already."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fairtat.cli.main import main as fairtat
from fairtat.training import train

pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "fairness_study"))
study = importlib.import_module("study")
study_report = importlib.import_module("study_report")
study_runs = importlib.import_module("study_runs")

TINY = ("--model.name", "mlp", "--model.options.width", "8", "--attack.steps", "1", "--eval.steps", "1")


class Ended:
    """A process that ran to its end before it was looked at."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code


class Here:
    """Runs the commands in this process and notes them."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def __call__(self, run: Any, words: Sequence[str]) -> Ended:
        self.commands.append(f"{words[1] if words[0] == 'train' else words[0]} {run.name}")
        return Ended(fairtat(list(words)))


def worked_off(runs: Sequence[Any], start: Any, jobs: int = 1) -> tuple[list[tuple[str, bool]], dict[str, str]]:
    done: list[tuple[str, bool]] = []
    failed: dict[str, str] = {}
    study_runs.work_off(
        runs,
        jobs,
        done=lambda run, computed: done.append((run.name, computed)),
        failed=lambda run, reason: failed.update({run.name: reason}),
        start=start,
    )
    return done, failed


def planned(folder: Path, methods: Sequence[str] = ("at",), epochs: int = 1, seeds: int = 1) -> list[Any]:
    return list(study_runs.plan("digits", methods, seeds, folder, 1, epochs, TINY))


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (4, 2.7764), (9, 2.2622), (30, 2.0423), (31, 2.0395), (60, 2.0003)]
)
def test_quantiles_are_those_of_the_printed_tables(degrees: int, quantile: float) -> None:
    assert study_report.t95(degrees) == pytest.approx(quantile, rel=1e-4)


def test_the_interval_is_of_differences_of_the_same_seed() -> None:
    # Differences 1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7, half width 4.302653 sqrt(7 / 3). Seed 9 has no partner.
    found = study_report.paired({0: 50.0, 1: 52.0, 2: 57.0}, {0: 49.0, 2: 51.0, 1: 50.0, 9: 99.0})
    assert found.mean == pytest.approx(3)
    assert (found.low, found.high) == pytest.approx((3 - 6.572411, 3 + 6.572411), abs=1e-5)
    assert not found.clear
    assert found.pairs == 3
    assert study_report.paired({0: 1.0}, {0: 2.0}) is None


def results_of(figures: dict[str, list[tuple[float, float, float, float]]]) -> dict[str, Any]:
    runs = [
        {
            "method": method,
            "seed": seed,
            "clean": {"average": a, "worst": {"name": "8", "value": b}},
            "robust": {"average": c, "worst": {"name": "8", "value": d}},
            "findings": ["masking:fgsm"] if method == "cfa" else [],
            "epochs": 3, "train_seconds": 7.0, "engine": "auto", "device": "cpu", "threads": 1,
            "fairtat": "1", "torch": "2", "python": "3", "commit": "0123456789abcdef-dirty", "date": "2026-01-02T03:04",
        }
        for method, of_seed in figures.items()
        for seed, (a, b, c, d) in enumerate(of_seed)
    ]  # fmt: skip
    attack = {"title": "PGD-20, linf, eps 0.1"}
    shared = {"data": "digits", "attack": attack, "checkpoint": "last", "class_sizes": [40, 50]}
    return {**shared, "runs": runs}


# Clean average of AT 80 and 82, CFA 85 and 87: each 5 more, so the interval is a point. Robust worst: -1 and +3.
STUDY = results_of({
    "at": [(0.80, 0.5, 0.60, 0.30), (0.82, 0.5, 0.60, 0.30)],
    "cfa": [(0.85, 0.5, 0.60, 0.29), (0.87, 0.5, 0.60, 0.33)],
    "dafa": [(0.90, 0.7, 0.65, 0.35)],
})  # fmt: skip


def test_the_tables_hold_mean_spread_and_paired_difference() -> None:
    text = study_report.markdown(STUDY)
    assert "| AT | 2 | 81.0 ± 1.4 | 50.0 ± 0.0 | 60.0 ± 0.0 | 30.0 ± 0.0 |" in text
    assert "| CFA | 2 | 86.0 ± 1.4 | 50.0 ± 0.0 | 60.0 ± 0.0 | 31.0 ± 2.8 |" in text
    assert "| DAFA | 1 | 90.0 | 70.0 | 65.0 | 35.0 |" in text
    # Mean 1, s = sqrt(8), half width 12.706205 sqrt(8) / sqrt(2) = 25.4.
    row = "| CFA | **+5.0 [+5.0, +5.0]** | +0.0 [+0.0, +0.0] | +0.0 [+0.0, +0.0] | +1.0 [-24.4, +26.4] |"
    assert row in text
    assert "| DAFA | - | - | - | - |" in text
    assert "90 test images, 40 to 50 a class: one image is 2.0 to 2.5 points" in text
    assert "masking:fgsm in 2 of 5 runs" in text
    assert "0123456789ab+changes" in text


def test_the_verdict_names_the_intervals_without_zero_and_no_others() -> None:
    text = study_report.verdict(STUDY)
    assert text.startswith("1 of the 4 intervals leaves out zero (bold): CFA clean average +5.0;")
    assert "about 0.2 of 4" in text
    same = results_of({"at": [(0.8, 0.5, 0.6, 0.3)] * 2, "cfa": [(0.8, 0.5, 0.6, 0.3)] * 2})
    assert study_report.verdict(same).startswith("None of the 4 intervals leaves out zero;")
    assert "no difference" in study_report.verdict(results_of({"dafa": [(0.8, 0.5, 0.6, 0.3)] * 2})).lower()


def test_only_the_data_sets_own_part_of_the_readme_changes() -> None:
    other = "<!-- mnist5k: begin -->\nkept\n<!-- mnist5k: end -->\n"
    text = f"a\n<!-- digits: begin -->\nold\n<!-- digits: end -->\nb\n{other}"
    new = study_report.replaced(text, "digits", "new")
    assert new == text.replace("\nold\n", "\n\nnew\n\n")
    assert study_report.replaced(new, "digits", "new") == new
    with pytest.raises(ValueError, match="cifar10: begin"):
        study_report.replaced(text, "cifar10", "new")


def test_the_figure_is_the_same_bytes_each_time() -> None:
    pytest.importorskip("matplotlib")
    picture = study_report.png(STUDY)
    assert picture == study_report.png(STUDY)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000


def test_the_readme_has_a_place_for_every_data_set() -> None:
    text = (study.HERE / "README.md").read_text(encoding="utf-8")
    for data in study_runs.PRESETS:
        assert study_report.replaced(text, data, "x") != text


def test_every_preset_can_be_planned() -> None:
    for data in study_runs.PRESETS:
        runs = study_runs.plan(data, study_runs.METHODS, 2, Path("out"), 1, None, ())
        assert [run.name for run in runs[:6]] == ["at-0", "trades-0", "cfa-0", "dafa-0", "fairtat-0", "at-1"]
        assert {run.config.data.name for run in runs} == {data}
        rules = {run.method: study_runs.settings_of(run.config) for run in runs}
        judged = {(rule["attack.eps"], rule["attack.norm"], rule["epochs"]) for rule in rules.values()}
        assert len(judged) == 1  # one radius and one length for all methods


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    runs, start = planned(tmp_path, methods=("at", "fairtat")), Here()
    assert worked_off(runs, start) == ([("at-0", True), ("fairtat-0", True)], {})
    assert start.commands == ["--config at-0", "evaluate at-0", "--config fairtat-0", "evaluate fairtat-0"]
    again = Here()
    assert worked_off(runs, again) == ([("at-0", False), ("fairtat-0", False)], {})
    assert again.commands == []
    (runs[0].folder / "evaluation" / "test.json").unlink()
    assert worked_off(runs, again) == ([("at-0", True), ("fairtat-0", False)], {})
    assert again.commands == ["evaluate at-0"]


def test_an_unfinished_run_goes_on(tmp_path: Path) -> None:
    (run,), start = planned(tmp_path, epochs=2), Here()
    assert train(run.config, should_stop=(run.folder / "metrics.jsonl").exists).epoch == 1
    assert worked_off([run], start) == ([("at-0", True)], {})
    assert start.commands == ["--resume at-0", "evaluate at-0"]


def test_what_was_killed_before_its_first_checkpoint_starts_anew(tmp_path: Path) -> None:
    (run,) = planned(tmp_path)
    run.folder.mkdir()
    (run.folder / "config.yaml").write_text("epochs: 1\n")
    study_runs._remove_false_start(run.folder)
    assert list(run.folder.iterdir()) == []
    (run.folder / "thesis.tex").write_text("mine")
    study_runs._remove_false_start(run.folder)
    assert [file.name for file in run.folder.iterdir()] == ["thesis.tex"]


def test_runs_with_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    runs = planned(tmp_path)
    worked_off(runs, Here())
    results = study.Results(tmp_path / "results" / "digits.json", "digits")
    results.add(runs[0])
    longer = planned(tmp_path, epochs=2)
    done, failed = worked_off(longer, Here())
    assert done == []
    assert "epochs is 1, but this study has 2" in failed["at-0"]
    with pytest.raises(study.UserError, match="at: epochs is 1, but this study has 2"):
        study.Results(results.path, "digits").check(longer)
    # A run that is added again takes the place of the first.
    results.add(runs[0])
    (entry,) = json.loads(results.path.read_text())["runs"]
    evaluation = json.loads((runs[0].folder / "evaluation" / "test.json").read_text())
    robust = next(c for c in evaluation["conditions"] if c["name"] == "pgd-20")
    assert entry["robust"]["average"] == robust["average"]
    assert entry["robust"]["worst"] == {"name": robust["worst"]["name"], "value": robust["worst"]["accuracy"]}


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    runs, real = planned(tmp_path, seeds=2), Here()
    done, failed = worked_off(runs, lambda run, words: Ended(2) if run.seed == 0 else real(run, words))
    assert done == [("at-1", True)]
    assert failed["at-0"].startswith("`fairtat train` ended with code 2")
    _, failed = worked_off(runs[:1], lambda run, words: Ended(0))
    assert "left the work undone" in failed["at-0"]


def test_an_interruption_is_passed_on_once_and_waited_for(tmp_path: Path) -> None:
    class Busy:
        heard: list[object]

        def __init__(self) -> None:
            self.heard = []

        def poll(self) -> None:
            if len(busy) == 2:
                raise KeyboardInterrupt

        def send_signal(self, number: int) -> None:
            self.heard.append(number)

        def wait(self) -> int:
            self.heard.append("waited")
            return 130

    busy: list[Busy] = []

    def start(run: Any, words: Sequence[str]) -> Busy:
        busy.append(Busy())
        return busy[-1]

    with pytest.raises(KeyboardInterrupt):
        worked_off(planned(tmp_path, seeds=3), start, jobs=2)
    assert [process.heard for process in busy] == [[signal.SIGINT, "waited"]] * 2


def test_a_wrong_training_option_is_one_line_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert study.main(["--data", "digits", "--results", "out", "--", "--attack.stepz", "3"]) == 2
    assert "did you mean '--attack.steps'?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_trains_evaluates_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    words = ["--data", "digits", "--seeds", "1", "--jobs", "2", "--epochs", "1", "--methods", "at", "fairtat"]
    assert study.main([*words, "--results", "out", "--", *TINY]) == 0
    assert sorted(path.name for path in Path("runs/study/digits").iterdir()) == [
        "at-0", "at-0.log", "fairtat-0", "fairtat-0.log",
    ]  # fmt: skip
    stored = json.loads(Path("out/results/digits.json").read_text())
    assert [(run["method"], run["seed"]) for run in stored["runs"]] == [("at", 0), ("fairtat", 0)]
    assert stored["settings"]["fairtat"]["fairness.targets"] == "cfps"
    readme = Path("out/README.md").read_text()
    assert "| FAIR-TAT | 1 |" in readme
    assert Path("out/digits.png").is_file()
    assert study.main(["--data", "digits", "--results", "out", "--report"]) == 0
    assert Path("out/README.md").read_text() == readme

"""`fairtat runs`: every folder is listed, with what is in it or why it cannot be read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairtat.evaluation import Evaluation

Command = Callable[..., Any]


def listed(fairtat: Command, *arguments: object) -> dict[str, dict[str, Any]]:
    code, out, err = fairtat("runs", *arguments, "--json")
    assert (code, err) == (0, "")
    return {row["name"]: row for row in json.loads(out)["runs"]}


def last_line(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])  # type: ignore[no-any-return]


def test_states_figures_and_differing_settings(fairtat: Command, runs: Path) -> None:
    (runs / "deep").mkdir()
    shutil.move(runs / "other", runs / "deep" / "other")
    rows = listed(fairtat, runs)
    assert list(rows) == ["at", "deep/other", "fair", "wide"]
    for name, row in rows.items():
        assert (row["state"], row["epoch"], row["epochs"], row["problem"]) == ("finished", 1, 1, None)
        line = last_line(runs / name)
        clean, robust = line["val_clean"], line["val_robust"]
        assert row["figures"] == {
            "clean": clean["average"],
            "clean_worst": clean["worst"],
            "robust": robust["average"],
            "robust_worst": robust["worst"],
        }
        assert row["figures_of"] == "validation"
    assert rows["at"]["settings"] == {
        "data.seed": 0, "attack.eps": 0.1, "fairness.targets": "none", "fairness.margins": "fixed", "seed": 0,
    }  # fmt: skip
    assert rows["fair"]["settings"]["fairness.margins"] == "G-rob"
    assert rows["wide"]["settings"]["attack.eps"] == 0.2
    assert rows["deep/other"]["settings"]["data.seed"] == 5


def test_an_evaluation_on_the_test_set_goes_before_validation(fairtat: Command, runs: Path) -> None:
    assert fairtat("evaluate", "runs/at", "--attacks", "pgd-2", "--sanity", "false").code == 0
    found = Evaluation.load("runs/at/evaluation/test.json")
    row = listed(fairtat)["at"]  # the folder runs is the default
    assert row["figures_of"] == f"test, {found.primary}"
    assert row["figures"] == {
        "clean": found.clean.average,
        "clean_worst": found.clean.worst[1],
        "robust": found.robust.average,
        "robust_worst": found.robust.worst[1],
    }
    code, out, _ = fairtat("runs")
    assert code == 0
    assert f"{100 * found.robust.average:.1f}%" in out


@pytest.mark.parametrize("key", ["robust", "clean_worst", "attack.eps", "epoch", "state", "fairness.targets"])
def test_sorting(fairtat: Command, runs: Path, key: str) -> None:
    (runs / "wide" / "metrics.jsonl").unlink()  # has no figures
    rows = list(listed(fairtat, runs, "--sort", key).values())
    if key in ("robust", "clean_worst"):
        values = [row["figures"][key] for row in rows]
        assert values[-1] is None
        assert values[:-1] == sorted(values[:-1], reverse=True)
    else:
        values = [row[key] if key in row else row["settings"][key] for row in rows]
        assert values == sorted(values)


def test_broken_folders_are_listed_with_the_reason(fairtat: Command, runs: Path) -> None:
    def twin(name: str) -> Path:
        return Path(shutil.copytree(runs / "at", runs / name))

    (twin("1-config") / "config.yaml").write_text("epochs: [1\n")
    (twin("2-setting") / "config.yaml").write_text("epochs: many\n")
    flipped = twin("3-flipped") / "config.yaml"
    flipped.write_text(flipped.read_text().replace("epochs: 1", "epochs: 9"))
    (twin("4-metrics") / "metrics.jsonl").write_bytes(b"\xff\x00 nothing\n")
    (twin("5-none") / "checkpoint.pt").unlink()
    for name in ("best.pt", "checkpoint.previous.pt"):
        (runs / "5-none" / name).unlink(missing_ok=True)
    (twin("6-gone") / "config.yaml").unlink()
    shutil.rmtree(runs / "wide" / "evaluation", ignore_errors=True)
    (runs / "wide" / "evaluation").mkdir()
    (runs / "wide" / "evaluation" / "test.json").write_text("{")
    rows = listed(fairtat, runs)
    broken = {name: row["problem"] for name, row in rows.items() if row["state"] == "broken"}
    assert {name: any(word in str(broken[name]) for word in words) for name, words in {
        "1-config": ["config.yaml"],
        "2-setting": ["epochs"],
        "3-flipped": ["damaged"],
        "4-metrics": ["metrics.jsonl: holds no whole line"],
        "5-none": ["holds no checkpoint.pt"],
        "6-gone": ["config.yaml: No such file"],
    }.items()} == dict.fromkeys(broken, True)  # fmt: skip
    assert rows["wide"]["state"] == "finished"
    assert rows["wide"]["figures_of"] == "validation"
    assert all("\n" not in problem for problem in broken.values())
    code, out, err = fairtat("runs", runs, "--sort", "robust")
    assert (code, err) == (0, "")
    assert "holds no checkpoint.pt" in " ".join(out.split())


def test_a_torn_line_is_no_damage(fairtat: Command, runs: Path) -> None:
    file = runs / "at" / "metrics.jsonl"
    before = listed(fairtat, runs)["at"]
    file.write_bytes(file.read_bytes() + file.read_bytes()[:100])
    assert listed(fairtat, runs)["at"] == before


HOLD = """
import sys
from pathlib import Path
from fairtat.training.run.lock import run_lock

with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_whose_process_lives_is_running(fairtat: Command, runs: Path) -> None:
    (runs / "fair" / "run.lock").write_text('{"pid": 1, "host": "a machine that has gone"}\n')  # left by a kill
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(runs / "at")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        rows = listed(fairtat, runs)
        assert rows["at"]["state"] == "running"
        assert f"process {process.pid} on" in rows["at"]["process"]
        assert rows["fair"]["state"] == "finished"
        assert rows["fair"]["process"] is None
        process.stdin.close()
        process.wait()
    assert listed(fairtat, runs)["at"]["state"] == "finished"
    assert (runs / "fair" / "run.lock").is_file()  # looked at, not taken


def test_a_run_with_epochs_to_go_is_interrupted(fairtat: Command, runs: Path) -> None:
    code, _, err = fairtat("train", "--config", "runs/at/config.yaml", "--epochs", 2, "--optim.schedule", "constant",
                           "--output", "runs/two")  # fmt: skip
    assert (code, err) == (0, "")
    lines = (runs / "two" / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (runs / "two" / "metrics.jsonl").write_bytes(lines[0])
    row = listed(fairtat, runs)["two"]
    assert (row["state"], row["epoch"], row["epochs"]) == ("interrupted", 1, 2)
    (runs / "two" / "metrics.jsonl").unlink()
    row = listed(fairtat, runs)["two"]
    assert (row["state"], row["epoch"], row["figures"]["robust"]) == ("interrupted", 0, None)


def test_folders_without_runs(fairtat: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fairtat("runs") == (2, "", "error: runs: no such folder\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "config.yaml").write_text("epochs: 3\n")  # a person's own
    assert fairtat("runs") == (0, "runs: no runs\n", "")
    assert listed(fairtat) == {}
    code, _, err = fairtat("runs", "--sort", "robst")
    assert code == 2
    assert "--sort is 'robst'; did you mean 'robust'?" in err


def test_one_run_may_be_named_itself(fairtat: Command, runs: Path) -> None:
    assert list(listed(fairtat, runs / "at")) == ["."]

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairtat.cli.compare import display_names
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.training import train
from fairtat.training.config import from_dict

Command = Callable[..., Any]

FAST = ("--attack.steps", "2")


def hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def test_two_runs_are_evaluated_compared_and_drawn(fairtat: Command, runs: Path) -> None:
    pytest.importorskip("matplotlib")
    code, out, err = fairtat("compare", "runs/at", "runs/fair", *FAST)
    assert code == 0
    assert err.splitlines() == [f"{name}: evaluating (pgd on the test split)" for name in ("at", "fair")]
    assert "fair against at, robust accuracy in points:" in out
    for line in (
        "  The worst class ",
        "  Robust accuracy over all images ",
        "  Best and worst class ",
        "written: comparison/compare.png",
    ):
        assert line in out
    assert Path("comparison/compare.png").read_bytes().startswith(b"\x89PNG\r\n")

    values = json.loads(Path("comparison/compare.json").read_text())
    at, fair = (Evaluation.from_dict(values["runs"][name]) for name in ("at", "fair"))
    differences = [c["difference"] for c in values["against_baseline"]["fair"]["robust"]["classes"]]
    expected = [b - a for a, b in zip(at.robust.accuracy, fair.robust.accuracy, strict=True)]
    assert differences == pytest.approx(expected)


def test_stored_evaluations_are_used_again(fairtat: Command, runs: Path) -> None:
    assert fairtat("evaluate", "runs/at", *FAST).code == 0
    assert fairtat("compare", "runs/at", "runs/fair", *FAST).err.startswith("fair: evaluating")
    assert fairtat("compare", "runs/at", "runs/fair", *FAST).err == ""


def compared(name: str) -> Evaluation:
    return Evaluation.from_dict(json.loads(Path("comparison/compare.json").read_text())["runs"][name])


def test_an_evaluation_of_another_checkpoint_or_a_damaged_one_is_made_again(fairtat: Command, runs: Path) -> None:
    fairtat("compare", "runs/at", "runs/fair", *FAST)
    before = compared("at").clean.correct
    path = Path("runs/at/checkpoint.pt")
    state = torch.load(path, weights_only=True)
    state["model"] = {name: -value for name, value in state["model"].items()}
    torch.save(state, path)
    for part in Path("runs/fair/evaluation/parts").iterdir():
        part.write_bytes(part.read_bytes()[:100])
    assert fairtat("compare", "runs/at", "runs/fair", *FAST).err.count("evaluating") == 2
    assert compared("at").clean.correct != before
    assert compared("fair").clean.total == 359


def test_all_runs_meet_the_first_ones_attack_and_other_radii_are_announced(fairtat: Command, runs: Path) -> None:
    code, _, err = fairtat("compare", "runs/at", "runs/wide", *FAST)
    assert code == 0
    assert "warning: trained with different radii (at: linf, eps 0.1, wide: linf, eps 0.2)" in err
    assert compared("wide").attack.eps == 0.1


def test_runs_of_other_images_are_refused_and_nothing_is_written(fairtat: Command, runs: Path) -> None:
    code, out, err = fairtat("compare", "runs/at", "runs/other", *FAST)
    assert (code, out) == (2, "")
    assert "error: at and other cannot be compared: they were evaluated on different images" in err
    assert not Path("comparison").exists()


def test_a_run_that_is_missing_stops_before_any_work(fairtat: Command, runs: Path) -> None:
    assert fairtat("compare", "runs/at", "runs/nowhere", *FAST) == (2, "", "error: runs/nowhere: no such run folder\n")
    assert not Path("runs/at/evaluation").exists()


def test_without_matplotlib_there_is_a_table_and_a_hint(
    fairtat: Command, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide("matplotlib", monkeypatch)
    code, out, err = fairtat("compare", "runs/at", "runs/fair", "--output", "figures", *FAST)
    assert code == 0
    assert "pip install 'fairtat[eval]'" in err
    assert "  The worst class " in out
    assert [path.name for path in Path("figures").iterdir()] == ["compare.json"]


def test_a_page_and_its_figures_are_written_for_two_runs(fairtat: Command, runs: Path) -> None:
    pytest.importorskip("PIL")
    code, out, _ = fairtat("compare", "runs/at", "runs/fair", "--output", "pages/report.html", "--images", 2, *FAST)
    assert code == 0
    assert "  The worst class " in out
    assert "written: pages/report.html" in out
    page = Path("pages/report.html").read_text(encoding="utf-8")
    assert "fair against at" in page
    assert page.count("data:image/png;base64,") == 2 * (1 + 2 * 4)
    values = json.loads(Path("pages/report.json").read_text())
    assert values["runs"]["fair"]["config"]["fairness"]["targets"] == "cfps"
    assert len(values["runs"]["fair"]["history"]) == 1
    radii = [c["settings"]["eps"] for c in values["runs"]["at"]["evaluation"]["conditions"] if c["kind"] == "sweep"]
    assert radii == pytest.approx([0.025, 0.05, 0.1, 0.15])
    assert not Path("comparison").exists()


def test_a_page_of_one_run_is_enough_and_other_radii_are_noted_in_it(fairtat: Command, runs: Path) -> None:
    options = ("--images", 0, "--eps_sweep", "none", *FAST)
    assert fairtat("compare", "runs/fair", "--output", "one.html", *options).code == 0
    assert "is the worst class of fair" in Path("one.html").read_text(encoding="utf-8")
    assert fairtat("compare", "runs/at", "runs/wide", "--output", "two.html", *options).code == 0
    assert "Trained with different radii" in Path("two.html").read_text(encoding="utf-8")


def test_the_figures_alone_and_the_former_name_of_the_page(fairtat: Command, runs: Path) -> None:
    options = ("--images", 0, "--eps_sweep", "none", *FAST)
    assert fairtat("compare", "runs/at", "--output", "figures.json", *options).code == 0
    assert json.loads(Path("figures.json").read_text())["baseline"] == "at"
    code, _, err = fairtat("compare", "runs/at", "runs/fair", "--out", "page.html", "--output", "folder", *options)
    assert code == 0
    assert "warning: --out is now --output" in err
    assert all(Path(name).exists() for name in ("page.html", "page.json", "folder/compare.json"))
    assert not Path("figures.html").exists()


def test_a_missing_pillow_is_told_before_any_work(
    fairtat: Command, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide("PIL", monkeypatch)
    code, _, err = fairtat("compare", "runs/at", "--output", "page.html")
    assert code == 2
    assert "needs PIL: pip install 'fairtat[eval]'" in err
    assert not Path("runs/at/evaluation").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/at"], "at least two runs, got 1; one is enough for a page: --output FILE.html"),
        (["runs/at", "--out", "a.html", "--output", "b"], "at least two runs, got 1; one is enough for a page"),
        (["runs/at", "runs/other"], "at and other cannot be compared: they were evaluated on different images"),
        (["runs/at", "runs/fair", "--out", "report.pdf"], "--out is 'report.pdf'; expected a file that ends in .html"),
        (["runs/at", "runs/fair", "--eps_sweep", "4/x"], "--eps_sweep: "),
        (["runs/at", "--output", "a.html", "--images", "-1"], "--images is -1; expected 0 or more"),
    ],
)
def test_mistakes_stop_before_any_work(fairtat: Command, runs: Path, arguments: list[str], message: str) -> None:
    code, out, err = fairtat("compare", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("runs/at/evaluation").exists()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/at", "runs/fair"], ["at", "fair"]),
        (["runs/at/", "./runs/fair/."], ["at", "fair"]),
        (["a/seed0", "b/seed0"], ["a/seed0", "b/seed0"]),
    ],
)
def test_names_are_the_shortest_that_differ(paths: list[str], names: list[str]) -> None:
    assert display_names(paths) == names


def test_the_same_folder_twice_is_refused() -> None:
    with pytest.raises(UserError, match="given twice"):
        display_names(["runs/at", "runs/../runs/at"])


def test_sets_of_runs_are_paired_by_their_seeds(fairtat: Command, runs: Path) -> None:
    config: dict[str, Any] = {
        "data": {"name": "digits"}, "model": {"name": "mlp"}, "attack": {"eps": 0.1, "step_size": 0.05, "steps": 1},
        "eval": {"steps": 1}, "epochs": 1,
    }  # fmt: skip
    for seed in (0, 1):
        for name, change in (("at", {}), ("wide", {"attack": {**config["attack"], "eps": 0.2}})):
            train(from_dict({**config, **change, "seed": seed, "output": f"sets/{name}-{seed}"}))
    folders = [f"sets/{name}-{seed}" for name in ("at", "wide") for seed in (0, 1)]
    code, out, _ = fairtat("compare", *folders, "--seeds", "--output", "figures", *FAST)
    assert code == 0
    values = json.loads(Path("figures/sets.json").read_text())
    assert values["sets"] == {"at": [0, 1], "wide": [0, 1]}
    assert [each["figure"] for each in values["contrasts"]] == ["robust worst", "robust average", "clean average"]
    assert all(each["seeds"] == 2 and each["holm"] >= each["p_value"] for each in values["contrasts"])
    assert "Primary: wide less at in robust worst, runs of one seed paired: " in out
    code, _, err = fairtat("compare", *folders[:2], "--seeds", *FAST)
    assert (code, "the same settings but for the seed; expected two sets or more" in err) == (2, True)
    code, _, err = fairtat("compare", *folders, "--seeds", "--output", "page.html", *FAST)
    assert (code, "--seeds writes no page" in err) == (2, True)

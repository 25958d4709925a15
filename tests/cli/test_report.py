"""``fairtat report``: saved evaluations as a page, and ``fairtat evaluate --report``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairtat.cli.jobs.runs import evaluation_names
from fairtat.cli.main import main
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.training import load_run

Command = Callable[..., Any]

FAST = ("--attack.steps", 2, "--sanity", "false")
AT, FAIR = "runs/at/evaluation/test.json", "runs/fair/evaluation/test.json"


@pytest.fixture(scope="session")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of at and fair with their evaluations."""
    folder = tmp_path_factory.mktemp("evaluated")
    for name in ("at", "fair"):
        shutil.copytree(trained / name, folder / name)
        assert main(["evaluate", str(folder / name), *map(str, FAST), "--attack.eps", "0.1"]) == 0
    return folder


@pytest.fixture
def judged(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``evaluated`` that a test may change, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(evaluated, tmp_path / "runs"))


def test_two_saved_evaluations_side_by_side(fairtat: Command, judged: Path) -> None:
    code, out, err = fairtat("report", AT, FAIR, "--output", "pages/two.html")
    assert (code, err) == (0, "")
    assert "written: pages/two.html" in out
    page = Path("pages/two.html").read_text(encoding="utf-8")
    assert "<title>fair against at</title>" in page
    assert "How it was trained" in page  # the run's folder is known from the file's place
    values = json.loads(Path("pages/two.json").read_text())
    for name, file in (("at", AT), ("fair", FAIR)):
        assert values["runs"][name]["evaluation"] == Evaluation.load(file).to_dict()
    assert list(values["against_baseline"]) == ["fair"]


def test_files_that_were_moved_away_from_their_run_are_enough(fairtat: Command, judged: Path) -> None:
    for name, file in (("ours", AT), ("theirs", FAIR)):
        for suffix in (".json", ".npz"):
            shutil.copy(Path(file).with_suffix(suffix), f"{name}{suffix}")
    shutil.rmtree("runs")
    assert fairtat("report", "ours.json", "--output", "one.html").code == 0
    assert "is the worst class of ours" in Path("one.html").read_text(encoding="utf-8")
    code, out, _ = fairtat("report", "ours.json", "theirs.json", "--names", "TRADES, TRADES (wide)")
    assert code == 0
    assert "written: report.html" in out
    assert "TRADES (wide) against TRADES" in Path("report.html").read_text(encoding="utf-8")


def test_a_model_from_elsewhere_gets_its_page_with_the_evaluation(fairtat: Command, runs: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    pytest.importorskip("PIL")
    run = load_run("runs/at")
    save_file(run.model.state_dict(), "w.safetensors")
    test = run.splits().test
    np.savez("images.npz", images=test.floats(test.images).numpy(), labels=test.labels.numpy())
    model = ("--model.name", "mlp", "--weights", "w.safetensors", "--data.name", "images.npz", "--attack.eps", 0.1)
    code, out, _ = fairtat("evaluate", *model, *FAST, "--report", "page.html", "--images", 2)
    assert code == 0
    assert "written: page.html" in out
    page = Path("page.html").read_text(encoding="utf-8")
    assert "is the worst class of mlp-images" in page
    assert page.count("data:image/png;base64,") == 2 * (1 + 4)
    values = json.loads(Path("page.json").read_text())
    assert values["runs"]["mlp-images"]["evaluation"]["source"]["weights"] == "w.safetensors"
    # The same page, but for the images, from what was saved.
    assert fairtat("report", "evaluations/mlp-images/all.json", "--output", "again.html").code == 0
    again = json.loads(Path("again.json").read_text())
    assert {**again, "created": ""} == {**values, "created": ""}


def test_the_classes_as_a_table(fairtat: Command, judged: Path) -> None:
    assert fairtat("report", AT, FAIR, "--export", "classes.csv").code == 0
    lines = Path("classes.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 10
    code, out, _ = fairtat("evaluate", "runs/at", *FAST, "--attack.eps", 0.1, "--export", "one.tex")
    assert (code, "written: one.tex" in out) == (0, True)
    assert Path("one.tex").read_text().startswith(r"\begin{tabular}{lrrr}")
    code, _, err = fairtat("report", AT, "--export", "classes.xlsx", "--output", "never.html")
    assert (code, "ends in .csv, .parquet, .tex, got classes.xlsx" in err) == (2, True)
    assert not Path("never.html").exists()


def test_groups_of_images_are_shown_with_what_changed(fairtat: Command, judged: Path) -> None:
    samples = Evaluation.load(AT).samples
    assert samples is not None
    half = ["odd" if label % 2 else "even" for label in samples.label]
    Path("groups.csv").write_text("parity\n" + "\n".join(half) + "\n")
    code, out, _ = fairtat("report", AT, FAIR, "--groups", "groups.csv", "--output", "page.html")
    assert (code, out.count("by parity; ")) == (0, 2)
    values = json.loads(Path("page.json").read_text())["groups"]
    for name, file in (("at", AT), ("fair", FAIR)):
        found = Evaluation.load(file).samples
        assert found is not None
        right = found.correct("robust")
        expected = [int(right[samples.label % 2 == k].sum()) for k in (0, 1)]
        assert [row["correct"] for row in values[name][0]["robust"]["groups"]] == expected
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<h3>By parity</h3>" in page
    code, _, err = fairtat("evaluate", "runs/at", "--groups", "nowhere.csv", "--fresh")
    assert (code, "nowhere.csv: no such file" in err) == (2, True)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def changed(content: bytes) -> bytes:
    return content.replace(b'"correct": 1', b'"correct": 2', 1)


BAD: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (cut, "damaged"),
    "changed": (changed, "damaged: its contents are not what was written"),
    "empty": (lambda _: b"", "damaged or not JSON"),
    "another version": (lambda _: b'{"format": 1, "conditions": []}', "not an evaluation of format 2 (found 1)"),
    "a list": (lambda _: b"[1, 2]", "expected a JSON object, found list"),
    "other JSON": (lambda _: b'{"name": "x"}', "not an evaluation of format 2 (found None)"),
    "a report's figures": (
        lambda _: b'{"format": 2, "runs": {}}',
        "not an evaluation, as `fairtat evaluate` writes it",
    ),
    "a picture": (lambda _: b"\x89PNG\r\n\x1a\n\0\0", "damaged or not JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_of_another_kind_is_named_and_nothing_is_written(fairtat: Command, judged: Path, kind: str) -> None:
    spoil, message = BAD[kind]
    path = Path(FAIR)
    content = path.read_bytes()
    path.write_bytes(spoil(content))
    assert path.read_bytes() != content
    code, out, err = fairtat("report", AT, FAIR, "--output", "page.html")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {FAIR}: ") or "test.json: " in err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("page.html").exists()
    assert not Path("page.json").exists()


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


def test_any_other_value_in_a_fields_place_is_one_line(fairtat: Command, judged: Path) -> None:
    """Without a digest, as an edited file or one of another program is."""
    path = Path(FAIR)
    whole = without(json.loads(path.read_bytes()), "fairtat_digest")
    for key in ("class_names", "conditions", "primary", "targeted", "findings", "source", "untried"):
        for value in (None, 7, "x", [None], {"a": 1}, [[1]]):
            if value == whole[key]:
                continue
            path.write_text(json.dumps({**whole, key: value}))
            code, out, err = fairtat("report", FAIR, "--output", "page.html")
            if code == 0:  # such as a source that is another mapping: nothing depends on it
                assert key in ("source", "targeted", "untried", "findings"), (key, value)
                continue
            assert (code, out, err.count("\n")) == (2, "", 1), (key, value, err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "nowhere.json: no such file; expected the .json file that `fairtat evaluate` writes"),
        (
            ["runs/at"],
            "runs/at: is a folder; expected an evaluation's .json file, such as runs/at/evaluation/test.json",
        ),
        (["runs/at/config.yaml"], "config.yaml: is not a .json file; expected the one that `fairtat evaluate` writes"),
        ([AT, AT], "the same file is given twice"),
        ([AT, "--output", "page.pdf"], "ends in .html or .json, got page.pdf"),
        ([AT, FAIR, "--names", "one"], "--names is 'one'; expected 2 different names"),
        ([AT, FAIR, "--names", "a,a"], "--names is 'a,a'; expected 2 different names"),
        ([AT, "--output", "runs/at/evaluation/test.html"], "would write its figures over runs/at/evaluation/test.json"),
    ],
)
def test_mistakes_are_one_line(fairtat: Command, judged: Path, arguments: list[str], message: str) -> None:
    before = Path(AT).read_bytes()
    code, out, err = fairtat("report", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert Path(AT).read_bytes() == before


def test_a_missing_npz_file_is_told_with_what_it_is(fairtat: Command, judged: Path) -> None:
    Path(FAIR).with_suffix(".npz").unlink()
    code, _, err = fairtat("report", FAIR)
    assert (code, "expected runs/fair/evaluation/test.npz beside it" in err) == (2, True)


def test_evaluations_under_other_attacks_are_not_compared(fairtat: Command, judged: Path) -> None:
    assert fairtat("evaluate", "runs/fair", *FAST, "--attack.eps", 0.2, "--fresh").code == 0
    code, _, err = fairtat("report", AT, FAIR)
    assert (code, "at and fair cannot be compared: they were attacked differently" in err) == (2, True)


def test_what_a_page_lacks_is_told_before_the_work(fairtat: Command, runs: Path) -> None:
    code, _, err = fairtat("evaluate", "runs/at", "--report", "page.pdf")
    assert (code, "ends in .html or .json, got page.pdf" in err) == (2, True)
    code, _, err = fairtat("evaluate", "runs/at", "--report", "page.html", "--images", -1)
    assert (code, "--images is -1; expected 0 or more" in err) == (2, True)
    assert not Path("runs/at/evaluation").exists()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/at/evaluation/test.json"], ["at"]),
        (["runs/at/evaluation/test.json", "runs/fair/evaluation/test.json"], ["at", "fair"]),
        (["runs/at/evaluation/night/test.json"], ["at/night"]),
        (["a/evaluation/night/test.json", "a/evaluation/test.json"], ["a/night", "a"]),
        (["runs/at/evaluation/test.json", "runs/at/evaluation/val.json"], ["test", "val"]),
        (["evaluations/wrn-cifar10/test.json"], ["wrn-cifar10"]),
        (["ours.json"], ["ours"]),
        (["a/ours.json", "b/ours.json"], ["a", "b"]),
        (["1/at/test.json", "2/at/test.json"], ["1", "2"]),
        (["evaluation/test.json", "x.json"], ["test", "x"]),
    ],
)
def test_names_say_which_model(
    paths: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluation_names([Path(path) for path in paths]) == names


def test_the_same_file_under_two_paths_is_refused() -> None:
    with pytest.raises(UserError, match="given twice"):
        evaluation_names([Path("a/b.json"), Path("a/../a/b.json")])

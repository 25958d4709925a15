from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairtat.evaluation import Evaluation, rho
from fairtat.evaluation.cache.canary import CANARIES
from fairtat.training import load_run

Command = Callable[..., Any]


def test_results_lie_in_the_run_and_are_those_of_the_model(fairtat: Command, runs: Path) -> None:
    code, out, err = fairtat("evaluate", "runs/at")
    assert (code, err) == (0, "")
    assert "written: runs/at/evaluation/test.json (and .npz)" in out

    run = load_run("runs/at")
    test = run.splits().test
    with torch.no_grad():
        pred = run.model(test.floats(test.images)).argmax(1)
    values = json.loads(Path("runs/at/evaluation/test.json").read_text())
    clean, robust = values["conditions"]
    assert robust["settings"]["eps"] == 0.1  # the training radius
    assert values["source"]["data"] == "digits"
    assert values["source"]["epoch"] == 1
    for entry in clean["classes"]:
        members = test.labels == entry["class"]
        assert entry["n"] == int(members.sum())
        assert entry["correct"] == int((pred[members] == entry["class"]).sum())
    with np.load("runs/at/evaluation/test.npz") as file:
        assert file["sample_ids"].tolist() == test.ids.tolist()
        assert file["pred"][0].tolist() == pred.tolist()
    assert robust["average"] < clean["average"]


def test_some_images_of_each_class_have_results_of_their_own(fairtat: Command, runs: Path) -> None:
    """The same images get the same verdicts as among all; what is kept of these stays."""
    assert fairtat("evaluate", "runs/at", "--attack.steps", 2).code == 0
    before = Path("runs/at/evaluation/test.json").read_bytes()
    code, out, _ = fairtat("evaluate", "runs/at", "--attack.steps", 2, "--per_class", 3)
    assert code == 0
    assert "per_class 3" in out
    assert Path("runs/at/evaluation/test.json").read_bytes() == before
    whole, part = (Evaluation.load(f"runs/at/evaluation/test{end}.json") for end in ("", "-3-per-class"))
    assert list(part.clean.n) == [3] * 10
    assert part.source["per_class"] == 3
    assert whole.samples is not None
    assert part.samples is not None
    rows = np.isin(whole.samples.sample_ids, part.samples.sample_ids)
    for name in whole.samples.names:
        assert part.samples.pred_of(name).tolist() == whole.samples.pred_of(name)[rows].tolist()
    code, _, err = fairtat("evaluate", "runs/at", "--per_class", 0)
    assert (code, err) == (2, "error: --per_class must be at least 1, got 0\n")


def test_the_table_shows_every_class_and_the_worst(fairtat: Command, runs: Path) -> None:
    _, out, _ = fairtat("evaluate", "runs/at", "--attack.steps", 2)
    evaluation = Evaluation.load("runs/at/evaluation/test.json")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    for k in range(10):
        star = "*" if k == evaluation.robust.worst[0] else ""
        assert rows[str(k)][4] == f"{star}{100 * evaluation.robust.accuracy[k]:.1f}"


def test_the_same_settings_give_the_same_bytes(fairtat: Command, runs: Path, request: pytest.FixtureRequest) -> None:
    # With several threads a BLAS may sum in another order for another batch: on AMD's processors MKL does.
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)

    def files(*options: object) -> dict[str, bytes]:
        assert fairtat("evaluate", "runs/at", "--attack.steps", 2, *options).code == 0
        return {path.name: path.read_bytes() for path in Path("runs/at/evaluation").glob("test.*")}

    first = files()
    assert set(first) == {"test.json", "test.npz"}
    assert files("--batch-size", 100) == first
    shutil.rmtree("runs/at/evaluation")
    assert files("--batch-size", 100) == first


def test_without_a_radius_robust_is_clean(fairtat: Command, runs: Path) -> None:
    assert fairtat("evaluate", "runs/at", "--attack.eps", 0, "--output", "here").code == 0
    evaluation = Evaluation.load("here/test.json")
    assert torch.equal(evaluation.robust.confusion, evaluation.clean.confusion)
    assert not Path("runs/at/evaluation").exists()


def test_options_reach_the_attack(fairtat: Command, runs: Path) -> None:
    options = "--attack.eps 8/255 --attack.step_size 1/255 --attack.steps 3 --attack.norm l2 --attack.restarts 2"
    assert fairtat("evaluate", "runs/at", *options.split(), "--attack.seed", 4, "--split", "val").code == 0
    evaluation = Evaluation.load("runs/at/evaluation/val.json")
    assert evaluation.attack.eps == 8 / 255
    assert evaluation.attack.step_size == 1 / 255
    assert (evaluation.attack.steps, evaluation.attack.norm) == (3, "l2")
    assert (evaluation.attack.restarts, evaluation.attack.seed) == (2, 4)
    assert evaluation.clean.total == len(load_run("runs/at").splits().val)


def spoil_checkpoint(folder: Path) -> None:
    for path in (folder / "checkpoint.pt", folder / "checkpoint.previous.pt"):
        path.write_bytes(path.read_bytes()[:1000])


def remove_checkpoint(folder: Path) -> None:
    for path in (folder / "checkpoint.pt", folder / "checkpoint.previous.pt"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_checkpoint, "error: runs/at/checkpoint.pt: cannot be read; the file is truncated"),
        (remove_checkpoint, "error: runs/at: holds no checkpoint.pt"),
    ],
)
def test_a_damaged_run_is_one_line_and_leaves_nothing(
    fairtat: Command, runs: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(Path("runs/at"))
    code, out, err = fairtat("evaluate", "runs/at")
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not Path("runs/at/evaluation").exists()


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--attack.eps", -1, "eps"),
        ("--attack.restarts", 0, "restarts"),
        ("--attack.steps", -1, "steps"),
        ("--batch_size", 0, "batch_size"),
    ],
)
def test_values_out_of_range_are_named(fairtat: Command, runs: Path, option: str, value: int, word: str) -> None:
    code, out, err = fairtat("evaluate", "runs/at", f"{option}={value}")
    assert (code, out) == (2, "")
    assert word in err
    assert str(value) in err
    assert not Path("runs/at/evaluation").exists()


def test_every_question_has_its_table_and_the_second_call_shows_the_model_a_few_images(
    fairtat: Command, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kornia")
    questions = ("--attacks", "pgd-2,fgsm,cw-2", "--eps_sweep", "0.05,0.1", "--targeted", "pgd-1")
    options = (*questions, "--corruptions", "contrast,brightness", "--severities", "1,5")
    code, out, err = fairtat("evaluate", "runs/at", *options)
    assert (code, err) == (0, "")
    for text in ("every condition", "FGSM, linf, eps 0.1", "worst case over all"):
        assert text in " ".join(out.split())
    assert "which classes can be turned into which: PGD-1" in out
    assert "Mean corruption error" in out
    evaluation = Evaluation.load("runs/at/evaluation/test.json")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    errors = evaluation.corruption_errors()["contrast"]
    assert rows["contrast"][1:3] == [f"{100 * (1 - errors[severity]):.1f}" for severity in (1, 5)]

    shown = []
    forward = torch.nn.Linear.forward

    def counted(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        shown.append(len(x))
        return forward(layer, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", counted)
    again = fairtat("evaluate", "runs/at", *options).out
    assert set(shown) == {CANARIES}
    assert "computed: clean, pgd-2, fgsm, cw-2," in out
    assert "reused, since the model still answers as it did: clean, pgd-2, fgsm, cw-2," in again
    assert "computed" not in again
    assert [line for line in again.splitlines() if "reused" not in line] == [
        line for line in out.splitlines() if "computed" not in line
    ]


def test_findings_are_printed(fairtat: Command, runs: Path) -> None:
    path = Path("runs/at/checkpoint.pt")
    state = torch.load(path, weights_only=True)
    last = [name for name in state["model"] if name.endswith("weight")][-1]
    for name in (last, last.replace("weight", "bias")):
        state["model"][name] *= 1e6
    torch.save(state, path)
    code, out, _ = fairtat("evaluate", "runs/at", "--attack.steps", 2)
    assert code == 0
    assert "warning (gradient-masking:zero-gradients):" in out
    found = [finding.id for finding in Evaluation.load("runs/at/evaluation/test.json").findings]
    assert "gradient-masking:zero-gradients" in found
    assert "warning (" not in fairtat("evaluate", "runs/at", "--attack.steps", 2, "--sanity", "false").out


def test_a_baseline_gives_rho_and_the_gain_of_the_worst_class(fairtat: Command, runs: Path) -> None:
    missing = fairtat("evaluate", "runs/fair", "--attack.steps", 2, "--baseline", "runs/at")
    assert missing.code == 2
    assert "runs/at/evaluation/test.json: no such evaluation; make it with: fairtat evaluate runs/at" in missing.err
    fairtat("evaluate", "runs/at", "--attack.steps", 2)
    out = " ".join(fairtat("evaluate", "runs/fair", "--attack.steps", 2, "--baseline", "runs/at").out.split())
    at, fair = (Evaluation.load(f"runs/{name}/evaluation/test.json") for name in ("at", "fair"))
    before, after = (100 * each.robust.worst[1] for each in (at, fair))
    assert f"the worst class went from {before:.1f} to {after:.1f}%" in out
    assert f"rho {rho(at.robust, fair.robust):+.3f}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a run folder, or --model.name"),
        (("--model.name", "mlp"), "--model.name needs --data.name"),
        (("runs/at", "--model.name", "digits_cnn"), "runs/at/checkpoint.pt: its model is 'mlp', not 'digits_cnn'"),
        (("runs/at", "--weights", "w.pt"), "--weights goes with --model.name, not with a run folder"),
        (("runs/at", "--split", "all"), "expected test or val"),
        (("--model.name", "mlp", "--data.name", "digits", "--attacks", "pgd-2@0.1,fgsm"), "--attack.eps is needed"),
        (("--model.name", "mlp", "--data.name", "digits", "--attacks", "pgd-2@0.1,fgsm"), "or as fgsm@8/255"),
        (
            ("--model.name", "mlp", "--data.name", "digits"),
            "--attack.eps is needed for a model that fairtat did not train",
        ),
    ],
)
def test_what_is_missing_is_said(fairtat: Command, runs: Path, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = fairtat("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_the_best_checkpoint_can_be_asked_for(fairtat: Command, runs: Path) -> None:
    assert fairtat("evaluate", "runs/at", "--checkpoint", "best", "--attack.steps", 1).code == 0
    assert Evaluation.load("runs/at/evaluation/test.json").source["checkpoint"] == "best"


def test_results_are_added_and_only_the_same_question_is_replaced(fairtat: Command, runs: Path) -> None:
    def stored() -> Evaluation:
        return Evaluation.load("runs/at/evaluation/test.json")

    first = ("--attacks", "pgd-2,cw-2", "--eps_sweep", "0.05,0.1", "--targeted", "pgd-1")
    assert fairtat("evaluate", "runs/at", *first).code == 0
    before = stored()
    out = fairtat("evaluate", "runs/at", "--attacks", "pgd-1@0.05,pgd-2").out
    assert "kept from before (--fresh forgets it): cw-2, pgd-2@0.05, pgd-2@0.1, targeted pgd-1" in out
    both = stored()
    assert both.primary == "pgd-1@0.05"
    assert both.names == ("clean", "pgd-1@0.05", "pgd-2", "cw-2", "pgd-2@0.05", "pgd-2@0.1")
    for name in ("clean", "pgd-2", "cw-2", "pgd-2@0.05"):
        assert torch.equal(both.condition(name).confusion, before.condition(name).confusion)
    assert both.targeted is not None
    assert before.targeted is not None
    assert torch.equal(both.targeted.reached, before.targeted.reached)
    assert both.curve()[0] == [0.0, 0.05, 0.1]

    # Another targeted sweep takes the place of the one that is kept, and says so.
    out = fairtat("evaluate", "runs/at", "--attacks", "pgd-2", "--targeted", "cw-1").out
    assert "replaced, as a file holds one of its kind: targeted pgd-1 (PGD-1, linf, eps 0.1, step 0.025)" in out

    # Another seed is another question, and of another name.
    fairtat("evaluate", "runs/at", "--attacks", "pgd-2", "--attack.seed", 3)
    assert [condition.settings.seed for condition in stored().attacks] == [3, 0, 0, 0]  # type: ignore[union-attr]
    assert len(set(stored().names)) == len(stored().names)
    assert "kept" not in fairtat("evaluate", "runs/at", "--attacks", "fgsm", "--fresh").out
    assert stored().names == ("clean", "fgsm")


def test_the_curves_point_at_the_main_radius_is_listed_once(fairtat: Command, runs: Path) -> None:
    out = fairtat("evaluate", "runs/at", "--attack.steps", 2, "--eps_sweep", "0.05,0.1").out
    rows = [line for line in out.partition("every condition")[2].splitlines() if line.strip().startswith("PGD-2")]
    assert [row.split("eps ")[1].split(",")[0] for row in rows] == ["0.1", "0.05"]


def test_another_test_set_for_a_run(fairtat: Command, runs: Path) -> None:
    run = load_run("runs/at")
    test = run.splits().test
    images, labels = test.floats(test.images).numpy()[:40], test.labels.numpy()[:40]
    np.savez("shifted.npz", images=np.roll(images, 1, 2), labels=labels % 7)  # not every class need be there
    assert fairtat("evaluate", "runs/at", "--data.name", "shifted.npz", "--attack.steps", 1).code == 0
    found = Evaluation.load("runs/at/evaluation/shifted/all.json")
    assert found.class_names == run.class_names
    assert found.source["data"] == "shifted.npz"
    with torch.no_grad():
        pred = run.model(torch.from_numpy(np.roll(images, 1, 2))).argmax(1)
    assert found.clean.correct == [int(((pred == k) & (torch.from_numpy(labels % 7) == k)).sum()) for k in range(10)]
    assert not Path("runs/at/evaluation/test.json").exists()

    np.savez("wide.npz", images=np.zeros((9, 9, 9), np.float32), labels=np.arange(9) % 3)
    np.savez("named.npz", images=images, labels=labels, class_names=[f"n{k}" for k in range(10)])
    np.savez("more.npz", images=images, labels=np.arange(40) % 12)
    for name, message in (
        ("wide", "holds images of shape (1, 9, 9), but runs/at was trained on (1, 8, 8)"),
        ("named", "holds class 'n0' where runs/at has '0'"),
        ("more", "holds 12 classes, but runs/at was trained on 10"),
    ):
        code, out, err = fairtat("evaluate", "runs/at", "--data.name", f"{name}.npz")
        assert (code, out) == (2, "")
        assert message in err


def test_an_interruption_tells_how_to_go_on(fairtat: Command, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = torch.nn.Linear.forward
    calls = []

    def interrupted(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return forward(layer, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", interrupted)
    command = ("evaluate", "runs/at", "--attacks", "pgd-2,fgsm", "--batch-size", 60, "--fresh")
    code, out, err = fairtat(*command)
    assert (code, out) == (130, "")
    again = "evaluate runs/at --attacks pgd-2,fgsm --batch-size 60"
    assert err == f"interrupted; what is computed is kept, resume with: fairtat {again}\n"
    out = fairtat(*again.split()).out
    assert "reused, since the model still answers as it did: clean" in out
    resumed = Evaluation.load("runs/at/evaluation/test.json")
    assert fairtat(*again.split(), "--output", "whole").code == 0
    assert resumed.to_dict() == Evaluation.load("whole/test.json").to_dict()


def test_a_budget_that_suffices_changes_nothing_and_a_wrong_one_is_named(fairtat: Command, runs: Path) -> None:
    assert fairtat("evaluate", "runs/at", "--attack.steps", 2, "--budget", "1h").code == 0
    assert json.loads(Path("runs/at/evaluation/test.json").read_text())["untried"] == []
    code, _, err = fairtat("evaluate", "runs/at", "--budget", "soon")
    assert code == 2
    assert "budget is 'soon'" in err

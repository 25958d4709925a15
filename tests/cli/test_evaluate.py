from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairtat.evaluation import Evaluation, rho
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


def test_the_table_shows_every_class_and_the_worst(fairtat: Command, runs: Path) -> None:
    _, out, _ = fairtat("evaluate", "runs/at", "--attack.steps", 2)
    evaluation = Evaluation.load("runs/at/evaluation/test.json")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    for k in range(10):
        star = "*" if k == evaluation.robust.worst[0] else ""
        assert rows[str(k)][4] == f"{star}{100 * evaluation.robust.accuracy[k]:.1f}"


def test_the_same_settings_give_the_same_bytes(fairtat: Command, runs: Path) -> None:
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


def test_every_question_has_its_table_and_the_second_call_shows_the_model_nothing(
    fairtat: Command, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kornia")
    questions = ("--attacks", "pgd-2,fgsm,cw-2", "--eps_sweep", "0.05,0.1", "--targeted", "pgd-1")
    options = (*questions, "--corruptions", "contrast,brightness", "--severities", "1,5")
    code, out, err = fairtat("evaluate", "runs/at", *options)
    assert (code, err) == (0, "")
    for text in ("every condition", "FGSM, linf, eps 0.1", "worst case over all attacks"):
        assert text in " ".join(out.split())
    assert "who can be turned into whom: PGD-1" in out
    assert "Mean corruption error" in out
    evaluation = Evaluation.load("runs/at/evaluation/test.json")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    errors = evaluation.corruption_errors()["contrast"]
    assert rows["contrast"][1:3] == [f"{100 * (1 - errors[severity]):.1f}" for severity in (1, 5)]

    def fail(*arguments: object) -> None:
        raise AssertionError("the model was asked again")

    monkeypatch.setattr(torch.nn.Linear, "forward", fail)
    assert fairtat("evaluate", "runs/at", *options).out == out


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
    assert f"worst class {at.robust.worst[1]:.1%} -> {fair.robust.worst[1]:.1%}" in out
    assert f"rho {rho(at.robust, fair.robust):+.3f}" in out


def outside(runs: Path) -> tuple[str, ...]:
    """A run's model, its weights and images as somebody else would have them."""
    from safetensors.torch import save_file

    run = load_run("runs/at")
    save_file({f"module.{name}": value for name, value in run.model.state_dict().items()}, "weights.safetensors")
    test = run.splits().test
    np.savez("images.npz", images=test.floats(test.images).numpy(), labels=test.labels.numpy())
    return ("--model", "mlp", "--weights", "weights.safetensors", "--data", "images.npz", "--attack.eps", "0.1")


def test_a_model_from_elsewhere_gets_the_same_figures(fairtat: Command, runs: Path) -> None:
    pytest.importorskip("safetensors")
    arguments = outside(runs)
    code, out, err = fairtat("evaluate", *arguments, "--attack.steps", 2)
    assert (code, err) == (0, "")
    assert "written: evaluations/mlp-images/all.json" in out
    fairtat("evaluate", "runs/at", "--attack.steps", 2)
    own, other = (Evaluation.load(path) for path in ("runs/at/evaluation/test.json", "evaluations/mlp-images/all.json"))
    assert torch.equal(own.clean.confusion, other.clean.confusion)
    assert other.source["weights"] == "weights.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--weights", "nowhere.pt"), "error: nowhere.pt: no such file of weights"),
        (("--data", "nowhere.npz"), "error: nowhere.npz: no such file"),
        (("--model", "mpl"), "did you mean 'mlp'?"),
        (("--attacks", "pdg-20"), "no attack is called 'pdg'; did you mean 'pgd'?"),
        (("--attacks", "pgd:l2"), "a radius in l2 is needed too"),
        (("--corruptions", "fogg"), "did you mean 'fog'?"),
        (("--corruptions", "fog", "--severities", "7"), "severity of fog is 7; expected 1 to 5"),
        (("--targeted", "fgsm"), "the attacks that take a target are pgd and cw"),
        (("--mean", "0.5"), "--mean and --std go together"),
        (("--mean", "0.5,0.5", "--std", "1"), "--mean has 2 numbers, but the images have 1 channels"),
        (("--model_options", "{width: 7}"), "is it a model of another size, or for another number of classes?"),
        (("--device", "gpu"), "expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_mistakes_with_a_model_from_elsewhere_are_one_line(
    fairtat: Command, runs: Path, change: tuple[str, ...], message: str
) -> None:
    pytest.importorskip("safetensors")
    arguments = dict(zip(*[iter(outside(runs))] * 2, strict=True))
    arguments.update(zip(*[iter(change)] * 2, strict=True))
    code, out, err = fairtat("evaluate", *[word for pair in arguments.items() for word in pair])
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("evaluations/mlp-images/all.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name a run folder, or --model"),
        (("--model", "mlp"), "--model needs --data"),
        (("runs/at", "--model", "digits_cnn"), "runs/at/checkpoint.pt: its model is 'mlp', not 'digits_cnn'"),
        (("runs/at", "--weights", "w.pt"), "--weights goes with --model, not with a run folder"),
        (("runs/at", "--split", "all"), "expected test or val"),
        (("--model", "mlp", "--data", "digits"), "--attack.eps is needed for a model that fairtat did not train"),
    ],
)
def test_what_is_missing_is_said(fairtat: Command, runs: Path, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = fairtat("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_the_best_checkpoint_can_be_asked_for(fairtat: Command, runs: Path) -> None:
    assert fairtat("evaluate", "runs/at", "--checkpoint", "best", "--attack.steps", 1).code == 0
    assert Evaluation.load("runs/at/evaluation/test.json").source["checkpoint"] == "best"

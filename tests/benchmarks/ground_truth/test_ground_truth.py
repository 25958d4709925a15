"""Linear classifiers, whose distance to the nearest example has a closed form: no proof falls, no example is missed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ground_truth
import numpy as np
import pytest
import torch

from fairtat.attacks.autoattack import APGD, Square

SHAPE, CLASSES = (1, 5, 7), 4


def gain(w: np.ndarray, x: np.ndarray, eps: float) -> float:
    """The most that ``w . delta`` can be for |delta| <= eps and x + delta in [0, 1]."""
    up, down = np.minimum(eps, 1 - x), np.minimum(eps, x)
    return float((np.where(w > 0, up, down) * np.abs(w)).sum())


def robust(weight: np.ndarray, x: np.ndarray, y: int, eps: float) -> bool:
    """Whether a linear classifier keeps its label everywhere in the ball, in float64."""
    others = [weight[j] - weight[y] for j in range(len(weight)) if j != y]
    return all(w @ x + gain(w, x, eps) < 0 for w in others)


def critical(weight: np.ndarray, x: np.ndarray, y: int) -> float:
    """The largest radius at which it is robust."""
    low, high = 0.0, 1.0
    for _ in range(60):
        low, high = ((low + high) / 2, high) if robust(weight, x, y, (low + high) / 2) else (low, (low + high) / 2)
    return low


def linear(rng: np.random.Generator, classes: int, n: int, steps: list[Any], targeted: bool) -> dict[str, Any]:
    """A network and n questions: one in three proved, one known, one open, whose radius is far too small."""
    weight = rng.normal(size=(classes, int(np.prod(SHAPE)))).astype(np.float32)
    if classes == 2:
        weight[1] = -weight[0]  # so that the signs of the logits decide as the logits do
    image = rng.integers(0, 256, (n, *SHAPE)).astype(np.uint8)
    x = image.reshape(n, -1) / 255
    logits = x @ weight.astype(np.float64).T
    y = logits.argmax(1)
    kind = np.arange(n) % 3
    radius = np.array([critical(weight.astype(np.float64), *pair) for pair in zip(x, y, strict=True)])
    return {
        "w0": weight,
        "w1": np.zeros(classes, np.float32),
        "graph": np.array(json.dumps(steps)),
        "image": image,
        "eps": radius * np.choose(kind, [0.97, 1.05, 0.3]),
        "label": y,
        "target": 1 - y if targeted else np.full(n, -1),
        "verdict": np.choose(kind, [1, -1, 0]).astype(np.int8),
    }


FLAT = [["Flatten", ["x"], "t0", {"axis": 1}], ["Gemm", ["t0", "w0", "w1"], "t1", {"transB": 1}]]
SIGNS = [*FLAT, ["Sign", ["t1"], "t2", {}]]


def write(path: Path, **networks: dict[str, Any]) -> Path:
    about = {"layout": "CHW", "mean": [0.0], "std": [1.0], "scale": 1}
    arrays = {f"{name}/{key}": array for name, one in networks.items() for key, array in one.items()}
    np.savez(path, meta=np.array(json.dumps(dict.fromkeys(networks, about))), **arrays)
    return path


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear classifier needs no more."""
    monkeypatch.setattr(
        ground_truth, "SMOOTH", [("apgd-ce", APGD("ce", n_iter=10)), ("apgd-t", APGD("dlr-targeted", n_iter=10))]
    )
    monkeypatch.setattr(
        ground_truth, "SIGNS", [("apgd-margin", APGD("margin", n_iter=10)), ("square", Square(n_queries=20))]
    )
    monkeypatch.setattr(ground_truth, "STEPS", 20)


@pytest.fixture
def network() -> dict[str, Any]:
    return linear(np.random.default_rng(3), CLASSES, 12, FLAT, targeted=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[list[str]]]:
    """(exit code, the rows of the table)."""
    code = ground_truth.main([str(a) for a in arguments])
    lines = capsys.readouterr().out.splitlines()[2:]
    return code, [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_no_proof_falls_and_every_example_is_found(tmp_path: Path, network, capsys) -> None:
    rng = np.random.default_rng(4)
    file = write(
        tmp_path / "verified.npz",
        untargeted=network,
        targeted=linear(rng, 2, 9, FLAT, targeted=True),
        binary=linear(rng, 2, 6, SIGNS, targeted=False),
    )
    code, rows = run(capsys, file, "--out", tmp_path / "out.json")
    assert code == 0
    assert [row[:7] for row in rows] == [
        ["untargeted", "4", "0", "4", "4", "4", "0"],
        ["targeted", "3", "0", "3", "3", "3", "0"],
        ["binary", "2", "0", "2", "2", "2", "0"],
    ]
    kept = json.loads((tmp_path / "out.json").read_text())
    assert [sum(row["found_by"].values()) for row in kept["rows"]] == [4, 3, 2]
    code, (row,) = run(capsys, file, "targeted", "--amp", "bfloat16", "--chunk", "2")
    assert (code, row[:5]) == (0, ["targeted", "3", "0", "3", "3"])


def test_a_proof_that_falls_fails_the_run(tmp_path: Path, network, capsys) -> None:
    network["verdict"][1] = 1  # which has an example
    code, (row,) = run(capsys, write(tmp_path / "verified.npz", wrong=network))
    assert (code, row[:5]) == (1, ["wrong", "5", "1", "3", "3"])


@pytest.mark.parametrize("how", ["outside", "claimed"])
def test_a_verdict_that_the_image_does_not_bear_out_is_an_error(tmp_path, network, monkeypatch, how) -> None:
    attack = ground_truth.fairtat.autoattack

    def lying(model: Any, x: torch.Tensor, y: torch.Tensor, **options: Any) -> Any:
        x_adv, flags = attack(model, x, y, **options)
        if how == "outside":
            x_adv[0] = (x_adv[0] + 2 * options["eps"][0]).clamp(0, 1)
        else:
            flags.robust[0] = False
        return x_adv, flags

    monkeypatch.setattr(ground_truth.fairtat, "autoattack", lying)
    with pytest.raises(AssertionError, match="net: the suite's verdicts are not those of the model"):
        ground_truth.main([str(write(tmp_path / "verified.npz", net=network))])


def test_the_accuracy_under_attack_is_the_one_of_the_closed_form(tmp_path, capsys, monkeypatch) -> None:
    rng = np.random.default_rng(5)
    n, size = 24, 3 * 32 * 32
    weight = rng.normal(size=(3, size)).astype(np.float32)
    images, wide = rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8), weight.astype(np.float64)
    x = images.transpose(0, 3, 1, 2).reshape(n, -1) / 255
    y = (x @ wide.T).argmax(1)
    radii = np.sort([255 * critical(wide, *pair) for pair in zip(x, y, strict=True)])
    middle = float(radii[n // 3 : n // 3 + 2].mean())  # a third of the images falls
    y[-1] = (y[-1] + 1) % 3  # wrong as it is
    left = sum(robust(wide, *pair, middle / 255) for pair in zip(x, y, strict=True))
    assert n // 2 < left < n - 1
    net = linear(rng, 3, 1, FLAT, targeted=False) | {"w0": weight}
    np.savez(tmp_path / "images.npz", images=images, labels=y)
    monkeypatch.setattr(ground_truth, "PUBLISHED", {"net": {0: 100.0, middle: 50.0}})
    file = write(tmp_path / "verified.npz", net=net)
    _, rows = run(capsys, file, "--images", tmp_path / "images.npz", "--chunk", "7")
    assert [row[2:5] for row in rows] == [
        [str(n), "100.0", f"{100 * (n - 1) / n:.2f}"],
        [str(n), "50.0", f"{100 * left / n:.2f}"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/verified.npz"], r"there is no nowhere.verified\.npz; make_verified\.py makes one"),
        (["text.npz"], r"text\.npz is not a file of make_verified\.py"),
        (["images.npz"], r"images\.npz is not a file of make_verified\.py: .*meta"),
        (["verified.npz", "cifar_resnet"], "no network 'cifar_resnet': one of net"),
        (["verified.npz", "--images", "text.npz"], r"text\.npz must hold images \(N, 32, 32, 3\)"),
        (["verified.npz", "--images", "verified.npz"], r"verified\.npz must hold images .*images"),
        (["verified.npz", "--images", "images.npz", "--every", "0"], "--every must be at least 1, got 0"),
        (["unknown.npz"], "there is no operation Atan"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, network, monkeypatch, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("verified.npz"), net=network)
    write(Path("unknown.npz"), net=network | {"graph": np.array(json.dumps([["Atan", ["x"], "t0", {}]]))})
    np.savez("images.npz", labels=np.zeros(3, np.int64))
    Path("text.npz").write_text("not an archive")
    with pytest.raises(SystemExit) as error:
        ground_truth.main(arguments)
    text = str(error.value) if error.value.code != 2 else capsys.readouterr().err
    assert re.search(message, text), text

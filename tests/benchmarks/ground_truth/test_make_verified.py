"""Small networks in the competition's files: what is made of them, beside the onnx package's own evaluation."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import make_verified
import numpy as np
import pytest
import torch
import verified
from make_verified import Source, question

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
evaluator = pytest.importorskip("onnx.reference", reason="onnx is not installed").ReferenceEvaluator
helper, of_array = onnx.helper, onnx.numpy_helper.from_array
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SOURCE = Source("21/tiny", "net_a", [3, 4, 5], MEAN, STD)
LAST = Source("22/tiny", "net_b", [6, 5, 3], [0.0] * 3, [1.0] * 3, scale=255)


def network(source: Source, nodes: list[Any], weights: dict[str, np.ndarray]) -> Any:
    given = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [None, *source.shape])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [None, 3])
    graph = helper.make_graph(nodes, "g", [given], [logits], [of_array(a, name) for name, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])


def padded_residual(rng: np.random.Generator) -> Any:
    """Uneven padding, a skip connection, constants that are nodes, both forms of a matrix product."""
    shapes = {"c": (3, 3, 3, 3), "b": 3, "m": (60, 7), "mb": 7, "g": (3, 7), "gb": 3}
    weights = {name: (rng.normal(size=shape) / 4).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Constant", [], ["half"], value=of_array(np.full((1, 1, 1, 1), 0.5, np.float32))),
        helper.make_node("Conv", ["image", "c", "b"], ["1"], kernel_shape=[3, 3], pads=[1, 0, 1, 2], strides=[1, 1],
                         dilations=[1, 1]),
        helper.make_node("Relu", ["1"], ["2"]),
        helper.make_node("Add", ["2", "image"], ["3"]),
        helper.make_node("Sub", ["3", "half"], ["4"]),
        helper.make_node("Div", ["4", "half"], ["5"]),
        helper.make_node("Flatten", ["5"], ["6"], axis=1),
        helper.make_node("MatMul", ["6", "m"], ["7"]),
        helper.make_node("Add", ["7", "mb"], ["8"]),
        helper.make_node("Sigmoid", ["8"], ["9"]),
        helper.make_node("Gemm", ["9", "g", "gb"], ["logits"], transB=1),
    ]  # fmt: skip
    return network(SOURCE, nodes, weights)


def channels_last(rng: np.random.Generator) -> Any:
    """Pixels of 0 to 255, channels last, signs, pooling and normalization."""
    w = {"c": rng.choice([-1.0, 1.0], (4, 3, 3, 3)), "d": rng.normal(size=(8, 3)), "tenth": np.array(0.1)}
    w |= {name: rng.uniform(0.5, 2, 4) for name in ("s", "o", "mu", "v")}
    nodes = [
        helper.make_node("Transpose", ["image"], ["1"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["1", "c"], ["2"], kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1]),
        helper.make_node("MaxPool", ["2"], ["3"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["3", "s", "o", "mu", "v"], ["4"], epsilon=1e-3),
        helper.make_node("Transpose", ["4"], ["5"], perm=[0, 2, 3, 1]),
        helper.make_node("Sign", ["5"], ["6"]),
        helper.make_node("Add", ["6", "tenth"], ["7"]),
        helper.make_node("Sign", ["7"], ["8"]),
        helper.make_node("Reshape", ["8", "flat"], ["9"]),
        helper.make_node("MatMul", ["9", "d"], ["10"]),
        helper.make_node("Softmax", ["10"], ["logits"]),
    ]
    weights = {name: a.astype(np.float32) for name, a in w.items()} | {"flat": np.array([-1, 8], np.int64)}
    return network(LAST, nodes, weights)


def given_to(source: Source, images: np.ndarray) -> np.ndarray:
    """(N, C, H, W) in [0, 1] as the competition's network takes it."""
    if source.layout == "HWC":
        return (255 * images).transpose(0, 2, 3, 1).astype(np.float32)
    mean, std = (np.array(v).reshape(-1, 1, 1) for v in (source.mean, source.std))
    return ((images - mean) / std).astype(np.float32)


def evaluate(model: Any, source: Source, images: np.ndarray) -> np.ndarray:
    (logits,) = evaluator(model).run(None, {"image": given_to(source, images)})
    return logits


def box(source: Source, image: np.ndarray, eps: float, output: str) -> str:
    """A question about the ball around (C, H, W) pixels, cut to [0, 1]."""
    lower, upper = (
        given_to(source, np.clip(image / 255 + d, 0, 1)[None]).astype(np.float64).ravel() for d in (-eps, eps)
    )
    bounds = (
        f"(assert (<= X_{k} {b}))\n(assert (>= X_{k} {a}))" for k, (a, b) in enumerate(zip(lower, upper, strict=True))
    )
    return "\n".join([*bounds, output])


def any_other(y: int) -> str:
    return "(assert (or\n" + "\n".join(f"(and (>= Y_{j} Y_{y}))" for j in range(3) if j != y) + "))"


@pytest.fixture
def clones(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A year's repositories with two networks, and what must come of them."""
    rng = np.random.default_rng(0)
    answers = {
        "a": ("holds", "timeout"),
        "b": ("unknown", "violated"),
        "c": ("holds", "violated"),
        "d": ("timeout", ""),
        "e": ("holds", "holds"),
    }
    expected: dict[str, Any] = {"verdict": [1, -1, 0, 0]}
    for source, make, benchmarks, results in (
        (SOURCE, padded_residual, "vnncomp2021", "vnncomp2021_results/results_csv/{}.csv"),
        (LAST, channels_last, "vnncomp2022_benchmarks", "vnncomp2022_results/{}/results.csv"),
    ):
        model = make(rng)
        folder = tmp_path / benchmarks / "benchmarks" / "tiny"
        (folder / "nets").mkdir(parents=True)
        data = model.SerializeToString()
        (folder / "nets" / f"{source.onnx}_long.onnx.gz").write_bytes(gzip.compress(data))
        shape = source.shape if source is SOURCE else [3, *source.shape[:2]]
        images = rng.integers(0, 256, (6, *shape)).astype(np.uint8)
        images[0].flat[:2] = 0, 255  # where the box is cut
        y = evaluate(model, source, images / 255).argmax(1)
        y[4] = (y[4] + 1) % 3  # "e" is misclassified
        expected[source.onnx] = model, images[:4], y[:4]
        lines = []
        for name, image, label in zip("abcdef", images, y, strict=True):
            (folder / f"{name}.vnnlib").write_text(box(source, image, 3 / 255, any_other(label)))
            lines.append(f"nets/{source.onnx}_long.onnx,{name}.vnnlib,300")
        (folder / "tiny_instances.csv").write_text("\n".join(reversed(lines)))
        for k, tool in enumerate(("One", "Two", "RPM", "cgdtest")):
            path = tmp_path / results.format(tool)
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                f"tiny,x/{source.onnx}_long.onnx,x/{name}.vnnlib,1,{said[k] if k < 2 else 'violated'},2"
                for name, said in answers.items()
            ]
            if k < 2 or (tool == "RPM") == (source is SOURCE):  # "f" was never asked; the last two are not believed
                path.write_text("\n".join(rows))
    return tmp_path, expected


def test_networks_images_radii_and_answers_are_those_of_the_files(clones, tmp_path, monkeypatch, capsys) -> None:
    folder, expected = clones
    monkeypatch.setattr(make_verified, "SOURCES", {"first": SOURCE, "second": LAST})
    file = tmp_path / "verified.npz"
    monkeypatch.setattr("sys.argv", ["make_verified.py", str(folder), "--out", str(file)])
    assert make_verified.main() == 0
    assert "first: 4 questions, 1 proved, 1 known, 2 open" in capsys.readouterr().out
    assert verified.names(file) == ["first", "second"]
    for name, source in (("first", SOURCE), ("second", LAST)):
        model, images, y = expected[source.onnx]
        made = verified.load(file, name)
        assert torch.equal(made.x, torch.from_numpy(images).float() / 255)
        assert made.y.tolist() == y.tolist()
        assert made.target.tolist() == [-1] * 4
        assert made.verdict.tolist() == expected["verdict"]
        torch.testing.assert_close(made.eps, torch.full((4,), 3 / 255), rtol=0, atol=1e-7)
        points = np.random.default_rng(1).uniform(size=(20, *made.x.shape[1:])).astype(np.float32)
        found, wanted = made.model(torch.from_numpy(points)), evaluate(model, source, points)
        if name == "second":  # which ends in a softmax
            found = found.softmax(1)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("sys.argv", ["make_verified.py", str(folder), "--check", str(file)])
    assert make_verified.main() == 0
    shutil.copy(folder / "vnncomp2021_results/results_csv/Two.csv", folder / "vnncomp2021_results/results_csv/One.csv")
    assert make_verified.main() == 1
    assert "first/verdict" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "target", "label"),
    [
        (any_other(2), -1, 2),
        ("(assert (or (and (<= Y_1 Y_0)) (and (<= Y_1 Y_2))))", -1, 1),
        ("; correct label 0, target label 2\n(assert (>= Y_2 Y_0))\n(assert (>= Y_2 Y_1))", 2, 0),
    ],
)
def test_what_a_question_asks(output: str, target: int, label: int) -> None:
    image = np.arange(60, dtype=np.uint8).reshape(3, 4, 5) * 4
    found = question(box(SOURCE, image, 0.02, output), SOURCE)
    assert (found["target"], found["label"]) == (target, label)
    assert (found["image"] == image).all()
    assert found["eps"] == pytest.approx(0.02, abs=1e-7)


def test_what_cannot_be_read_is_named(clones) -> None:
    folder, _ = clones
    with pytest.raises(SystemExit, match="another form"):
        question(box(SOURCE, np.zeros((3, 4, 5)), 0.1, "(assert (>= Y_0 Y_1))\n(assert (>= Y_1 Y_2))"), SOURCE)
    with pytest.raises(SystemExit, match=r"must hold one net_c, found none"):
        make_verified.convert(folder, Source("21/tiny", "net_c", [3, 4, 5]))

"""Makes verified.npz, the networks and questions of ground_truth.py, from clones of the competition's repositories.

    python benchmarks/make_verified.py CLONES --out verified.npz      # needs the onnx package
    python benchmarks/make_verified.py CLONES --check verified.npz    # says what differs from a file that is there

CLONES holds clones, as they are named on GitHub, of stanleybak/vnncomp2021 and vnncomp2021_results, and of
ChristopherBrix/vnncomp2022_benchmarks, vnncomp2022_results, vnncomp2023_benchmarks and vnncomp2023_results. A network
becomes the arrays and the list of operations of its ONNX file. A question is a box of pixels in a .vnnlib file: its
image is the one of multiples of 1/255 in the middle, its radius half of the largest side. Its answer is what the
tools of that year reported, without those in UNSOUND, and open where two of them disagree. Images that a network gets
wrong are left out.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from verified import model_of

from fairtat.optional import optional_import

Arrays = dict[str, Any]
Box = NDArray[np.float64]  # (2, D): lower, upper

BENCHMARKS = {"21": "vnncomp2021", "22": "vnncomp2022_benchmarks", "23": "vnncomp2023_benchmarks"}
RESULTS = {"21": "vnncomp2021_results/results_csv/*.csv", "22": "vnncomp2022_results/*/results.csv",
           "23": "vnncomp2023_results/*/results.csv"}  # fmt: skip
# Whose proofs and examples contradict those of several others here, or who prove everything.
UNSOUND = {"21": ("Debona", "RPM", "nnv"), "22": ("cgdtest",), "23": ("marabou",)}
ANSWERS = {"holds": 1, "unsat": 1, "violated": -1, "sat": -1}
_BOUND = re.compile(r"\(assert \((<=|>=) X_(\d+) (\S+?)\)\)")
_ORDER = re.compile(r"\((<=|>=) Y_(\d+) Y_(\d+)\)")


@dataclass(frozen=True)
class Source:
    """A network of the competition, and how its input follows from pixels in [0, 1]."""

    benchmark: str  # year/folder
    onnx: str  # how the file's name begins
    shape: list[int]  # of one input
    mean: list[float] = field(default_factory=lambda: [0.0])
    std: list[float] = field(default_factory=lambda: [1.0])
    scale: int = 1

    @property
    def layout(self) -> str:
        return "HWC" if self.shape[-1] == 3 else "CHW"


_GREY, _COLOR, _COLOR_LAST = [1, 28, 28], [3, 32, 32], [32, 32, 3]
_CIFAR = [0.4914, 0.4822, 0.4465]
_RESNET = _CIFAR, [0.2471, 0.2435, 0.2616]
_SRI = _CIFAR, [0.2023, 0.1994, 0.201]
_OVAL = [0.485, 0.456, 0.406], [0.225] * 3
_RAW = [0.0] * 3, [1.0] * 3
SOURCES = {
    "mnist_fc_256x2": Source("21/mnistfc", "mnist-net_256x2", _GREY),
    "mnist_fc_256x6": Source("21/mnistfc", "mnist-net_256x6", _GREY),
    "mnist_relu_9x200": Source("21/eran", "mnist_relu_9_200", _GREY),
    "mnist_sigmoid_6x200": Source("21/eran", "ffnnSIGMOID__Point_6x200", _GREY),
    "cifar_resnet_2b": Source("21/cifar10_resnet", "resnet_2b", _COLOR, *_RESNET),
    "cifar_resnet_4b": Source("21/cifar10_resnet", "resnet_4b", _COLOR, *_RESNET),
    "cifar_kw_base": Source("21/oval21", "cifar_base_kw", _COLOR, *_OVAL),
    "cifar_kw_wide": Source("21/oval21", "cifar_wide_kw", _COLOR, *_OVAL),
    "cifar_targeted_small": Source("21/marabou-cifar10", "cifar10_small", _COLOR_LAST, *_RAW),
    "cifar_targeted_large": Source("21/marabou-cifar10", "cifar10_large", _COLOR_LAST, *_RAW),
    "cifar_resnet_3b_a": Source("22/sri_resnet_a", "resnet_3b2_bn_mixup_adv_4.0", _COLOR, *_SRI),
    "cifar_vit_pgd": Source("23/vit", "pgd_2_3_16", _COLOR, *_SRI),
    "gtsrb_binary_30": Source("23/traffic_signs_recognition", "3_30_30", [30, 30, 3], *_RAW, scale=255),
    "gtsrb_binary_48": Source("23/traffic_signs_recognition", "3_48_48", [48, 48, 3], *_RAW, scale=255),
}


def convert(clones: Path, source: Source) -> tuple[Arrays, dict[str, Any]]:
    """(The arrays, the entry of "meta") of one network."""
    year, _, benchmark = source.benchmark.partition("/")
    folder = clones / BENCHMARKS[year] / "benchmarks" / benchmark
    arrays, about = network_of(_only(folder, source.onnx), source)
    tools = [path for path in clones.glob(RESULTS[year]) if not {path.stem, path.parent.name} & set(UNSOUND[year])]
    answers = answers_of(tools, benchmark)
    rows = []
    for network, path in _instances(folder):
        key = network, _stem(path.name)
        if network.startswith(source.onnx) and key in answers:
            rows.append(question(_text(path), source) | {"source": key[1], "verdict": answers[key]})
    rows.sort(key=lambda row: row["source"])
    types = {"image": np.uint8, "eps": np.float64, "label": np.int64, "target": np.int64, "verdict": np.int8,
             "source": None}  # fmt: skip
    columns = {name: np.array([row[name] for row in rows], dtype) for name, dtype in types.items()}
    with torch.no_grad():
        logits = model_of(arrays, about)(torch.from_numpy(columns["image"]).float() / 255)
    right = logits.argmax(1).numpy() == columns["label"] if rows else slice(None)
    kept = {name: column[right] for name, column in columns.items()}
    kept["source"] = np.array([str(s) for s in kept["source"]])
    return arrays | kept, about


def network_of(path: Path, source: Source) -> tuple[Arrays, dict[str, Any]]:
    """An ONNX file as arrays; a transformer as those that its module takes, in their order."""
    onnx = optional_import("onnx", purpose="reading a network of the competition", extra="dev")
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    graph = onnx.load_from_string(data).graph
    known = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    of_image = next(i.name for i in graph.input if i.name not in known)
    about = {name: value for name, value in asdict(source).items() if name != "onnx"}
    about |= {"layout": source.layout, "clipped": True, "input": of_image}
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    if any(node.op_type == "ReduceMean" for node in nodes):
        return _transformer(nodes, known), about
    arrays: Arrays = {}
    names: dict[str, str] = {of_image: "x"}
    steps: list[list[Any]] = []
    for node in nodes:
        for name in node.input:
            if name not in names:
                names[name] = f"w{len(arrays)}"
                arrays[names[name]] = known[name]
        names[node.output[0]] = f"t{len(steps)}"
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        steps.append([node.op_type, [names[name] for name in node.input], names[node.output[0]], given])
    return arrays | {"graph": np.array(json.dumps(steps))}, about


def _transformer(nodes: list[Any], known: Arrays) -> Arrays:
    arrays: Arrays = {}
    rest: list[tuple[str, Any]] = []
    for node in nodes:
        own = [known[name] for name in node.input if name in known]
        if node.op_type == "Conv":
            arrays["vit/patch_w"], arrays["vit/patch_b"] = own
        elif node.op_type == "Gemm":
            arrays["vit/head_w"], arrays["vit/head_b"] = own
        elif node.op_type == "BatchNormalization":
            rest.append(("bn", np.stack(own)))
        elif node.op_type == "Mul":
            arrays["vit/scale"] = own[0]
        elif node.op_type in ("MatMul", "Add") and own:
            small = next((k for k in ("cls", "pos") if f"vit/{k}" not in arrays), None)
            if small:
                arrays[f"vit/{small}"] = own[0].squeeze()
            else:
                rest.append(("b" if node.op_type == "Add" else "MatMul", own[0]))
    return arrays | {f"vit/s{k:03d}_{kind}": array for k, (kind, array) in enumerate(rest)}


def question(text: str, source: Source) -> dict[str, Any]:
    """Image, radius, label and target (-1: any other class will do) of a .vnnlib file."""
    image_shape = source.shape if source.layout == "CHW" else [source.shape[k] for k in (2, 0, 1)]
    box = np.empty((2, int(np.prod(source.shape))))
    for sign, pixel, value in _BOUND.findall(text):
        box[int(sign == "<="), int(pixel)] = float(value)
    box = box.reshape(2, *source.shape)
    if source.layout == "HWC":
        box = box.transpose(0, 3, 1, 2)
    mean, std = (np.array(v).reshape(-1, 1, 1) for v in (source.mean, source.std))
    lower, upper = (box * std + mean) / source.scale
    half = ((upper - lower) / 2).max()
    middle = np.where(lower <= 1e-6, upper - half, np.where(upper >= 1 - 1e-6, lower + half, (lower + upper) / 2))
    image = np.rint(255 * middle).clip(0, 255).astype(np.uint8).reshape(image_shape)
    target, label = _classes(text)
    return {"image": image, "eps": float(half), "label": label, "target": target}


def _classes(text: str) -> tuple[int, int]:
    """(target or -1, label)."""
    pairs = [(int(a), int(b)) if sign == ">=" else (int(b), int(a)) for sign, a, b in _ORDER.findall(text)]
    larger, smaller = {a for a, _ in pairs}, {b for _, b in pairs}
    if len(smaller) == 1:
        return -1, smaller.pop()
    found = re.search(r"correct label (\d+)", text)
    if len(larger) != 1 or found is None:
        raise SystemExit(f"a question of another form: {sorted(larger)} above {sorted(smaller)}")
    return larger.pop(), int(found[1])


def answers_of(files: list[Path], benchmark: str) -> dict[tuple[str, str], int]:
    """(network, question) that was asked -> 1 proved, -1 an example exists, 0 nobody knows, or two disagree."""
    said: dict[tuple[str, str], set[int]] = {}
    for path in files:
        with path.open(newline="") as file:
            for row in csv.reader(file):
                if row[0] == benchmark:
                    found = said.setdefault((_stem(row[1]), _stem(row[2])), set())
                    found |= {ANSWERS[answer]} if (answer := row[4].lower()) in ANSWERS else set()
    return {key: found.pop() if len(found) == 1 else 0 for key, found in said.items()}


def _instances(folder: Path) -> Iterator[tuple[str, Path]]:
    with _only(folder, "*instances.csv").open(newline="") as file:
        for network, path, _ in csv.reader(file):
            plain = folder / path
            yield _stem(network), plain if plain.is_file() else plain.with_name(f"{plain.name}.gz")


def _only(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name if name.endswith(".csv") else f"{name}*.onnx*"))
    if len(found) != 1:
        raise SystemExit(f"{folder} must hold one {name}, found {[path.name for path in found] or 'none'}")
    return found[0]


def _stem(name: str) -> str:
    return Path(name).name.removesuffix(".gz").removesuffix(".onnx").removesuffix(".vnnlib")


def _text(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


def differences(made: Arrays, file: Any) -> list[str]:
    """The arrays that are not equal in type, shape and value to those of ``file``."""

    def same(name: str) -> bool:
        a, b = made[name], file[name]
        return a.dtype.kind == b.dtype.kind and a.shape == b.shape and np.array_equal(a, b)

    return [name for name in made if name not in file or not same(name)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", type=Path)
    parser.add_argument("network", nargs="*", help=f"default all: {', '.join(SOURCES)}")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--out", type=Path, metavar="FILE.npz")
    group.add_argument("--check", type=Path, metavar="FILE.npz")
    arguments = parser.parse_args()
    made: Arrays = {}
    about, wrong = {}, 0
    for name in arguments.network or SOURCES:
        arrays, about[name] = convert(arguments.clones, SOURCES[name])
        made |= {f"{name}/{key}": array for key, array in arrays.items()}
        verdict = arrays["verdict"]
        counts = (len(verdict), *(int((verdict == k).sum()) for k in (1, -1, 0)))
        print("{}: {} questions, {} proved, {} known, {} open".format(name, *counts), flush=True)
    if arguments.out:
        np.savez_compressed(arguments.out, meta=np.array(json.dumps(about)), **made)
    else:
        with np.load(arguments.check) as file:
            wrong = len(differing := differences(made, file))
            print(f"{len(made) - wrong} of {len(made)} arrays are equal", *differing, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

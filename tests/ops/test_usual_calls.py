"""The usual call, which one check in the core lets pass: it takes the short way, with the results of the long one.

What an argument can be stands in one table for each op. Every two of its entries together must give the same bits or
the same error whether the check in the core is asked or says no.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairtat import ops
from fairtat.backends import native
from fairtat.ops import _library

pytestmark = pytest.mark.skipif(
    native.MISSING is not None or not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
    reason="needs the compiled core and DLPack's C exchange",
)

Arguments = dict[str, Any]
Change = Callable[[Arguments], Any]  # what the argument is, from the arguments of a plain call
INF, NAN = float("inf"), float("nan")
N, C = 3, 5


class Subclass(Tensor):
    pass


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def strided(t: Tensor) -> Tensor:
    """The same values, two apart."""
    return torch.stack([t, t], -1)[..., 0]


def another_format(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def step() -> Arguments:
    x = random(N, 3, 4, 5)
    x_adv, grad = x + 0.1 * random(N, 3, 4, 5, seed=1), random(N, 3, 4, 5, seed=2) - 0.5
    grad[1] = 0.0
    return {"x_adv": x_adv, "grad": grad, "x": x, "eps": 0.1, "step_size": 0.03}


def loss() -> Arguments:
    return {"logits": random(N, C) * 9, "target": torch.arange(N)}


def draw() -> Arguments:
    return {"label": torch.arange(N), "table": ops.target_table(random(C) + 0.1), "seed": 7}


# Op -> its plain call; argument -> what it can be -> how it is made. In USUAL what the check in the core lets pass.
PLAIN: dict[str, Callable[[], Arguments]] = {"pgd_step_": step, "logit_loss": loss, "sample_targets": draw}
USUAL: dict[str, dict[str, dict[str, Change]]] = {
    "pgd_step_": {
        "x_adv": {"a parameter": lambda a: torch.nn.Parameter(a["x_adv"], requires_grad=False)},
        "grad": {
            "in bfloat16": lambda a: a["grad"].bfloat16(),
            "in float16": lambda a: a["grad"].half(),
            "the images": lambda a: a["x"],
            "with NaN": lambda a: a["grad"].clone().index_fill_(0, torch.tensor([0]), NAN),
        },
        "eps": {"zero": lambda a: 0, "an int": lambda a: 2, "(N,)": lambda a: random(N)},
        "step_size": {"largest": lambda a: 3.4028234663852886e38, "(N,)": lambda a: random(N, seed=3)},
        "targeted": {"no": lambda a: False, "yes": lambda a: True},
        "norm": {"l2": lambda a: "l2", "made": lambda a: "".join(["li", "nf"])},
        "bounds": {"others": lambda a: (-1.0, 0.5)},
        "model_input": {
            "in float32": lambda a: torch.empty_like(a["x"]),
            "in bfloat16": lambda a: torch.empty_like(a["x"], dtype=torch.bfloat16),
        },
        "zero_grad": {"(N,)": lambda a: torch.full((N,), 4)},
        "velocity": {"like x_adv": lambda a: random(N, 3, 4, 5, seed=4) - 0.5},
        "momentum": {"zero": lambda a: 0, "minus zero": lambda a: -0.0},
        "density": {"unused": lambda a: "nothing"},
        "backend": {"cpu": lambda a: "cpu", "reference": lambda a: "reference"},
    },
    "logit_loss": {
        "logits": {
            "in bfloat16": lambda a: a["logits"].bfloat16(),
            "in float16": lambda a: a["logits"].half(),
            "of three classes": lambda a: a["logits"][:, :3].contiguous(),
        },
        "target": {"out of range": lambda a: torch.tensor([0, C, 1])},
        "kind": {"ce": lambda a: "ce", "margin": lambda a: "margin", "dlr": lambda a: "dlr"},
        "backend": {"cpu": lambda a: "cpu", "reference": lambda a: "reference"},
    },
    "sample_targets": {
        "label": {"out of range": lambda a: torch.tensor([0, -1, 1])},
        "table": {
            "(C, C)": lambda a: ops.target_table(random(C, C) + 0.1),
            "without classes": lambda a: a["table"][:0],
        },
        "seed": {"largest": lambda a: 2**64 - 1, "lowest": lambda a: -(2**63)},
        "sample_ids": {"(N,)": lambda a: torch.tensor([2**40, -3, 0])},
        "stream": {"largest": lambda a: 2**32 - 1},
        "backend": {"cpu": lambda a: "cpu", "reference": lambda a: "reference"},
    },
}
UNUSUAL: dict[str, dict[str, dict[str, Change]]] = {
    "pgd_step_": {
        "x_adv": {
            "a list": lambda a: a["x_adv"].tolist(),
            "in float64": lambda a: a["x_adv"].double(),
            "flat": lambda a: a["x_adv"].flatten(),
            "strided": lambda a: strided(a["x_adv"]),
            "of another format": lambda a: another_format(a["x_adv"]),
            "a subclass": lambda a: a["x_adv"].as_subclass(Subclass),
            "fewer": lambda a: a["x_adv"][1:],
        },
        "grad": {
            "missing": lambda a: None,
            "of integers": lambda a: a["grad"].long(),
            "in float64": lambda a: a["grad"].double(),
            "x_adv": lambda a: a["x_adv"],
            "of another format": lambda a: another_format(a["grad"]),
            "negated": lambda a: torch._neg_view(a["grad"]),
            "elsewhere": lambda a: a["grad"].to("meta"),
        },
        "x": {"in float64": lambda a: a["x"].double(), "x_adv": lambda a: a["x_adv"], "fewer": lambda a: a["x"][:1]},
        "eps": {
            "negative": lambda a: -0.1,
            "NaN": lambda a: NAN,
            "infinite": lambda a: INF,
            "huge": lambda a: 10**400,
            "beyond float32": lambda a: 1e39,
            "a bool": lambda a: True,
            "text": lambda a: "0.1",
            "numpy's": lambda a: np.float64(0.1),
            "a number in a tensor": lambda a: torch.tensor(0.1),
            "strided": lambda a: strided(random(N)),
            "in float64": lambda a: random(N).double(),
            "of integers": lambda a: torch.ones(N).long(),
            "of another batch": lambda a: random(N + 1),
            "in x_adv": lambda a: a["x_adv"].view(-1)[:N],
        },
        "step_size": {"missing": lambda a: None, "negative": lambda a: -1, "expanded": lambda a: random(1).expand(N)},
        "targeted": {
            "a number": lambda a: 1,
            "(N,)": lambda a: torch.tensor([True, False, True]),
            "of another batch": lambda a: torch.tensor([True]),
        },
        "norm": {
            "l1": lambda a: "l1",
            "unknown": lambda a: "l3",
            "missing": lambda a: None,
            "a list": lambda a: ["l2"],
        },
        "bounds": {
            "a list": lambda a: [0.0, 1.0],
            "of ints": lambda a: (0, 1),
            "reversed": lambda a: (1.0, 0.0),
            "infinite": lambda a: (-INF, INF),
            "of one": lambda a: (0.0,),
            "missing": lambda a: None,
        },
        "model_input": {
            "of another format": lambda a: another_format(torch.empty_like(a["x"])),
            "in float64": lambda a: torch.empty_like(a["x"]).double(),
            "x": lambda a: a["x"],
        },
        # Without the other, without model_input, or not a tensor.
        "mean": {
            "a list": lambda a: [0.1, 0.2, 0.3],
            "(C,)": lambda a: torch.tensor([0.1, 0.2, 0.3]),
            "of other channels": lambda a: random(2),
        },
        "std": {"a list": lambda a: [0.5, 0.6, 0.7], "(C,)": lambda a: torch.tensor([0.5, 0.6, 0.7])},
        "zero_grad": {
            "floats": lambda a: torch.zeros(N),
            "strided": lambda a: torch.zeros(2 * N).long()[::2],
            "of another batch": lambda a: torch.arange(1),
        },
        "velocity": {"in float64": lambda a: a["x"].double(), "x": lambda a: a["x"]},
        "momentum": {
            "without velocity": lambda a: 0.9,
            "NaN": lambda a: NAN,
            "(N,)": lambda a: random(N),
            "missing": lambda a: None,
        },
        "backend": {"unknown": lambda a: "c++", "absent": lambda a: "triton", "missing": lambda a: None},
    },
    "logit_loss": {
        "logits": {
            "a list": lambda a: a["logits"].tolist(),
            "in float64": lambda a: a["logits"].double(),
            "of integers": lambda a: a["logits"].long(),
            "flat": lambda a: a["logits"].flatten(),
            "strided": lambda a: strided(a["logits"]),
            "of no class": lambda a: a["logits"][:, :0].contiguous(),
            "negated": lambda a: torch._neg_view(a["logits"]),
        },
        "target": {
            "missing": lambda a: None,
            "in int32": lambda a: a["target"].int(),
            "strided": lambda a: strided(a["target"]),
            "of another batch": lambda a: a["target"][1:],
            "a column": lambda a: a["target"][:, None],
        },
        "kind": {
            "kl": lambda a: "kl",
            "a pair": lambda a: ("ce", "margin"),
            "one of a tuple": lambda a: ("ce",),
            "unknown": lambda a: "cw",
            "missing": lambda a: None,
            "an array": lambda a: np.array(["ce", "dlr"]),
        },
        "targeted": {"(N,)": lambda a: torch.tensor([True, False, True]), "a bool": lambda a: True},
        "y": {"(N,)": lambda a: torch.tensor([1, 2, 3]), "in int32": lambda a: torch.tensor([1, 2, 3]).int()},
        "clean_logits": {
            "(N, C)": lambda a: random(N, C, seed=5),
            "in bfloat16": lambda a: random(N, C, seed=5).bfloat16(),
            "in float64": lambda a: random(N, C, seed=5).double(),
            "of other classes": lambda a: random(N, C + 1),
        },
        "backend": {"unknown": lambda a: "c++", "absent": lambda a: "triton", "missing": lambda a: None},
    },
    "sample_targets": {
        "label": {
            "a list": lambda a: [0, 1, 2],
            "in int32": lambda a: a["label"].int(),
            "strided": lambda a: strided(a["label"]),
            "a column": lambda a: a["label"][:, None],
            "elsewhere": lambda a: a["label"].to("meta"),
        },
        "table": {
            "missing": lambda a: None,
            "in int32": lambda a: a["table"].int(),
            "a number": lambda a: torch.tensor(3),
            "strided": lambda a: strided(a["table"]),
            "oblong": lambda a: torch.ones(C, C - 1).long(),
            "of three dimensions": lambda a: torch.ones(C, C, C).long(),
        },
        "seed": {
            "a bool": lambda a: True,
            "too large": lambda a: 2**64,
            "too low": lambda a: -(2**63) - 1,
            "a float": lambda a: 1.0,
            "numpy's": lambda a: np.int64(1),
            "missing": lambda a: None,
        },
        "sample_ids": {"strided": lambda a: strided(torch.arange(N)), "in int32": lambda a: torch.arange(N).int()},
        "stream": {"too large": lambda a: 2**32, "negative": lambda a: -1, "a float": lambda a: 0.0},
        "backend": {"unknown": lambda a: "c++", "absent": lambda a: "triton", "missing": lambda a: None},
    },
}
# Usual only together.
TOGETHER: dict[str, list[dict[str, Change]]] = {
    "pgd_step_": [
        {
            "model_input": USUAL["pgd_step_"]["model_input"]["in bfloat16"],
            "mean": UNUSUAL["pgd_step_"]["mean"]["(C,)"],
            "std": UNUSUAL["pgd_step_"]["std"]["(C,)"],
        },
        {
            "velocity": USUAL["pgd_step_"]["velocity"]["like x_adv"],
            "momentum": UNUSUAL["pgd_step_"]["momentum"]["without velocity"],
        },
        {name: lambda a, name=name: another_format(a[name]) for name in ("x_adv", "grad", "x")},
        {name: lambda a, name=name: a[name].flatten(1) for name in ("x_adv", "grad", "x")},
        {name: lambda a, name=name: a[name][:0] for name in ("x_adv", "grad", "x")},
    ],
    "logit_loss": [
        {"kind": lambda a: "dlr", "y": UNUSUAL["logit_loss"]["y"]["(N,)"]},
        {"kind": lambda a: "kl", "clean_logits": UNUSUAL["logit_loss"]["clean_logits"]["(N, C)"]},
        {"kind": lambda a: "kl", "clean_logits": UNUSUAL["logit_loss"]["clean_logits"]["in bfloat16"]},
        {name: lambda a, name=name: a[name][:0] for name in ("logits", "target")},
    ],
    "sample_targets": [{"label": lambda a: a["label"][:0]}],
}


def arguments_of(op: str, changes: dict[str, Change]) -> Arguments:
    plain = PLAIN[op]()
    return {**plain, **{name: change(plain) for name, change in changes.items()}}


def bits(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.device.type == "meta":
        return None
    memory = value.detach().as_subclass(Tensor).resolve_neg().contiguous().view(-1)
    return value.dtype, tuple(value.shape), value.stride(), memory.view(torch.uint8).tolist()


def outcome(op: str, changes: dict[str, Change]) -> Any:
    """The error, or the bits of what was returned; and in either case what is in the arguments then."""
    arguments = arguments_of(op, changes)
    try:
        result = getattr(ops, op)(**arguments)
    except Exception as error:
        result = error
    results = result if isinstance(result, tuple) else (result,)
    said = [(type(r), str(r)) if isinstance(r, Exception) else bits(r) for r in results]
    versions = [t._version for t in arguments.values() if isinstance(t, Tensor)]
    return type(result), said, [bits(value) for value in arguments.values()], versions


def registered(op: str) -> tuple[Any, _library.Op]:
    module = importlib.import_module(f"fairtat.ops.{op.removesuffix('_')}")
    return module, module._op


@pytest.fixture
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each way was taken: `direct` after one check in the core, `call` after the checks in Python."""
    module, op = registered(request.getfixturevalue("op"))
    taken: Counter[str] = Counter()

    def counting(way: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            taken[way] += 1
            return getattr(op, way)(*arguments)

        return call

    monkeypatch.setattr(module, "_op", _library.Op(counting("call"), op.usual, counting("direct")))
    return taken


def each(table: dict[str, dict[str, dict[str, Change]]]) -> list[Any]:
    return [
        pytest.param(op, {name: change}, id=f"{op}-{name} {what}")
        for op, names in table.items()
        for name, changes in names.items()
        for what, change in changes.items()
    ]


@pytest.mark.parametrize(
    ("op", "changes"),
    [
        *(pytest.param(op, {}, id=op) for op in PLAIN),
        *each(USUAL),
        *(
            pytest.param(op, changes, id=f"{op}-together-{i}")
            for op in TOGETHER
            for i, changes in enumerate(TOGETHER[op])
        ),
    ],
)
def test_a_usual_call_takes_the_short_way(op: str, changes: dict[str, Change], ways: Counter[str]) -> None:
    outcome(op, changes)
    assert ways == {"direct": 1}


@pytest.mark.parametrize(("op", "changes"), each(UNUSUAL))
def test_an_unusual_call_does_not(op: str, changes: dict[str, Change], ways: Counter[str]) -> None:
    outcome(op, changes)
    assert ways["direct"] == 0


@pytest.mark.parametrize("op", PLAIN)
def test_both_ways_give_the_same_bits_or_the_same_error(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, short = registered(op)
    checked = dataclasses.replace(short, usual=lambda *_: None)
    table = [
        (name, change)
        for names in (USUAL[op], UNUSUAL[op])
        for name, changes in names.items()
        for change in changes.values()
    ]
    combined = [dict(pair) for pair in combinations(table, 2)]
    assert len(combined) > 200
    for together in TOGETHER[op]:
        combined += [together, *({**together, name: change} for name, change in table)]
    errors = 0
    for changes in combined:
        found = []
        for way in (short, checked):
            monkeypatch.setattr(module, "_op", way)
            found.append(outcome(op, changes))
        assert found[0] == found[1], list(changes)
        errors += issubclass(found[0][0], Exception)
    assert 0 < errors < len(combined)


def test_x_adv_is_refused_as_an_input_also_without_elements() -> None:
    x = torch.empty(0, 3, 4, 5)
    for grad, images in ((x, x.clone()), (x.clone(), x)):
        with pytest.raises(ValueError, match=r"(grad|x) must not be x_adv itself"):
            ops.pgd_step_(x, grad, images, 0.1, 0.1)

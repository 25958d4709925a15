"""The one check of an op's usual arguments: its yes is never wrong, and a no is left to the checks in Python."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layouts import LAYOUTS
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fairtat import ClassStats, backends, checks, ops
from fairtat.backends import native
from fairtat.backends.signature import NO, ON_CPU, signature

pytestmark = pytest.mark.skipif(
    native.MISSING is not None or not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"),
    reason="needs the compiled core and DLPack's C exchange",
)

LABELS = ("int64 (7+C, C) written", "int64 (N)", "float32 (N)?")


def labels(n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(10, 3, dtype=torch.int64), torch.zeros(n, dtype=torch.int64), torch.zeros(n)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_what_is_usual_fits(n: int) -> None:
    fits = signature(*LABELS)
    buffer, label, loss = labels(n)
    assert fits(buffer, label, loss) == ON_CPU
    assert fits(buffer, label, None) == ON_CPU
    assert fits(buffer, label, torch.nn.Parameter(loss)) == ON_CPU


class Subclass(Tensor):
    pass


UNUSUAL: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
    "another shape": (0, lambda t: t[:-1]),
    "flat": (0, lambda t: t.view(-1)),
    "too few rows": (0, lambda t: t[:5, :3].contiguous()),
    "strided": (0, lambda t: t.repeat(1, 2)[:, ::2]),
    "transposed": (0, lambda t: t.T.contiguous().T),
    "int32": (0, Tensor.int),
    "float64": (2, Tensor.double),
    "bfloat16": (2, Tensor.bfloat16),
    "bool": (1, Tensor.bool),
    "another batch": (1, lambda t: t[1:]),
    "a column": (1, lambda t: t[:, None]),
    "a number": (1, lambda t: t[0]),
    "strided labels": (1, lambda t: torch.stack([t, t], 1)[:, 0]),
    "expanded": (2, lambda t: t[:1].expand(4)),
    "a list": (1, Tensor.tolist),
    "numpy's": (1, Tensor.numpy),
    "missing": (1, lambda t: None),
    "on another device": (2, lambda t: t.to("meta")),
    "sparse": (2, lambda t: torch.ones(4).to_sparse()),
    "a subclass": (2, lambda t: t.as_subclass(Subclass)),
    "a pending negation": (2, torch._neg_view),
    "no memory": (2, lambda t: torch._efficientzerotensor(4)),
    "functional": (1, torch._to_functional_tensor),
    "fake": (1, lambda t: FakeTensorMode().from_tensor(t)),
}


@pytest.mark.parametrize(("position", "change"), UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_does_not_fit(position: int, change: Callable[[Tensor], Any]) -> None:
    given_ = [*labels()]
    assert signature(*LABELS)(*given_) == ON_CPU
    given_[position] = change(given_[position])
    assert signature(*LABELS)(*given_) == NO


def test_another_number_of_arguments_does_not_fit() -> None:
    fits = signature(*LABELS)
    assert fits(*labels()[:2]) == fits(*labels(), None) == fits() == NO


@pytest.mark.parametrize("first", [0, 13, 29, 30, 40])
def test_what_is_written_shares_memory_with_nothing(first: int) -> None:
    memory = torch.zeros(60, dtype=torch.int64)
    fits = signature(*LABELS)(memory[:30].view(10, 3), memory[first : first + 4], None)
    assert fits == (ON_CPU if first >= 30 else NO)
    # What is only read may lie anywhere.
    assert signature("int64 (N)", "int64 (N)")(memory, memory) == ON_CPU


def test_a_backend_that_the_environment_names_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = signature(*LABELS)
    monkeypatch.setenv("FAIRTAT_BACKEND", "reference")
    assert fits(*labels()) == NO
    monkeypatch.setenv("FAIRTAT_BACKEND", "")
    assert fits(*labels()) == ON_CPU
    monkeypatch.delenv("FAIRTAT_BACKEND")
    assert fits(*labels()) == ON_CPU


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 1), (0, 3, 4, 5), (2, 3, 0, 5)], ids=str)
def test_images_that_fit_are_dense(layout: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    x = layout(torch.zeros(shape))
    fits = signature("float32 (N, ...)", "float32|bfloat16 like 0")
    assert fits(x, x.bfloat16()) == (ON_CPU if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
                                     else NO)  # fmt: skip
    assert checks.is_dense_by_sample(x)
    assert fits(torch.zeros(8, 3, 4, 5)[::2], torch.zeros(8, 3, 4, 5)[::2]) == NO
    assert fits(torch.zeros(4), torch.zeros(4)) == NO


def test_a_tensor_like_another_has_its_strides() -> None:
    fits = signature("float32 (N, ...)", "float32 like 0")
    x = torch.zeros(2, 3, 4, 5)
    other = x.contiguous(memory_format=torch.channels_last)
    assert fits(x, x.clone()) == fits(other, other.clone()) == ON_CPU
    assert fits(x, other) == fits(other, x) == fits(x, x[:1]) == fits(x, x[0]) == NO


def passes(check: Callable[[], object]) -> bool:
    try:
        check()
    except (TypeError, ValueError):
        return False
    return True


numbers = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.none(), st.text(max_size=3),
    st.sampled_from([0, -0.0, -1, 2**63, 2**64, -(2**63), -(2**63) - 1, 2**64 - 1, 2**32, 2**32 - 1, 10**400]),
    st.sampled_from([3.4028235e38, 3.4028236e38, math.inf, -math.inf, math.nan]),
)  # fmt: skip


@given(value=numbers)
def test_numbers_that_fit_pass_the_checks(value: Any) -> None:
    assert bool(signature("seed")(value)) == passes(lambda: checks.check_seed(value, 0))
    assert bool(signature("integer 0 4294967295")(value)) == passes(lambda: checks.check_seed(0, value))
    assert bool(signature("amount (N)")(value)) == passes(lambda: checks.amount("eps", value, torch.float32))


@given(low=numbers, high=numbers, kind=st.sampled_from([tuple, list]))
def test_bounds_that_fit_pass_the_checks(low: Any, high: Any, kind: type) -> None:
    bounds = kind((low, high))
    if signature("bounds")(bounds):
        assert checks.check_bounds(bounds, torch.float32) == bounds
    else:
        finite = all(isinstance(v, float) and abs(v) <= 3.4028234663852886e38 for v in (low, high))
        assert not (kind is tuple and finite and low < high)


def test_a_radius_may_be_a_tensor() -> None:
    fits = signature("float32 (N, ...)", "amount (N)")
    x = torch.zeros(4, 2)
    assert fits(x, torch.zeros(4)) == ON_CPU
    assert fits(x, torch.zeros(3)) == fits(x, torch.zeros(4).double()) == fits(x, torch.tensor(0.1)) == NO


def test_an_amount_without_a_size_is_a_number() -> None:
    fits = signature("amount")
    assert all(map(fits, (0, 1, 0.5, -0.0, 3.4028234663852886e38)))
    assert not any(
        map(fits, (-1, 1e39, 10**400, math.nan, math.inf, True, None, "1", torch.ones(4), torch.tensor(1.0)))
    )


def test_a_bool_is_no_number() -> None:
    fits = signature("bool")
    assert fits(True)
    assert fits(False)
    assert not any(map(fits, (0, 1, 1.0, None, "True", torch.tensor(True), torch.ones(4).bool())))


def test_a_tensor_may_have_one_shape_or_another() -> None:
    fits = signature("int64 (C)|(C, C)", "int64 (C)?")
    row = torch.zeros(3, dtype=torch.int64)
    assert fits(row, row) == fits(row.expand(3, 3).contiguous(), row) == fits(row, None) == ON_CPU
    for other in (row[:2], row[0], row[None], row.expand(3, 3), row.expand(3, 3, 3).contiguous(), row.int()):
        assert fits(other, row) == NO


def test_images_may_name_more_than_their_first_size() -> None:
    fits = signature("float32 (N, C, ...)", "float32 (C)")
    for shape in ((2, 3), (2, 3, 4), (0, 3, 4, 5)):
        assert fits(torch.zeros(shape), torch.zeros(3)) == ON_CPU
        assert fits(torch.zeros(shape), torch.zeros(2)) == NO
    assert fits(torch.zeros(3), torch.zeros(3)) == NO
    assert signature("float32 (N, C, H, ...)")(torch.zeros(2, 3)) == NO


@pytest.mark.parametrize("n", [0, 4])
def test_what_is_written_is_given_once(n: int) -> None:
    t = torch.zeros(n)
    assert signature("float32 (N) written", "float32 (N)")(t, t) == NO
    assert signature("float32 (N)", "float32 (N)")(t, t) == ON_CPU


def test_choices_are_strings() -> None:
    fits = signature("one of linf l2")
    assert all(map(fits, ("linf", "".join(["l", "2"]))))
    assert not any(map(fits, ("l1", "", None, b"l2", 2)))


@pytest.mark.parametrize("rule", ["int64", "int64 N", "int16 (N)", "float32 (N) read", "one", ""])
def test_a_rule_that_cannot_be_read_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=r"rule must have a form|no dtype int16"):
        signature(rule)


USUAL: dict[str, Callable[[], Any]] = {
    "class_stats": lambda: ops.class_stats_(ClassStats(3), torch.arange(3), torch.arange(3), loss=torch.rand(3)),
    "logit_stats": lambda: ops.logit_stats_(ClassStats(3), torch.rand(5, 3), torch.arange(5) % 3),
    "pgd_init": lambda: ops.pgd_init(torch.rand(2, 3, 4, 4), 8 / 255, seed=1),
    "pgd_step": lambda: ops.pgd_step_(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4), 0.1, 0.1),
    "logit_loss": lambda: ops.logit_loss(torch.rand(5, 3), torch.arange(5) % 3),
    "sample_targets": lambda: ops.sample_targets(torch.arange(3), torch.arange(1, 4), seed=1),
}


@pytest.mark.parametrize("op", USUAL)
def test_a_usual_call_needs_no_check_in_python(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a check in Python ran")

    module = importlib.import_module(f"fairtat.ops.{op}")
    for name in vars(module):
        if name.startswith("check_"):
            monkeypatch.setattr(module, name, never)
    USUAL[op]()
    monkeypatch.setenv("FAIRTAT_BACKEND", "cpu")
    with pytest.raises(AssertionError, match="a check in Python ran"):
        USUAL[op]()


def test_without_the_exchange_or_the_core_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signature()() == NO
    monkeypatch.setattr(backends.native, "MISSING", "not installed")
    assert signature(*LABELS)(*labels()) == NO


def test_a_core_of_other_sources_is_named_as_such(monkeypatch):
    class Core:
        def signature(self, *_):
            raise KeyError("sizes")

    monkeypatch.setattr(native, "MISSING", None)
    monkeypatch.setattr(native, "core", Core)
    with pytest.raises(ImportError, match=r"built from other sources.*'sizes'.*pip install -e"):
        signature(*LABELS)

"""sample_targets against an exact inverse of the distribution in Python's integers, and chi-square."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_calls import BACKENDS
from pairwise import pairwise
from scipy import stats as statistics
from torch import Tensor

from fairtat import backends
from fairtat.ops import sample_targets, target_table

Philox = Callable[[np.ndarray, int], np.ndarray]
IDS = (0, 1, -1, 2**32, 2**32 + 7, -(2**63), 2**63 - 1)


def units(table: Tensor) -> list[list[int]]:
    """The integer weights of each row of a table."""
    rows = [table.tolist()] if table.ndim == 1 else table.tolist()
    return [[here - before for here, before in zip(row, [0, *row[:-1]], strict=True)] for row in rows]


def target_words(philox: Philox, ids: Sequence[int], seed: int, stream: int) -> list[int]:
    counter = np.array([[0xFFFFFFFF, stream, i & 0xFFFFFFFF, (i >> 32) & 0xFFFFFFFF] for i in ids], dtype=np.uint64)
    return philox(counter, seed % 2**64)[:, 0].tolist()


def drawn_by_hand(table: Tensor, labels: Sequence[int], words: Sequence[int]) -> list[int]:
    """Walk through the classes other than the label until their weights exceed the scaled draw."""
    weights = units(table)
    targets = []
    for label, word in zip(labels, words, strict=True):
        row = weights[label if table.ndim == 2 else 0]
        others = [(c, w) for c, w in enumerate(row) if c != label]
        rest = word * sum(w for _, w in others) >> 32
        for c, w in others:
            if rest < w:
                targets.append(c)
                break
            rest -= w
    return targets


def weights(classes: int, conditional: bool, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    w = torch.rand((classes, classes) if conditional else (classes,), generator=g)
    return w * (w > 0.2) + 0.01 * torch.eye(classes)[0] + 0.01 * torch.eye(classes)[-1]


@cache  # one oracle for all backends
def drawn(philox: Philox, classes: int, conditional: bool) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Labels, table, ids, and the targets by hand."""
    n = 211
    table = target_table(weights(classes, conditional))
    label = torch.arange(n) * 7 % classes
    ids = [IDS[i % 7] + i // 7 for i in range(n - 7)] + list(IDS)
    ids = [i if -(2**63) <= i < 2**63 else i - 2**64 for i in ids]
    return label, table, torch.tensor(ids), drawn_by_hand(table, label.tolist(), target_words(philox, ids, 31, 4))


@pytest.mark.parametrize("classes", [2, 3, 10, 101, 1000])
@pytest.mark.parametrize("conditional", [False, True], ids=["one row", "row per label"])
def test_draws_invert_the_distribution_exactly(backend: str, philox: Philox, classes: int, conditional: bool) -> None:
    label, table, ids, expected = drawn(philox, classes, conditional)
    target = sample_targets(label, table, seed=31, sample_ids=ids, stream=4, backend=backend)
    assert target.tolist() == expected
    assert target.dtype == torch.int64


@pairwise("backend", backend=BACKENDS, seed=(0, 1, -1, -(2**63), 2**63, 2**64 - 1), stream=(0, 2**32 - 1))
def test_every_bit_of_seed_and_stream_counts(backend: str, philox: Philox, seed: int, stream: int) -> None:
    table, label = target_table(torch.ones(50)), torch.arange(20)
    target = sample_targets(label, table, seed=seed, stream=stream, backend=backend)
    assert target.tolist() == drawn_by_hand(table, label.tolist(), target_words(philox, range(20), seed, stream))


@pytest.mark.parametrize("conditional", [False, True], ids=["one row", "row per label"])
def test_frequencies_are_the_weights(backend: str, conditional: bool) -> None:
    n, classes = 20_000, 6
    w = torch.tensor([0.5, 3.0, 0.0, 1.0, 0.25, 2.0])
    if conditional:
        w = torch.stack([w.roll(k) for k in range(classes)])
    for label in (0, 2, 5):
        target = sample_targets(torch.full((n,), label), target_table(w), seed=label, backend=backend)
        row = (w[label] if conditional else w).double().clone()
        row[label] = 0.0
        observed = torch.bincount(target, minlength=classes)
        possible = row > 0
        assert int(observed[~possible].sum()) == 0
        expected = row / row.sum() * n
        assert statistics.chisquare(observed[possible].numpy(), expected[possible].numpy()).pvalue > 1e-4


def test_labels_and_streams_draw_independently(backend: str) -> None:
    table, label = target_table(torch.ones(5)), torch.zeros(4000, dtype=torch.int64)
    first, second = (sample_targets(label, table, seed=0, stream=s, backend=backend) for s in (0, 1))
    together = torch.bincount((first - 1) * 4 + (second - 1), minlength=16)
    assert statistics.chisquare(together.numpy()).pvalue > 1e-4


def test_a_sample_gets_the_same_target_in_any_batch(backend: str) -> None:
    table = target_table(weights(12, True))
    label, ids = torch.arange(7), torch.tensor(IDS)

    def draw(rows: Tensor) -> Tensor:
        return sample_targets(label[rows], table, seed=9, sample_ids=ids[rows], stream=2, backend=backend)

    whole, shuffled = draw(torch.arange(7)), torch.tensor([5, 2, 0, 6, 1, 4, 3])
    assert torch.equal(draw(shuffled), whole[shuffled])
    assert torch.equal(torch.cat([draw(r) for r in torch.arange(7).split([1, 4, 2])]), whole)


def test_default_ids_count_from_zero(backend: str) -> None:
    table, label = target_table(torch.ones(30)), torch.arange(9)
    given_ids = sample_targets(label, table, seed=1, sample_ids=torch.arange(9), backend=backend)
    assert torch.equal(sample_targets(label, table, seed=1, backend=backend), given_ids)


some_weights = st.lists(
    st.floats(0, 2.0**100, width=32) | st.just(0.0) | st.sampled_from([1e-45, 1e-30, 1.0]), min_size=2, max_size=12
).filter(lambda w: sum(v > 0 for v in w) >= 2)


@given(w=some_weights, seed=st.integers(-(2**63), 2**64 - 1), first=st.integers(-(2**63), 2**63 - 60))
def test_a_target_is_never_the_label_nor_without_weight(backend: str, w: list[float], seed: int, first: int) -> None:
    classes = len(w)
    label = torch.arange(48) % classes
    table = target_table(torch.tensor(w))
    target = sample_targets(label, table, seed=seed, sample_ids=torch.arange(48) + first, backend=backend)
    assert not bool((target == label).any())
    assert bool((torch.tensor(w)[target] > 0).all())


def test_two_classes_leave_no_choice(backend: str) -> None:
    label = torch.tensor([0, 1, 1, 0])
    for w in (torch.tensor([1e-45, 3e38]), torch.tensor([[0.0, 1.0], [1e-9, 7.0]])):
        assert sample_targets(label, target_table(w), seed=0, backend=backend).tolist() == [1, 0, 0, 1]


def test_the_first_and_last_draw_stay_in_range(backend: str, philox: Philox) -> None:
    # Ids whose word is among the smallest and the largest of 2**16: the ends of the distribution.
    words = target_words(philox, range(2**16), 0, 0)
    ids = [int(np.argmin(words)), int(np.argmax(words))]
    for row in ([1.0, 0.0, 2.0, 0.0, 3.0], [0.0, 1.0, 1.0, 1.0, 0.0]):
        table = target_table(torch.tensor(row))
        for label in range(5):
            pair = torch.full((2,), label)
            target = sample_targets(pair, table, seed=0, sample_ids=torch.tensor(ids), backend=backend)
            possible = [c for c, w in enumerate(row) if w > 0 and c != label]
            assert target.tolist() == [possible[0], possible[-1]]


@pytest.mark.parametrize(
    ("classes", "conditional"), [(2, True), (2, False), (3, True), (64, False), (65, True), (1000, False)]
)
def test_the_table_holds_the_rounded_weights(classes: int, conditional: bool) -> None:
    w = weights(classes, conditional)
    scale = 2 ** (31 - (classes - 1).bit_length())
    rows = [w.tolist()] if w.ndim == 1 else w.tolist()
    for label, (row, got) in enumerate(zip(rows, units(target_table(w)), strict=True)):
        if conditional:
            row[label] = 0.0
        top = Fraction(max(row))
        for weight, unit in zip(row, got, strict=True):
            # One rounding of the quotient, one to the integer.
            assert abs(unit - Fraction(weight) / top * scale) <= Fraction(1, 2) + Fraction(scale, 2**53)
        assert sum(got) <= 2**31


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_extreme_weights_keep_every_possible_class(dtype: torch.dtype) -> None:
    finfo = torch.finfo(dtype)
    got = units(target_table(torch.tensor([finfo.max, finfo.tiny, 0.0, finfo.max, 1.0], dtype=dtype)))[0]
    assert got[0] == got[3] == 2**28
    assert got[1] == 1
    assert got[2] == 0
    assert got[4] >= 1


def test_weights_need_no_scale_and_no_layout() -> None:
    w = weights(9, True)
    table = target_table(w)
    for same in (w * 1024, w.t().contiguous().t(), w.double(), w.clone().requires_grad_()):
        assert torch.equal(target_table(same), table)


def test_a_row_leaves_its_own_label_out() -> None:
    w = weights(5, True)
    assert torch.equal(target_table(w.clone().fill_diagonal_(1e30)), target_table(w.clone().fill_diagonal_(0.0)))


def test_an_empty_batch(backend: str) -> None:
    empty = torch.empty(0, dtype=torch.int64)
    target = sample_targets(empty, target_table(torch.ones(3)), seed=0, sample_ids=empty, backend=backend)
    assert target.shape == (0,)
    assert target.dtype == torch.int64


def test_any_strides_are_served(backend: str) -> None:
    table, label, ids = target_table(weights(8, True)), torch.arange(8), torch.arange(8) * 5
    expected = sample_targets(label, table, seed=0, sample_ids=ids, backend=backend)
    wide = torch.stack([label, ids], dim=1)
    strided = sample_targets(wide[:, 0], table.t().contiguous().t(), seed=0, sample_ids=wide[:, 1], backend=backend)
    assert torch.equal(strided, expected)


@pytest.mark.skipif(not backends.status()["cpu"].available, reason="needs the compiled core")
@pytest.mark.parametrize("seed", range(20))
def test_a_table_of_any_numbers_draws_some_class(seed: int) -> None:
    """No sum of the table's numbers may overflow a signed integer, nor lead outside the row."""
    g = torch.Generator().manual_seed(seed)
    extremes = torch.tensor([-(2**63), 2**63 - 1, 0, -1, 2**31])
    table = extremes[torch.randint(5, (6, 6), generator=g)]
    target = sample_targets(torch.arange(600) % 6, table, seed=seed, backend="cpu")
    assert ((target >= 0) & (target < 6)).all()


@pytest.mark.parametrize("index", [-1, 4, 2**40, -(2**63)])
def test_a_label_out_of_range_is_named(backend: str, index: int) -> None:
    for w in (torch.ones(4), torch.ones(4, 4)):
        with pytest.raises(ValueError, match=rf"label must lie in \[0, 4\), got .*{index}"):
            sample_targets(torch.tensor([0, index]), target_table(w), seed=0, backend=backend)


BAD_WEIGHTS = {
    "a list": ([1.0, 1.0], TypeError, "weight must be a tensor, got list"),
    "integers": (torch.tensor([1, 2]), TypeError, "weight must be floating point, got torch.int64"),
    "a number": (torch.tensor(1.0), ValueError, r"weight must have shape \(C,\) or \(C, C\), got \(\)"),
    "not square": (torch.ones(2, 3), ValueError, r"weight must have shape \(C,\) or \(C, C\), got \(2, 3\)"),
    "three dimensions": (torch.ones(2, 2, 2), ValueError, "weight must have shape"),
    "sparse": (torch.ones(3).to_sparse(), TypeError, "weight must be a dense tensor, got torch.sparse_coo"),
    "on meta": (torch.ones(3, device="meta"), ValueError, "weight must have values, got a tensor on the meta device"),
    "one class": (torch.ones(1), ValueError, "weight must cover at least 2 classes, got 1"),
    "no class": (torch.ones(0), ValueError, "weight must cover at least 2 classes, got 0"),
    "negative": (torch.tensor([1.0, -1e-9, 1.0]), ValueError, "weight must be finite and at least 0"),
    "nan": (torch.tensor([1.0, float("nan"), 1.0]), ValueError, "weight must be finite and at least 0"),
    "inf": (torch.tensor([1.0, float("inf")]), ValueError, "weight must be finite and at least 0"),
    "all zero": (torch.zeros(3), ValueError, "weight must leave every label a class other than itself"),
    "one positive": (torch.tensor([0.0, 1.0, 0.0]), ValueError, "weight must leave every label a class other"),
    "a row of its own label alone": (
        torch.tensor([[1.0, 0.0], [1.0, 0.0]]), ValueError, "weight must leave every label",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("weight", "error", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_bad_weights_are_named(weight: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        target_table(weight)


LABEL, TABLE = torch.tensor([0, 1]), target_table(torch.ones(3))
BAD = {
    "label a list": ({"label": [0, 1]}, TypeError, "label must be a tensor, got list"),
    "label in int32": ({"label": LABEL.int()}, TypeError, "label must be int64, got int32"),
    "label one-hot": ({"label": torch.zeros(2, 3).long()}, ValueError, r"label must have shape \(N,\), got \(2, 3\)"),
    "label a number": ({"label": torch.tensor(0)}, ValueError, r"label must have shape \(N,\), got \(\)"),
    "table of weights": ({"table": torch.ones(3)}, TypeError, "table must be int64, got float32"),
    "table not square": (
        {"table": torch.ones(2, 3).long()}, ValueError, r"table must have shape \(C,\) or \(C, C\), got",
    ),
    "table elsewhere": ({"table": TABLE.to("meta")}, ValueError, r"table must be on the device of label \(cpu\), got"),
    "table missing": ({"table": None}, TypeError, "table must be a tensor, got NoneType"),
    "seed missing": ({"seed": None}, TypeError, "seed must be an int, got NoneType"),
    "seed too large": ({"seed": 2**64}, ValueError, "seed must lie in"),
    "stream negative": ({"stream": -1}, ValueError, "stream must lie in"),
    "stream a tensor": ({"stream": torch.tensor(1)}, TypeError, "stream must be an int, got Tensor"),
    "ids for another batch": ({"sample_ids": torch.arange(3)}, ValueError, r"sample_ids must have shape \(2,\), got"),
    "ids in int32": ({"sample_ids": LABEL.int()}, TypeError, "sample_ids must be int64, got int32"),
    "backend unknown": ({"backend": "torch"}, ValueError, "backend must be 'auto' or one of .*'torch'"),
    "backend absent": ({"backend": "cuda"}, ValueError, "backend='cuda' is not available"),
    "meta tensors on the compiled core": (
        {"label": LABEL.to("meta"), "table": TABLE.to("meta"), "backend": "cpu"}, ValueError,
        "backend='cpu' (cannot run sample_targets.*meta|is not)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"label": LABEL, "table": TABLE, "seed": 0, **change}
    with pytest.raises(error, match=message):
        sample_targets(arguments.pop("label"), arguments.pop("table"), **arguments)

"""Splits: every class in proportion, nothing in two parts, the same parts for the same seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairtat.data import ImageData, hold_out, image_data, rows_per_class, stratified_split
from fairtat.data.splits import PublishedSplits, number_parts
from fairtat.errors import UserError


def data_with(counts: list[int]) -> ImageData:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    return image_data("made", torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)


@given(
    counts=st.lists(st.integers(10, 60), min_size=2, max_size=5),
    val=st.floats(0.05, 0.4),
    test=st.floats(0.05, 0.4),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_parts_are_disjoint_complete_and_proportional(counts: list[int], val: float, test: float, seed: int) -> None:
    data = data_with(counts)
    splits = stratified_split(data, val=val, test=test, seed=seed)
    parts = (splits.train, splits.val, splits.test)
    assert sorted(torch.cat([part.ids for part in parts]).tolist()) == list(range(len(data)))
    for part in parts:
        assert torch.equal(part.labels, data.labels[part.ids])
        assert torch.equal(part.ids, part.ids.sort().values)
    for label, count in enumerate(counts):
        for part, share in ((splits.val, val), (splits.test, test)):
            members = int((part.labels == label).sum())
            assert members >= 1
            assert abs(members - share * count) <= 1


def test_the_seed_decides_alone() -> None:
    data = data_with([30, 40, 50])
    first = stratified_split(data, val=0.2, test=0.2, seed=3)
    torch.manual_seed(99)
    again = stratified_split(data, val=0.2, test=0.2, seed=3)
    other = stratified_split(data, val=0.2, test=0.2, seed=4)
    assert torch.equal(first.val.ids, again.val.ids)
    assert torch.equal(first.test.ids, again.test.ids)
    assert not torch.equal(first.test.ids, other.test.ids)


def test_class_names_and_scale_survive() -> None:
    data = image_data("made", torch.zeros(20, 1, 2, 2, dtype=torch.uint8), torch.arange(20) % 2, class_names=("a", "b"))
    part = stratified_split(data, val=0.2, test=0.2).val
    assert (part.class_names, part.white, part.name) == (("a", "b"), 255, "made")


@pytest.mark.parametrize(
    ("counts", "val", "test", "message"),
    [
        ([10, 2], 0.1, 0.1, r"made: class 1 \('1'\) has 2 samples; expected at least 3"),
        ([10, 0, 10], 0.1, 0.1, r"class 1 \('1'\) has 0 samples"),
        ([10, 4], 0.4, 0.5, r"class 1 .* leave none to train on"),
        ([10, 10], 0.0, 0.5, r"val=0 and test=0.5: expected both above 0 and a sum below 1"),
        ([10, 10], 0.5, 0.5, r"val=0.5 and test=0.5"),
    ],
)
def test_impossible_splits(counts: list[int], val: float, test: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        stratified_split(data_with(counts), val=val, test=test)


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_hold_out_takes_a_share_of_each_class(share: float) -> None:
    data = data_with([500, 50, 5])
    train, val = hold_out(data, val=share, seed=4)
    assert sorted(torch.cat([train.ids, val.ids]).tolist()) == list(range(555))
    assert torch.bincount(val.labels).tolist() == [max(1, round(share * count)) for count in (500, 50, 5)]
    assert torch.equal(val.ids, hold_out(data, val=share, seed=4)[1].ids)
    assert not torch.equal(val.ids, hold_out(data, val=share, seed=5)[1].ids)


@pytest.mark.parametrize(
    ("counts", "val", "message"),
    [
        ([10, 1], 0.1, r"made: class 1 \('1'\) has 1 samples; expected at least 2, one each to train and validate"),
        ([10, 2], 0.8, r"class 1 .* of which val=0.8 leave none to train on"),
        ([10, 10], 1.0, r"data share val=1: expected a share above 0 and below 1"),
    ],
)
def test_impossible_shares(counts: list[int], val: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        hold_out(data_with(counts), val=val)


@pytest.mark.parametrize("count", [1, 3, 7, 50])
def test_some_rows_of_each_class_are_spread_evenly_over_it(count: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(count).permutation(np.repeat([0, 2, 5], [20, 4, 9])))
    rows = rows_per_class(labels, count)
    assert rows.tolist() == sorted(set(rows.tolist()))
    for label, size in ((0, 20), (2, 4), (5, 9)):
        of_class = [row for row in range(33) if labels[row] == label]
        places = [of_class.index(row) for row in rows.tolist() if labels[row] == label]
        assert len(places) == min(count, size)
        assert places[0] == 0
        gaps = {b - a for a, b in pairwise([*places, size])}
        assert max(gaps) - min(gaps) <= 1


def test_ids_run_on_from_part_to_part() -> None:
    first, second, third = data_with([3, 2]), data_with([4, 1]), data_with([2, 2])
    numbered = number_parts(PublishedSplits(first, second, third))
    assert [part.ids.tolist() for part in numbered] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13]]
    without_val = number_parts(PublishedSplits(first, None, third))
    assert without_val.val is None
    assert without_val.test.ids.tolist() == [5, 6, 7, 8]

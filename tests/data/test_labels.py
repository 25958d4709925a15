"""Labels as people store them, and names that come from strangers."""

from __future__ import annotations

import logging
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairtat.data.labels import clean_class_names, name_classes, read_labels
from fairtat.errors import UserError

PLAIN = [0, 2, 1, 2]


@pytest.mark.parametrize(
    "labels",
    [
        PLAIN,
        np.array(PLAIN, np.uint16),
        np.array(PLAIN, ">i4"),
        np.array(PLAIN, np.float16),
        np.array(PLAIN, ">f8").reshape(4, 1),
        np.array(PLAIN).reshape(4, 1),
        torch.tensor(PLAIN, dtype=torch.int32),
        torch.tensor(PLAIN, dtype=torch.bfloat16).reshape(4, 1),
    ],
)
def test_whole_numbers_of_any_kind(labels: object) -> None:
    read, names = read_labels("x", labels)
    assert (read.dtype, read.tolist(), names) == (torch.int64, PLAIN, None)


def test_bools() -> None:
    assert read_labels("x", np.array([True, False]))[0].tolist() == [1, 0]
    assert read_labels("x", torch.tensor([[True], [False]]))[0].tolist() == [1, 0]


@pytest.mark.parametrize("dtype", ["U9", "S9", object])
def test_text_becomes_class_names(dtype: object) -> None:
    labels = np.array(["dog", "cat", "m\xfcll", "cat"])
    stored = np.char.encode(labels, "utf-8") if dtype == "S9" else labels.astype(dtype)
    read, names = read_labels("x", stored.reshape(4, 1))
    assert (read.tolist(), names) == ([1, 0, 2, 0], ("cat", "dog", "m\xfcll"))


def test_text_of_numbers_is_in_the_order_of_the_numbers() -> None:
    read, names = read_labels("x", ["10", "9", "0", "9"])
    assert (read.tolist(), names) == ([2, 1, 0, 1], ("0", "9", "10"))


def test_text_is_looked_up_in_the_class_names() -> None:
    read, names = read_labels("x", ["b", "a"], class_names=("c", "b", "a"))
    assert (read.tolist(), names) == ([1, 2], ("c", "b", "a"))
    with pytest.raises(UserError, match=r"^x: labels hold 'd', which is not among the 3 class names"):
        read_labels("x", ["b", "d"], class_names=("c", "b", "a"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 0.5], r"labels hold 0.5 \(sample 1\); expected whole numbers, or text"),
        ([0.0, float("nan")], r"labels hold nan \(sample 1\)"),
        ([0.0, float("-inf")], r"labels hold -inf \(sample 1\)"),
        ([0.0, 1e300], r"labels hold 1e\+300 \(sample 1\)"),
        ([[0, 1], [1, 0]], r"labels have shape \(2, 2\); expected \(N,\)"),
        ([0, None], r"labels have dtype object"),
        ([0j, 1j], r"labels have dtype complex128; expected whole numbers, or text"),
    ],
)
def test_what_is_no_label(labels: list[object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_labels("x", labels)


def test_labels_from_1_get_a_hint(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"labels lie in \[1, 3\]; expected 0 to 2 .*; do the labels start at 1\?"):
        name_classes("x", torch.tensor([1, 2, 3]), ("a", "b", "c"))
    with caplog.at_level(logging.WARNING, logger="fairtat"):
        assert name_classes("x", torch.tensor([0, 2, 3]), None) == ("0", "1", "2", "3")
        assert caplog.messages == []
        name_classes("x", torch.tensor([1, 2, 3]), None)
    assert caplog.messages == [
        "notice: x: labels lie in [1, 3], so class 0 has no images; do the labels start at 1? Then subtract 1 from each"
    ]


def test_a_label_that_is_a_mistake_makes_no_billion_classes() -> None:
    with pytest.raises(
        UserError, match=r"labels reach 1000000000; expected class numbers below 100000, or class_names"
    ):
        name_classes("x", torch.tensor([0, 10**9]), None)


@pytest.mark.parametrize(
    ("names", "clean"),
    [
        (("cat", "dog"), ("cat", "dog")),
        (("\x1b[31mcat\x1b[0m", "do\x07g\x7f", "\x9bbee"), ("[31mcat[0m", "dog", "bee")),
        (("a\nb", "a\r\nc", "a\u2028d"), ("a b", "a c", "a d")),
        (("\u202ecat", "\u2066dog\u2069", "\ufeffbee"), ("cat", "dog", "bee")),
        (("caf\udce9", "x"), ("caf", "x")),
        (("\x1b", " \n", "c"), ("0", "1", "c")),
        (("cat", "cat\x1b", "dog"), ("cat (0)", "cat (1)", "dog")),
        (("cat", "cat", "cat (1)"), ("cat (0)", "cat (1) (1)", "cat (1) (2)")),
        (("1", ""), ("1 (0)", "1 (1)")),
        (("\U0001f468\u200d\U0001f469", "\u732b"), ("\U0001f468\u200d\U0001f469", "\u732b")),
    ],
)
def test_clean_names(names: tuple[str, ...], clean: tuple[str, ...]) -> None:
    assert clean_class_names(names) == clean
    assert clean_class_names(clean) == clean


@given(st.lists(st.text(st.sampled_from("ab01 ()\x00\x1b\n\u202e\udc80"), max_size=6), min_size=1, max_size=12))
def test_clean_names_are_safe_and_distinct(names: list[str]) -> None:
    clean = clean_class_names(names)
    assert len(set(clean)) == len(clean) == len(names)
    assert all(name and name == name.strip() for name in clean)
    assert {unicodedata.category(letter) for name in clean for letter in name} & {"Cc", "Cf", "Cs", "Zl", "Zp"} == set()

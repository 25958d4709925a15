from __future__ import annotations

import contextlib

import pytest
import torch
from harness.equality import Mismatch, close_to, equal_to, in_ball


def test_equal_to_wants_the_last_bit() -> None:
    expected = {"a": torch.tensor([0.5, 1.0])}
    assert equal_to(expected)("x", {"a": torch.tensor([0.5, 1.0])}) == {}
    with pytest.raises(Mismatch, match="1 of 2 elements of a"):
        equal_to(expected)("x", {"a": torch.nextafter(expected["a"], torch.tensor([0.5, 2.0]))})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.0 + 2e-3])
def test_close_to_refuses_what_is_off_or_not_finite(bad: float) -> None:
    verify = close_to({"a": torch.tensor([1.0, 100.0])}, {"a": 1e-3})
    assert verify("x", {"a": torch.tensor([1.0, 100.05])})["error_a"] == pytest.approx(5e-4, rel=0.02)
    with pytest.raises(Mismatch, match="a is off by"):
        verify("x", {"a": torch.tensor([bad, 100.0])})


def test_what_has_no_tolerance_must_be_equal() -> None:
    verify = close_to({"pred": torch.tensor([1, 2])}, {"loss": 0.1})
    assert verify("x", {"pred": torch.tensor([1, 2])}) == {}
    with pytest.raises(Mismatch, match="1 of 2 elements of pred differ"):
        verify("x", {"pred": torch.tensor([1, 3])})


def test_no_result_or_one_of_another_shape_is_a_mismatch() -> None:
    verify = equal_to({"a": torch.zeros(2)})
    with pytest.raises(Mismatch, match="no result"):
        verify("x", {})
    with pytest.raises(Mismatch, match=r"shape \(1,\), expected \(2,\)"):
        verify("x", {"a": torch.zeros(1)})


@pytest.mark.parametrize(("norm", "inside", "outside"), [("linf", 0.29, 0.31), ("l2", 0.149, 0.151)])
def test_who_leaves_the_ball_is_told(norm: str, inside: float, outside: float) -> None:
    x = torch.full((3, 1, 2, 2), 0.5)
    for offset, left in ((inside, False), (outside, True)):
        moved = x.clone()
        moved[1] += offset  # length 2 * offset in L2
        with pytest.raises(Mismatch, match="leaves the ball") if left else contextlib.nullcontext():
            in_ball(moved, x, 0.3, norm)

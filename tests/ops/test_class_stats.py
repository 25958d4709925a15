"""class_stats_ against loops over samples with Python's exact integers, and torchmetrics for the confusion matrix."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from op_calls import BACKENDS, Stats
from op_calls import empty_stats as empty
from pairwise import pairwise
from refused import Row, bad_backends
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fairtat import backends
from fairtat.ops import class_stats_
from fairtat.reference.class_stats import (
    CONFUSION,
    HEADER,
    LOSS,
    NONFINITE,
    REACHED,
    SATURATED,
    TARGET_FN,
    TARGET_FP,
)

INF, NAN = float("inf"), float("nan")
LARGEST = 2147483520  # the largest float32 below 2**31


def by_hand(
    classes: int, pred: list[int], label: list[int], loss: list[float] | None = None, target: list[int] | None = None
) -> list[list[int]]:
    """The buffer's rows, one sample after another. Fraction rounds half to even, as the fixed point does."""
    rows = [[0] * classes for _ in range(HEADER + classes)]
    pairs = [[0, 0] for _ in range(classes)]
    for i, (p, k) in enumerate(zip(pred, label, strict=True)):
        if loss is not None:
            if not math.isfinite(loss[i]):
                rows[NONFINITE][k] += 1
                continue
            value = Fraction(loss[i])
            if abs(value) > LARGEST:
                rows[SATURATED][k] += 1
                value = Fraction(LARGEST if value > 0 else -LARGEST)
            pairs[k][0] += math.trunc(value)
            pairs[k][1] += round((value - math.trunc(value)) * 2**32)
        rows[CONFUSION + k][p] += 1
        if target is not None:
            if p == target[i]:
                rows[REACHED][k] += 1
            else:
                rows[TARGET_FP][p] += 1
                rows[TARGET_FN][k] += 1
    flat = [word for pair in pairs for word in pair]
    rows[LOSS], rows[LOSS + 1] = flat[:classes], flat[classes:]
    return rows


def sums(buffer: Tensor) -> list[Fraction]:
    """The loss sum of each class, exactly."""
    return [whole + Fraction(fraction, 2**32) for whole, fraction in buffer[LOSS : LOSS + 2].view(-1, 2).tolist()]


def batch(n: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    pred, label, target = (torch.randint(classes, (n,), generator=g) for _ in range(3))
    return pred, label, torch.randn(n, generator=g) * 20, target


def count(
    backend: str, classes: int, pred: Tensor, label: Tensor, *more: Tensor | None, into: Stats | None = None
) -> Tensor:
    """The buffer, with losses and targets where ``more`` has them."""
    stats, given = into or empty(classes), dict(zip(("loss", "target"), more, strict=False))
    assert class_stats_(stats, pred, label, **given, backend=backend) is stats
    return stats.buffer


@pairwise(classes=(1, 2, 7, 10, 101), n=(0, 1, 3, 257), with_loss=(True, False), with_target=(True, False))
def test_counts_are_those_of_a_loop(backend: str, n: int, classes: int, with_loss: bool, with_target: bool) -> None:
    pred, label, loss, target = batch(n, classes)
    got = count(backend, classes, pred, label, loss if with_loss else None, target if with_target else None)
    expected = by_hand(
        classes,
        pred.tolist(),
        label.tolist(),
        loss.tolist() if with_loss else None,
        target.tolist() if with_target else None,
    )
    assert got.tolist() == expected


def test_the_confusion_matrix_is_torchmetrics(backend: str) -> None:
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    pred, label, _, _ = batch(500, 9)
    got = count(backend, 9, pred, label)[CONFUSION:]
    assert torch.equal(got, multiclass_confusion_matrix(pred, label, num_classes=9))


def test_classes_that_do_not_occur_stay_zero(backend: str) -> None:
    got = count(backend, 6, torch.tensor([2, 4]), torch.tensor([4, 4]), torch.ones(2), torch.tensor([2, 2]))
    assert got.tolist() == by_hand(6, [2, 4], [4, 4], [1.0, 1.0], [2, 2])
    assert got[:, [0, 1, 3, 5]].count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_losses_of_any_dtype_are_added_exactly(backend: str, dtype: torch.dtype) -> None:
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("float64 is served by the reference")
    largest = torch.finfo(dtype).max
    below = torch.nextafter(torch.tensor(2.0**31, dtype=dtype), torch.tensor(0.0, dtype=dtype)).item()
    values = [0.0, -0.0, 1.0, -1.5, 1e-3, NAN, -NAN, INF, -INF, largest, -largest, 2.0**31, -(2.0**31), below, 1e-7]
    # Halves of the last place go to the even neighbour, on both sides of zero.
    values += [sign * k * 2.0**-33 for k in (1, 3, 5, 1023) for sign in (1, -1)]
    values += [torch.finfo(dtype).tiny / 2, 40.0, 65504.0, -65504.0]
    loss = torch.tensor(values, dtype=torch.float64).to(dtype)
    # A class for each value, so that none hides behind another.
    label = torch.arange(len(values))
    got = count(backend, len(values), label, label, loss)
    assert got.tolist() == by_hand(len(values), label.tolist(), label.tolist(), loss.double().tolist())


def test_the_loss_of_a_class_is_a_sum_of_its_samples_only(backend: str) -> None:
    loss = torch.tensor([0.25, NAN, 2.0, -1.0, INF])
    got = count(backend, 3, torch.tensor([2, 2, 2, 2, 2]), torch.tensor([0, 0, 1, 1, 1]), loss)
    assert sums(got) == [0.25, 1.0, 0.0]
    assert got[NONFINITE].tolist() == [1, 1, 0]
    assert got[CONFUSION:].sum(1).tolist() == [1, 2, 0]


@pytest.mark.parametrize("classes", [3, 40])  # on either side of what the compiled core counts in copies
@pytest.mark.parametrize("n", [5, 1037])
def test_a_sample_without_a_finite_loss_counts_nowhere_else(backend: str, classes: int, n: int) -> None:
    pred, label, loss, target = batch(n, classes)
    spoiled = torch.arange(n) % 5 == 3
    loss[spoiled] = torch.tensor([NAN, INF, -INF]).repeat(n)[: int(spoiled.sum())]
    got = count(backend, classes, pred, label, loss, target)
    rest = count(backend, classes, pred[~spoiled], label[~spoiled], loss[~spoiled], target[~spoiled])
    assert got[NONFINITE].tolist() == torch.bincount(label[spoiled], minlength=classes).tolist()
    got[NONFINITE] = 0
    assert torch.equal(got, rest)


@pytest.mark.parametrize("classes", [2, 40])
@pytest.mark.parametrize("value", [1e5, -1e5, 2147483520.0, -2147483520.0, 1e9 + 0.5])
def test_sums_of_large_losses_do_not_wrap(backend: str, classes: int, value: float) -> None:
    loss = torch.full((30_000,), value)
    label = torch.ones(30_000, dtype=torch.int64)
    got = count(backend, classes, label, label, loss)
    assert sums(got)[:2] == [0, 30_000 * Fraction(loss[0].item())]
    assert got[[NONFINITE, SATURATED]].count_nonzero() == 0


def test_a_loss_beyond_the_fixed_point_is_cut_and_counted(backend: str) -> None:
    loss = torch.tensor([1.5, 3e9, 2.0**31, 3e38, -3e38, 2.25])
    got = count(backend, 2, torch.zeros(6, dtype=torch.int64), torch.tensor([0, 0, 0, 0, 1, 1]), loss)
    assert got[SATURATED].tolist() == [3, 1]
    assert sums(got) == [1.5 + 3 * LARGEST, 2.25 - LARGEST]
    assert got[CONFUSION:].sum(1).tolist() == [4, 2]


samples = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 4),
        st.floats(-1e6, 1e6, width=32) | st.sampled_from([NAN, INF, 3e9]),
        st.integers(0, 4),
    ),
    max_size=30,
)


@given(samples=samples, order=st.randoms(use_true_random=False), cut=st.integers(0, 30))
def test_order_and_batch_split_change_no_integer(backend: str, samples: list[Any], order: Any, cut: int) -> None:
    shuffled = list(samples)
    order.shuffle(shuffled)

    def columns(rows: list[Any]) -> tuple[Tensor, ...]:
        pred, label, loss, target = zip(*rows, strict=True) if rows else ((), (), (), ())
        integers = [torch.tensor(c, dtype=torch.int64) for c in (pred, label, target)]
        return integers[0], integers[1], torch.tensor(loss, dtype=torch.float32), integers[2]

    whole = count(backend, 5, *columns(samples))
    pieces = empty(5)
    for rows in (shuffled[:cut], shuffled[cut:]):
        count(backend, 5, *columns(rows), into=pieces)
    assert torch.equal(pieces.buffer, whole)
    ranks = [count(backend, 5, *columns(samples[i::3])) for i in range(3)]
    assert torch.equal(sum(ranks, torch.zeros_like(whole)), whole)


@pairwise(
    "backend", backend=BACKENDS, argument=("label", "pred", "target"), index=(-1, 4, 2**40, -(2**63)), position=(0, 17)
)
def test_a_bad_index_is_named_and_nothing_is_counted(backend: str, argument: str, index: int, position: int) -> None:
    pred, label, loss, target = batch(18, 4)
    stats = Stats(torch.arange(44).view(11, 4).clone())
    arguments = {"pred": pred, "label": label, "target": target}
    arguments[argument][position] = index
    with pytest.raises(ValueError, match=rf"{argument} must lie in \[0, 4\), got .*{index}"):
        class_stats_(stats, loss=loss, **arguments, backend=backend)
    assert torch.equal(stats.buffer, torch.arange(44).view(11, 4))


def test_any_strides_of_the_batch_are_served(backend: str) -> None:
    pred, label, loss, target = batch(20, 6)
    wide = torch.stack([pred, label, target], dim=1)
    strided_loss = torch.stack([loss, loss + 1], dim=1)[:, 0].requires_grad_()
    got = count(backend, 6, wide[:, 0], wide[:, 1], strided_loss, wide[:, 2])
    assert torch.equal(got, count(backend, 6, pred, label, loss, target))
    one_for_all = count(backend, 6, pred, label, torch.tensor(2.0).expand(20), torch.tensor(3).expand(20))
    assert torch.equal(one_for_all, count(backend, 6, pred, label, torch.full((20,), 2.0), torch.full((20,), 3)))


# Of the buffer's 44 elements: its beginning, middle and last ones.
@pairwise("backend", backend=BACKENDS, argument=("pred", "label", "target", "loss"), first=(0, 16, 41))
def test_input_in_the_memory_of_the_buffer_is_refused(backend: str, argument: str, first: int) -> None:
    """The op would read what it has just written: here it would have counted 1 as a class."""
    memory = torch.zeros(60, dtype=torch.int64)
    stats = Stats(memory[:44].view(11, 4))
    arguments = {"pred": torch.zeros(3).long(), "label": torch.ones(3).long()}
    arguments[argument] = (
        memory[first : first + 3] if argument != "loss" else memory.view(torch.float32)[2 * first :][:3]
    )
    with pytest.raises(ValueError, match=f"^{argument} must not share memory with stats.buffer"):
        class_stats_(stats, **arguments, backend=backend)
    assert memory.count_nonzero() == 0


def test_neighbors_of_the_buffer_are_no_part_of_it(backend: str) -> None:
    memory = torch.zeros(60, dtype=torch.int64)
    stats = Stats(memory[3:47].view(11, 4))
    loss = memory.view(torch.float32)[100:103]
    class_stats_(stats, memory[:3], memory[47:50], loss=loss, target=memory[57:], backend=backend)
    assert stats.buffer[CONFUSION, 0] == stats.buffer[REACHED, 0] == 3
    strided = stats.buffer[:3, 3]  # copied before anything is written
    class_stats_(stats, memory[:3], strided, backend=backend)
    assert stats.buffer[CONFUSION, 0] == 6


@pytest.mark.skipif(not backends.status()["cpu"].available, reason="needs the compiled core")
def test_the_compiled_core_allocates_nothing() -> None:
    pred, label, loss, target = batch(64, 100)
    stats = empty(100)
    address = stats.buffer.data_ptr()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(5):
            class_stats_(stats, pred, label, loss=loss, target=target, backend="cpu")
    allocated = [event for event in profiler.events() if event.cpu_memory_usage != 0]
    assert not allocated
    assert stats.buffer.data_ptr() == address


BUFFER, INDEX = torch.zeros(10, 3, dtype=torch.int64), torch.tensor([0, 1])
BAD: dict[str, Row] = {
    "buffer in int32": ({"stats": Stats(BUFFER.int())}, TypeError, "stats.buffer must be int64, got int32"),
    "buffer of another shape": (
        {"stats": Stats(BUFFER[:-1])}, ValueError,
        r"stats.buffer must be contiguous of shape \(7 \+ C, C\), got \(9, 3\)",
    ),
    "buffer strided": (
        {"stats": Stats(torch.zeros(10, 6, dtype=torch.int64)[:, ::2])}, ValueError, "stats.buffer must be contiguous",
    ),
    "buffer flat": ({"stats": Stats(BUFFER.view(-1))}, ValueError, "stats.buffer must be contiguous of shape"),
    "buffer no tensor": ({"stats": Stats([[0]])}, TypeError, "stats.buffer must be a tensor, got list"),
    "pred logits": ({"pred": torch.zeros(2, 3)}, TypeError, "pred must be int64, got float32"),
    "pred for another batch": ({"pred": torch.arange(3)}, ValueError, r"pred must have shape \(2,\), got \(3,\)"),
    "pred elsewhere": (
        {"pred": INDEX.to("meta")}, ValueError, r"pred must be on the device of stats.buffer \(cpu\), got",
    ),
    "pred a list": ({"pred": [0, 1]}, TypeError, "pred must be a tensor, got list"),
    "label in int32": ({"label": INDEX.int()}, TypeError, "label must be int64, got int32"),
    "label a number": ({"label": torch.tensor(1)}, ValueError, r"label must have shape .* got \(\)"),
    "label one-hot": ({"label": torch.zeros(2, 3).long()}, ValueError, r"label must have shape \(2,\), got \(2, 3\)"),
    "label elsewhere": ({"label": INDEX.to("meta")}, ValueError, "label must be on the device of stats.buffer"),
    "label missing": ({"label": None}, TypeError, "label must be a tensor, got NoneType"),
    "target for another batch": ({"target": torch.arange(3)}, ValueError, r"target must have shape \(2,\), got \(3,\)"),
    "target of floats": ({"target": torch.zeros(2)}, TypeError, "target must be int64, got float32"),
    "loss reduced": ({"loss": torch.tensor(1.0)}, ValueError, r"loss must have shape \(2,\), got \(\)"),
    "loss of integers": ({"loss": INDEX}, TypeError, "loss must be floating point, got torch.int64"),
    "loss elsewhere": (
        {"loss": torch.zeros(2, device="meta")}, ValueError, "loss must be on the device of stats.buffer",
    ),
    "loss a number": ({"loss": 1.0}, TypeError, "loss must be a tensor, got float"),
    "backend absent": ({"backend": "triton"}, ValueError, "backend='triton' is not available"),
    **bad_backends("class_stats", loss=torch.zeros(2).double()),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        class_stats_(**{"stats": Stats(BUFFER), "pred": INDEX, "label": INDEX, **change})

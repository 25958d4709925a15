from __future__ import annotations

import copy
import io
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from fairtat import ClassStats

INTEGERS = ("count", "correct", "false_positive", "false_negative", "reached", "nonfinite")
TARGET_INTEGERS = ("target_count", "target_false_positive", "target_false_negative")


def random_batch(num_classes: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Imbalanced labels: low classes are common, the last is absent (if there are more than two)."""
    generator = torch.Generator().manual_seed(seed)
    present = max(2, num_classes - 1)
    label = (torch.rand(n, generator=generator) ** 3 * present).long()
    logits = torch.randn(n, num_classes, generator=generator) * 3
    target = (label + torch.randint(1, num_classes, (n,), generator=generator)) % num_classes
    return logits, label, target


def loop_counts(logits: Tensor, label: Tensor, target: Tensor) -> dict[str, list[int]]:
    """The definition, one sample at a time."""
    names = (*INTEGERS, *TARGET_INTEGERS)
    counts = {name: [0] * logits.shape[1] for name in names}
    for row, y, t in zip(logits.tolist(), label.tolist(), target.tolist(), strict=True):
        pred = row.index(max(row))
        counts["count"][y] += 1
        counts["target_count"][y] += 1
        if pred == y:
            counts["correct"][y] += 1
        else:
            counts["false_positive"][pred] += 1
            counts["false_negative"][y] += 1
        if pred == t:
            counts["reached"][y] += 1
        else:
            counts["target_false_positive"][pred] += 1
            counts["target_false_negative"][y] += 1
    return counts


def loop_losses(logits: Tensor, label: Tensor) -> list[float]:
    sums = [0.0] * logits.shape[1]
    for row, y in zip(logits.double().tolist(), label.tolist(), strict=True):
        sums[y] += math.log(sum(math.exp(z) for z in row)) - row[y]
    return sums


@pytest.mark.parametrize(("num_classes", "n"), [(2, 1), (2, 33), (5, 0), (5, 127), (11, 501)])
def test_counts_and_losses_are_those_of_a_loop_over_samples(num_classes: int, n: int) -> None:
    logits, label, target = random_batch(num_classes, n)
    stats = ClassStats(num_classes).update(logits, label, target)

    for name, expected in loop_counts(logits, label, target).items():
        value = getattr(stats, name)
        assert value.dtype == torch.int64
        assert value.tolist() == expected, name
    assert stats.loss_sum.dtype == torch.float64
    assert stats.loss_sum.tolist() == pytest.approx(loop_losses(logits, label), rel=1e-5, abs=1e-6)


def test_confusion_is_that_of_torchmetrics() -> None:
    logits, label, _ = random_batch(7, 301)
    stats = ClassStats(7).update(logits, label)
    assert torch.equal(stats.confusion, multiclass_confusion_matrix(logits, label, num_classes=7))


def test_without_targets_the_target_relative_counts_stay_zero() -> None:
    logits, label, target = random_batch(5, 64)
    stats = ClassStats(5).update(logits, label)
    assert stats.target_count.sum() == 0
    assert stats.target_false_positive.sum() == 0
    assert stats.target_rob.isnan().all()
    stats.update(logits[:10], label[:10], target[:10])
    assert stats.target_count.sum() == 10
    assert stats.count.sum() == 74


def test_any_order_and_split_gives_the_same_integers() -> None:
    logits, label, target = random_batch(6, 257)
    whole = ClassStats(6).update(logits, label, target)
    shuffled = ClassStats(6)
    order = torch.randperm(257, generator=torch.Generator().manual_seed(1))
    for part in order.split([1, 100, 3, 153]):
        shuffled.update(logits[part], label[part], target[part])
    assert torch.equal(whole.buffer, shuffled.buffer)


def test_scores_of_imbalanced_data(counted: Any) -> None:
    # Class 0: 8 samples, 6 right; class 1: 2 samples, 1 right, 1 as 2; class 2: 1 sample, taken for 0.
    stats = counted(3, [0] * 8 + [1] * 2 + [2], [0] * 6 + [1, 1] + [1, 2] + [0])
    assert stats.accuracy.tolist() == [0.75, 0.5, 0.0]  # tp/n; tp*C/N would give 18/11 for class 0
    assert stats.accuracy.dtype == torch.float64
    assert stats.cfps.tolist() == [0.25, 0.5, 0.25]
    assert stats.cfns.tolist() == [0.5, 0.25, 0.25]
    assert float(stats.mean_accuracy) == pytest.approx(1.25 / 3)
    assert float(stats.overall_accuracy) == pytest.approx(7 / 11)
    assert stats.worst() == (2, 0.0)


def test_target_relative_scores(counted: Any) -> None:
    # The model goes where the attack wants it for the first and the fourth sample only.
    stats = counted(3, label=[0, 0, 0, 1], pred=[1, 2, 0, 2], target=[1, 1, 2, 2])
    assert stats.target_rob.tolist() == pytest.approx([1 / 3, 1.0, math.nan], nan_ok=True)
    assert stats.target_cfps.tolist() == [0.5, 0.0, 0.5]  # misses landed on 2 and on 0
    assert stats.target_cfns.tolist() == [1.0, 0.0, 0.0]  # both misses were samples of class 0


def test_absent_classes_are_nan_and_never_the_worst(counted: Any) -> None:
    stats = counted(4, label=[1, 1, 3], pred=[1, 2, 3])
    assert stats.accuracy.isnan().tolist() == [True, False, True, False]
    assert stats.loss_mean.isnan().tolist() == [True, False, True, False]
    assert stats.worst() == (1, 0.5)
    assert float(stats.mean_accuracy) == 0.75
    assert stats.cfps.tolist() == [0.0, 0.0, 1.0, 0.0]  # an absent class can still attract errors


def test_worst_of_equals_is_the_first_and_of_nothing_is_an_error(counted: Any) -> None:
    assert counted(3, label=[0, 1, 2], pred=[0, 0, 0]).worst() == (1, 0.0)
    with pytest.raises(ValueError, match="at least one sample"):
        ClassStats(3).worst()


def test_no_errors_means_no_shares(counted: Any) -> None:
    stats = counted(3, label=[0, 1, 2, 2], pred=[0, 1, 2, 2], target=[0, 1, 2, 2])
    for share in (stats.cfps, stats.cfns, stats.target_cfps, stats.target_cfns):
        assert share.tolist() == [0.0, 0.0, 0.0]


def test_losses_that_are_not_finite_are_counted_apart() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [torch.nan, 0.0, 0.0], [0.0, torch.inf, 0.0], [0.0, 0.0, 1.0]])
    label = torch.tensor([0, 0, 1, 2])
    stats = ClassStats(3).update(logits, label, torch.tensor([1, 2, 0, 1]))
    assert stats.count.tolist() == [2, 1, 1]
    assert stats.nonfinite.tolist() == [1, 1, 0]
    clean = ClassStats(3).update(logits[[0, 3]], label[[0, 3]])
    assert torch.equal(stats.loss_sum, clean.loss_sum)
    assert stats.loss_mean[0] == clean.loss_mean[0]
    assert stats.loss_mean[1].isnan()


NO_SOFTMAX = {
    "a NaN": [math.nan, 0.0, 0.0, 0.0],
    "all NaN": [math.nan] * 4,
    "+inf": [0.0, 0.0, math.inf, 0.0],
    "all -inf": [-math.inf] * 4,
    "+inf and -inf": [math.inf, -math.inf, math.inf, 0.0],
}


@pytest.mark.parametrize("row", NO_SOFTMAX.values(), ids=NO_SOFTMAX)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("target", [None, 0, 3])
def test_a_row_that_is_not_finite_is_no_prediction(
    row: list[float], dtype: torch.dtype, label: int, target: int | None
) -> None:
    logits = torch.tensor([row, [0.0, 3.0, 0.0, 0.0]], dtype=dtype)
    y = torch.tensor([label, 1])
    stats = ClassStats(4).update(logits, y, None if target is None else torch.tensor([target, 2]))
    assert stats.nonfinite.tolist() == [int(k == label) for k in range(4)]
    assert stats.count.tolist() == [int(k in (label, 1)) for k in range(4)]
    assert stats.accuracy[[label, 1]].tolist() == [0.0, 1.0]
    assert (int(stats.confusion.sum()), int(stats.confusion[1, 1])) == (1, 1)
    assert int(stats.false_positive.sum()) == int(stats.false_negative.sum()) == 0
    assert int(stats.reached.sum()) == 0
    assert int(stats.target_count.sum()) == (target is not None)
    assert stats.worst() == (label, 0.0)
    assert float(stats.overall_accuracy) == 0.5


def test_a_class_that_is_masked_with_minus_infinity_is_an_ordinary_row() -> None:
    stats = ClassStats(3).update(torch.tensor([[-torch.inf, 1.0, 0.0]]), torch.tensor([2]))
    assert stats.confusion[2].tolist() == [0, 1, 0]
    assert float(stats.loss_sum[2]) == pytest.approx(math.log1p(math.e))
    assert stats.nonfinite.sum() == 0


def test_the_mean_of_many_large_losses_is_right() -> None:
    stats = ClassStats(2)
    logits, label = torch.tensor([[0.0, 1e5]]).expand(30_000, 2), torch.zeros(30_000, dtype=torch.int64)
    for _ in range(3):
        stats.update(logits, label)
    assert stats.loss_mean[0] == 1e5
    assert stats.loss_sum[0] == 9e9
    assert stats.saturated.tolist() == [0, 0]


def test_a_loss_that_is_cut_is_counted_and_bounds_the_mean() -> None:
    logits = torch.tensor([[0.0, 3e9], [0.0, 1.0]])
    stats = ClassStats(2).update(logits, torch.tensor([0, 0]))
    assert stats.saturated.tolist() == [1, 0]
    assert 2.0**31 / 2 - 128 < float(stats.loss_mean[0]) < 3e9 / 2
    other = ClassStats(2).update(logits[[0]], torch.tensor([0]))
    other += stats
    assert other.saturated.tolist() == [2, 0]


def test_sums_of_more_samples_than_the_words_are_exact_for_are_nan() -> None:
    stats = ClassStats(2).update(torch.eye(2), torch.tensor([0, 1]))
    stats.confusion[0, 1] = 2**31 - 2
    assert not stats.loss_sum.isnan().any()
    stats.nonfinite[0] = 1
    assert stats.loss_sum.isnan().tolist() == stats.loss_mean.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_other_dtypes(dtype: torch.dtype) -> None:
    logits, label, target = random_batch(5, 65)
    logits = logits.to(dtype)
    stats = ClassStats(5).update(logits, label, target)
    assert {name: getattr(stats, name).tolist() for name in INTEGERS} == {
        name: values for name, values in loop_counts(logits, label, target).items() if name in INTEGERS
    }
    assert stats.loss_sum.tolist() == pytest.approx(loop_losses(logits, label), rel=1e-5, abs=1e-6)


def test_update_keeps_no_graph_and_leaves_the_logits_usable() -> None:
    weight = torch.ones(4, 3, requires_grad=True)
    logits = torch.randn(5, 4) @ weight
    freed = weakref.ref(logits)
    stats = ClassStats(3).update(logits, torch.tensor([0, 1, 2, 0, 1]))
    logits.sum().backward()
    assert weight.grad is not None
    assert not stats.buffer.requires_grad
    del logits
    assert freed() is None


@pytest.mark.parametrize(
    ("logits", "label", "error"),
    [
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), "logits must have shape"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), "logits must have shape"),
        (torch.zeros(4, 3), torch.zeros(5, dtype=torch.int64), r"label must have shape \(4,\), got \(5,\)"),
        (torch.zeros(4, 3), torch.full((4,), 3), "must lie in"),
    ],
)
def test_a_batch_that_does_not_fit_is_an_error_and_counts_nothing(logits: Tensor, label: Tensor, error: str) -> None:
    stats = ClassStats(3)
    with pytest.raises(ValueError, match=error):
        stats.update(logits, label)
    assert stats.buffer.count_nonzero() == 0


def test_adding_is_counting_together() -> None:
    logits, label, target = random_batch(5, 90)
    together = ClassStats(5).update(logits, label, target)
    first = ClassStats(5).update(logits[:31], label[:31], target[:31])
    first += ClassStats(5).update(logits[31:], label[31:], target[31:])
    assert torch.equal(first.buffer, together.buffer)
    with pytest.raises(ValueError, match="num_classes=5, got 4"):
        first += ClassStats(4)


def test_reset_forgets_and_copies_are_independent(counted: Any) -> None:
    stats = counted(3, [0, 1], [1, 1])
    kept = copy.deepcopy(stats)
    stats.reset()
    assert stats.buffer.count_nonzero() == 0
    assert kept.count.tolist() == [1, 1, 0]


def test_to_moves_only_where_it_must(counted: Any) -> None:
    stats = counted(3, [0, 1], [1, 1])
    assert stats.to("cpu") is stats
    moved = stats.to("meta")
    assert (stats.device.type, moved.device.type) == ("cpu", "meta")
    assert {moved.accuracy.device.type, moved.cfps.device.type, moved.loss_mean.device.type} == {"meta"}


def test_all_reduce_of_one_process_changes_nothing(counted: Any) -> None:
    stats = counted(3, [0, 1], [1, 1])
    before = stats.buffer.clone()
    assert torch.equal(stats.all_reduce().buffer, before)


def test_state_survives_a_file_and_later_updates() -> None:
    logits, label, target = random_batch(5, 40)
    stats = ClassStats(5).update(logits, label, target)
    expected = stats.buffer.clone()
    file = io.BytesIO()
    state = stats.state_dict()
    stats.update(logits, label, target)  # the state is a copy
    torch.save(state, file)
    file.seek(0)
    loaded = ClassStats(5)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(loaded.buffer, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_classes": 4}, ValueError, "num_classes=5, got 4"),
        ({"buffer": torch.zeros(9, 5, dtype=torch.int64)}, ValueError, r"\(12, 5\), got torch.int64 of shape \(9, 5\)"),
        ({"buffer": torch.zeros(12, 5)}, ValueError, "int64 .* got torch.float32"),
        ({"buffer": [0]}, TypeError, "tensor, got list"),
        ({"extra": 1}, ValueError, r"unexpected \['extra'\]"),
    ],
)
def test_a_wrong_state_is_an_error_and_changes_nothing(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    logits, label, _ = random_batch(5, 40)
    stats = ClassStats(5).update(logits, label)
    before = stats.buffer.clone()
    with pytest.raises(error, match=message):
        stats.load_state_dict({**ClassStats(5).state_dict(), **change})
    assert torch.equal(stats.buffer, before)


def one_word_state(stats: ClassStats, nonfinite: int = 0) -> dict[str, Any]:
    """A state with loss sums in one word, as they were before there were two: header rows 0-2 targets, 3 losses, 4."""
    buffer = stats.buffer
    pairs = buffer[3:5].view(-1, 2)
    header = torch.stack([*buffer[:3], pairs[:, 0] * 2**32 + pairs[:, 1], torch.full((stats.num_classes,), nonfinite)])
    return {"num_classes": stats.num_classes, "buffer": torch.cat([header, buffer[7:]])}


def test_a_state_with_losses_in_one_word_is_read() -> None:
    logits, label, target = random_batch(5, 40)
    stats = ClassStats(5).update(logits, label, target)
    stats.buffer[3, 1] -= 100  # a sum below zero
    loaded = ClassStats(5)
    loaded.load_state_dict(one_word_state(stats))
    for name in (*INTEGERS, *TARGET_INTEGERS, "confusion", "loss_sum", "saturated"):
        assert torch.equal(getattr(loaded, name), getattr(stats, name)), name


def test_a_state_that_counted_predictions_which_were_none_is_refused() -> None:
    stats = ClassStats(5).update(*random_batch(5, 40)[:2])
    loaded = ClassStats(5)
    with pytest.raises(ValueError, match=r"earlier fairtat, which took .* of 10 samples .*: train this epoch again"):
        loaded.load_state_dict(one_word_state(stats, nonfinite=2))
    assert loaded.buffer.count_nonzero() == 0


def test_a_state_that_is_no_state() -> None:
    with pytest.raises(TypeError, match="state_dict"):
        ClassStats(5).load_state_dict([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"missing \['buffer'\]"):
        ClassStats(5).load_state_dict({"num_classes": 5})


@pytest.mark.parametrize(("value", "error"), [(1, ValueError), (0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_num_classes_must_be_an_int_of_two_or_more(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"num_classes must be an int.*got {value!r}"):
        ClassStats(value)

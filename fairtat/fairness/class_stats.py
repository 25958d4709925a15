"""Per-class statistics that stay on their device and sum to the same integers in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from fairtat import checks, ops
from fairtat.fairness._collective import sum_over_processes
from fairtat.reference import class_stats as layout
from fairtat.reference.indices import check_range

_STATE_KEYS = ("num_classes", "buffer")
_MAX_SAMPLES = 2**31 - 1  # of a class: as many fractions of up to 2**32 units, and whole parts below 2**31, fit int64


class ClassStats:
    """Counts, errors, losses and the confusion matrix of every class, in one int64 buffer.

    For class k over the samples seen so far: ``n_k`` samples have label k, ``tp_k`` of them were predicted k,
    ``fp_k`` wrong predictions landed on k, ``fn_k`` samples of k were missed, ``err = sum(fp) = sum(fn)``:

        accuracy_k = tp_k / n_k        cfps_k = fp_k / err        cfns_k = fn_k / err

    The target-relative twins take ``pred == target`` as the hit, over the samples that came with a target:

        target_rob_k = reached_k / (reached_k + target_fn_k)
        target_cfps_k = target_fp_k / sum(target_fp)        target_cfns_k = target_fn_k / sum(target_fn)

    What has no samples is NaN (the accuracy of an absent class), and shares of no errors are 0, not NaN.

    A sample whose loss is not finite (of a row of logits with NaN or +inf, or all -inf, or -inf at the label) is
    counted in `nonfinite` and in n_k, and nowhere else: it is never right, no prediction, in no cell of the confusion
    matrix, and has not reached its target. So ``n_k = tp_k + fn_k + nonfinite_k``.

    Everything is integers (losses in fixed point of 2**-32, in two words), so the order of samples, batches and ranks
    does not matter and one collective sums it all. All attributes are tensors on the device of the buffer and cost no
    host synchronization; `worst` alone reads back. Loss sums are exact up to 2**31 - 1 samples of a class and NaN from
    there on. A finite loss beyond +-(2**31 - 128) is cut to that and counted in `saturated`.

    Args:
        num_classes: C >= 2.
        device: where the buffer lives.

    Raises:
        TypeError, ValueError: num_classes is not an int, or is below 2.

    Source: the statistics of FAIR-TAT (Medi, Jung, Keuper, WACV 2025, arXiv:2410.23142), with class accuracy divided
    by the class's own count so that imbalanced data is right.
    """

    buffer: Tensor  # (7 + C, C) int64, rows as in fairtat.reference.class_stats

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self.num_classes = checks.integer("num_classes", num_classes, low=2)
        shape = (layout.HEADER + self.num_classes, self.num_classes)
        self.buffer = torch.zeros(shape, dtype=torch.int64, device=device)

    def __repr__(self) -> str:
        return f"ClassStats(num_classes={self.num_classes}, device={str(self.device)!r})"

    @property
    def device(self) -> torch.device:
        return self.buffer.device

    @property
    def confusion(self) -> Tensor:
        """(C, C) int64 view: samples by [label, prediction]."""
        return self.buffer[layout.CONFUSION :]

    @property
    def count(self) -> Tensor:
        """(C,) int64: samples of each class, those of `nonfinite` among them."""
        return self._predicted + self.nonfinite

    @property
    def _predicted(self) -> Tensor:
        """(C,) int64: samples of each class whose prediction counts."""
        return self.confusion.sum(dim=1)

    @property
    def correct(self) -> Tensor:
        """(C,) int64: samples of each class that were predicted right."""
        return self.confusion.diagonal().clone()

    @property
    def false_positive(self) -> Tensor:
        """(C,) int64: wrong predictions that landed on each class."""
        return self.confusion.sum(dim=0) - self.confusion.diagonal()

    @property
    def false_negative(self) -> Tensor:
        """(C,) int64: samples of each class that were predicted as another."""
        return self._predicted - self.confusion.diagonal()

    @property
    def reached(self) -> Tensor:
        """(C,) int64 view: samples of each class that were predicted as their target."""
        return self.buffer[layout.REACHED]

    @property
    def target_false_positive(self) -> Tensor:
        """(C,) int64 view: predictions that landed on each class while the target was another."""
        return self.buffer[layout.TARGET_FP]

    @property
    def target_false_negative(self) -> Tensor:
        """(C,) int64 view: samples of each class that were not predicted as their target."""
        return self.buffer[layout.TARGET_FN]

    @property
    def target_count(self) -> Tensor:
        """(C,) int64: samples of each class that came with a target, without those of `nonfinite`."""
        return self.reached + self.target_false_negative

    @property
    def nonfinite(self) -> Tensor:
        """(C,) int64 view: samples of each class whose loss was NaN or infinite."""
        return self.buffer[layout.NONFINITE]

    @property
    def saturated(self) -> Tensor:
        """(C,) int64 view: samples of each class whose finite loss was cut to +-(2**31 - 128)."""
        return self.buffer[layout.SATURATED]

    @property
    def loss_sum(self) -> Tensor:
        """(C,) float64: sum of the finite losses of each class.

        Where `saturated` is not 0 it is a bound, a lower one for losses >= 0. NaN from 2**31 samples on.
        """
        whole, fraction = self.buffer[layout.LOSS : layout.LOSS + 2].view(-1, 2).double().unbind(dim=1)
        return torch.where(self.count <= _MAX_SAMPLES, whole + fraction / layout.LOSS_SCALE, torch.nan)

    @property
    def loss_mean(self) -> Tensor:
        """(C,) float64: mean of the finite losses of each class, bound as `loss_sum` is; NaN where there are none."""
        return self.loss_sum / self._predicted

    @property
    def accuracy(self) -> Tensor:
        """(C,) float64: tp_k / n_k; NaN for a class without samples."""
        return self.correct.double() / self.count

    @property
    def mean_accuracy(self) -> Tensor:
        """() float64: mean of `accuracy` over the classes that have samples, each class weighing the same."""
        return self.accuracy.nanmean()

    @property
    def overall_accuracy(self) -> Tensor:
        """() float64: right samples over all samples; equals `mean_accuracy` on balanced data."""
        return self.correct.sum().double() / self.count.sum()

    @property
    def cfps(self) -> Tensor:
        """(C,) float64: class-wise false positive score fp_k / err, summing to 1; all 0 without errors."""
        return _share(self.false_positive)

    @property
    def cfns(self) -> Tensor:
        """(C,) float64: class-wise false negative score fn_k / err, summing to 1; all 0 without errors."""
        return _share(self.false_negative)

    @property
    def target_rob(self) -> Tensor:
        """(C,) float64: share of a class's targeted samples that reached their target; NaN where there are none."""
        return self.reached.double() / self.target_count

    @property
    def target_cfps(self) -> Tensor:
        """(C,) float64: target-relative `cfps`; all 0 when every sample reached its target."""
        return _share(self.target_false_positive)

    @property
    def target_cfns(self) -> Tensor:
        """(C,) float64: target-relative `cfns`; all 0 when every sample reached its target."""
        return _share(self.target_false_negative)

    def worst(self) -> tuple[int, float]:
        """The class of the lowest accuracy and that accuracy, among the classes that have samples.

        Of several such classes it is the first. The answer is a pair of Python numbers, so this reads back from the
        device: for the end of an epoch, not for every batch.

        Raises:
            ValueError: no samples have been counted.
        """
        accuracy = self.accuracy
        value, index = torch.where(accuracy.isnan(), torch.inf, accuracy).min(dim=0)
        lowest = float(value)
        if lowest == float("inf"):
            raise ValueError("worst() needs at least one sample; these statistics are empty")
        return int(index), lowest

    def update(self, logits: Tensor, label: Tensor, target: Tensor | None = None) -> ClassStats:
        """Count a batch: cross-entropy and prediction come from the logits, no gradient is kept, nothing waits.

        A row of logits that is not finite is counted apart: see `nonfinite`.

        Args:
            logits: (N, C) of any floating dtype.
            label: (N,) int64, the true classes.
            target: (N,) int64, the classes that the attack moved towards, if there were any.

        Raises:
            TypeError, ValueError: as `ops.logit_stats_`.
        """
        return ops.logit_stats_(self, logits, label, target)

    def __iadd__(self, other: ClassStats) -> ClassStats:
        """Add the counts of `other`: as if its samples had been counted here."""
        if not isinstance(other, ClassStats):
            return NotImplemented
        if other.num_classes != self.num_classes:
            raise ValueError(f"other must have num_classes={self.num_classes}, got {other.num_classes}")
        self.buffer += other.buffer.to(self.device)
        return self

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> ClassStats:
        """Replace the counts by their sum over all processes, in one collective; a no-op in a single process.

        Call it once for a set of counts: a second call would sum the sums.
        """
        sum_over_processes([self.buffer], group)
        return self

    def reset(self) -> ClassStats:
        """Forget every sample."""
        self.buffer.zero_()
        return self

    def to(self, device: torch.device | str) -> ClassStats:
        """These statistics on `device`: the same object if they are there already, otherwise a copy."""
        buffer = self.buffer.to(device)
        if buffer is self.buffer:
            return self
        moved = ClassStats(self.num_classes, device=buffer.device)
        moved.buffer = buffer
        return moved

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state: ``num_classes`` and ``buffer``, which torch.load(weights_only=True) reads."""
        return {"num_classes": self.num_classes, "buffer": self.buffer.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict`, from any device; on an error nothing has changed.

        States whose buffer is (5 + C, C), with loss sums in one word, are read as well.

        Raises:
            TypeError, ValueError: the state has other keys, another number of classes, or a buffer of another shape
                or dtype; or a (5 + C, C) one has counted losses that are not finite.
        """
        checks.state_keys("ClassStats", state, _STATE_KEYS)
        num_classes, buffer = state["num_classes"], state["buffer"]
        if num_classes != self.num_classes:
            raise ValueError(f"ClassStats state must have num_classes={self.num_classes}, got {num_classes!r}")
        if not isinstance(buffer, Tensor):
            raise TypeError(f"ClassStats state buffer must be a tensor, got {type(buffer).__name__}")
        if buffer.shape == (5 + self.num_classes, self.num_classes) and buffer.dtype == torch.int64:
            buffer = _in_two_words(buffer)
        if buffer.shape != self.buffer.shape or buffer.dtype != torch.int64:
            expected = f"int64 of shape {tuple(self.buffer.shape)}"
            raise ValueError(
                f"ClassStats state buffer must be {expected}, got {buffer.dtype} of shape {tuple(buffer.shape)}"
            )
        self.buffer.copy_(buffer)


def _in_two_words(old: Tensor) -> Tensor:
    """(7 + C, C) of a (5 + C, C) buffer: targets in rows 0-2, the loss sums in 3, `nonfinite` in 4, then confusion."""
    if bool(old[4].any()):
        raise ValueError(
            f"ClassStats state buffer of shape {tuple(old.shape)} is of an earlier fairtat, which took the predictions "
            f"of {int(old[4].sum())} samples with a loss that is not finite for real ones: train this epoch again"
        )
    scale = int(layout.LOSS_SCALE)
    words = torch.stack([old[3] // scale, old[3] % scale], dim=1).view(2, -1)
    return torch.cat([old[:3], words, torch.zeros_like(old[:2]), old[5:]])


def _share(errors: Tensor) -> Tensor:
    """errors / sum(errors) (C,) in float64; 0 / 0 is 0: there is nothing to share out."""
    return errors.double() / errors.sum().clamp(min=1)


def blame_labels(argument: str, label: Tensor, classes: int) -> None:
    """After an error below: a ValueError that names ``argument`` if it was a label out of range, on a CPU."""
    if label.device.type == "cpu" and label.numel():
        check_range(argument, label, classes)

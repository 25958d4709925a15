"""logit_stats_ against a loop in float64 over the rows, and to the integer against class_stats_ with logit_loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from op_calls import Stats
from op_calls import empty_stats as empty
from pairwise import pairwise
from refused import Row, bad_backends
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fairtat import backends
from fairtat.ops import class_stats_, logit_loss, logit_stats_
from fairtat.reference import class_stats as layout

INF, NAN = float("inf"), float("nan")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def count(backend: str, logits: Tensor, label: Tensor, target: Tensor | None = None) -> Tensor:
    stats = empty(logits.shape[1])
    assert logit_stats_(stats, logits, label, target, backend=backend) is stats
    return stats.buffer


def in_parts(backend: str, logits: Tensor, label: Tensor, target: Tensor | None = None) -> Tensor:
    result = logit_loss(logits, label, backend=backend)
    parts = empty(logits.shape[1])
    return class_stats_(parts, result.pred, label, loss=result.loss, target=target, backend=backend).buffer


def loss_sums(buffer: Tensor) -> np.ndarray:
    whole, fraction = buffer[layout.LOSS : layout.LOSS + 2].view(-1, 2).double().unbind(1)
    return (whole + fraction / layout.LOSS_SCALE).numpy()


def by_hand(logits: Tensor, label: Tensor, target: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """The rows of counts, and the loss sums, one sample after another in float64."""
    classes = logits.shape[1]
    rows, losses = np.zeros((layout.HEADER + classes, classes), dtype=np.int64), np.zeros(classes)
    for i, z in enumerate(logits.double().numpy()):
        k = int(label[i])
        top = z.max()
        if math.isnan(top) or math.isinf(top) or z[k] == -INF:
            rows[layout.NONFINITE, k] += 1
            continue
        p = int(np.flatnonzero(z == top)[0])
        losses[k] += math.log(np.exp(z - top).sum()) + (top - z[k])
        rows[layout.CONFUSION + k, p] += 1
        if target is not None:
            t = int(target[i])
            if p == t:
                rows[layout.REACHED, k] += 1
            else:
                rows[layout.TARGET_FP, p] += 1
                rows[layout.TARGET_FN, k] += 1
    return rows, losses


def batch(
    n: int, classes: int, dtype: torch.dtype = torch.float32, scale: float = 4.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Rounded, so that the largest logit is often not alone."""
    g = torch.Generator().manual_seed(n + classes)
    z = ((torch.randn(n, classes, generator=g) * scale * 4).round() / 4).to(dtype)
    label, target = (torch.randint(classes, (n,), generator=g) for _ in range(2))
    return z, label, target


def serves(backend: str, dtype: torch.dtype) -> str:
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("float64 is served by the reference")
    return backend


@pairwise(classes=(1, 2, 10, 16, 17, 64, 65, 101), n=(0, 1, 15, 33), dtype=DTYPES, with_target=(True, False))
def test_counts_are_those_of_a_loop(backend: str, n: int, classes: int, dtype: torch.dtype, with_target: bool) -> None:
    z, label, target = batch(n, classes, dtype)
    hit = target if with_target else None
    got = count(serves(backend, dtype), z, label, hit)
    rows, losses = by_hand(z, label, hit)
    np.testing.assert_allclose(loss_sums(got), losses, rtol=1e-5, atol=1e-6 * max(n, 1))
    counts = got.numpy().copy()
    counts[[layout.LOSS, layout.LOSS + 1]] = 0
    np.testing.assert_array_equal(counts, rows)


@pairwise(classes=(1, 2, 10, 64, 65, 1000), n=(1, 17, 2049), dtype=DTYPES, scale=(0.1, 4.0, 300.0))
def test_the_integers_are_those_of_logit_loss_and_class_stats(
    backend: str, n: int, classes: int, dtype: torch.dtype, scale: float
) -> None:
    z, label, target = batch(min(n, 100_000 // classes), classes, dtype, scale)
    assert torch.equal(count(serves(backend, dtype), z, label, target), in_parts(backend, z, label, target))


@pytest.mark.parametrize("classes", [4, 16, 70])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_are_not_finite_are_counted_apart(backend: str, dtype: torch.dtype, classes: int) -> None:
    values = torch.tensor([-INF, INF, NAN, 0.0, 2.0])
    four = torch.cartesian_prod(values, values, values, values)
    z = torch.full((len(four), classes), -1.0)
    z[:, -4:] = four
    label, target = (torch.randint(classes, (len(z),), generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    got = count(serves(backend, dtype), z.to(dtype), label, target)
    rows, losses = by_hand(z, label, target)
    assert 0 < rows[layout.NONFINITE].sum() < len(z)
    np.testing.assert_allclose(loss_sums(got), losses, rtol=1e-5, atol=1e-4)
    counts = got.numpy().copy()
    counts[[layout.LOSS, layout.LOSS + 1]] = 0
    np.testing.assert_array_equal(counts, rows)
    assert torch.equal(got, in_parts(backend, z.to(dtype), label, target))


def test_a_loss_beyond_the_fixed_point_is_cut_and_counted(backend: str) -> None:
    z = torch.tensor([[3e9, 0.0], [3e38, 0.0], [2.0**31, 0.0], [1.5e9, 0.0], [0.0, 3e9]])
    got = count(backend, z, torch.ones(5, dtype=torch.int64))
    assert got[layout.SATURATED].tolist() == [0, 3]
    assert loss_sums(got).tolist() == [0.0, 3 * (2.0**31 - 128) + 1.5e9]


@pairwise(
    "backend", backend=["reference", "cpu"], argument=("label", "target"), index=(-1, 6, 2**40, -(2**63)), n=(1, 2100)
)
def test_a_bad_index_is_named_and_nothing_is_counted(backend: str, argument: str, index: int, n: int) -> None:
    if not backends.status()[backend].available:
        pytest.skip("needs the compiled core")
    z, label, target = batch(n, 6)
    {"label": label, "target": target}[argument][-1] = index
    stats = Stats(torch.arange(13 * 6).view(13, 6).clone())
    name = argument if backend == "cpu" else "(label|target)"
    with pytest.raises(ValueError, match=rf"^{name} must lie in \[0, 6\), got .*{index}"):
        logit_stats_(stats, z, label, target, backend=backend)
    assert torch.equal(stats.buffer, torch.arange(13 * 6).view(13, 6))


def test_any_layout_of_the_logits_is_served(backend: str) -> None:
    z, label, target = batch(37, 10)
    expected = count(backend, z, label, target)
    wide = torch.stack([label, target], 1)
    for form in (z.t().contiguous().t(), torch.cat([z, z], 1)[:, :10], z.requires_grad_()):
        assert torch.equal(count(backend, form, wide[:, 0], wide[:, 1]), expected)
    one_row = z[:1].detach().expand(5, 10)
    assert torch.equal(count(backend, one_row, label[:5]), count(backend, one_row.contiguous(), label[:5]))


def test_threads_and_splits_change_no_integer(backend: str, threads: int) -> None:
    z, label, target = batch(5000, 10)
    whole = count(backend, z, label, target)
    pieces = empty(10)
    for part in (slice(0, 1), slice(1, 2049), slice(2049, 5000)):
        logit_stats_(pieces, z[part], label[part], target[part], backend=backend)
    assert torch.equal(pieces.buffer, whole)


@pytest.mark.skipif(not backends.status()["cpu"].available, reason="needs the compiled core")
def test_the_compiled_core_allocates_no_tensor() -> None:
    z, label, target = batch(300, 100)
    stats = empty(100)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        logit_stats_(stats, z, label, target, backend="cpu")
    assert not [event for event in profiler.events() if event.cpu_memory_usage != 0]


@pytest.mark.parametrize("argument", ["logits", "label", "target"])
def test_input_in_the_memory_of_the_buffer_is_refused(backend: str, argument: str) -> None:
    memory = torch.zeros(44, dtype=torch.int64)
    given = {"logits": torch.zeros(3, 4), "label": torch.zeros(3).long(), "target": torch.zeros(3).long()}
    given[argument] = memory.view(torch.float32)[4:16].view(3, 4) if argument == "logits" else memory[30:33]
    with pytest.raises(ValueError, match=f"^{argument} must not share memory with stats.buffer"):
        logit_stats_(Stats(memory.view(11, 4)), **given, backend=backend)
    assert memory.count_nonzero() == 0


BUFFER, LOGITS, INDEX = torch.zeros(10, 3, dtype=torch.int64), torch.zeros(2, 3), torch.tensor([0, 1])
BAD: dict[str, Row] = {
    "buffer in int32": ({"stats": Stats(BUFFER.int())}, TypeError, "stats.buffer must be int64, got int32"),
    "buffer of another shape": ({"stats": Stats(BUFFER[:-1])}, ValueError, r"stats.buffer must be .* got \(9, 3\)"),
    "logits of integers": ({"logits": LOGITS.long()}, TypeError, "logits must be float32 or .*, got int64"),
    "logits of other classes": (
        {"logits": LOGITS[:, :2]}, ValueError, r"logits must have shape \(N, 3\), got \(2, 2\)",
    ),
    "logits of one sample": ({"logits": LOGITS[0]}, ValueError, r"logits must have shape \(N, 3\), got \(3,\)"),
    "logits a list": ({"logits": [[0.0]]}, TypeError, "logits must be a tensor, got list"),
    "logits elsewhere": (
        {"logits": LOGITS.to("meta")}, ValueError, r"logits must be on the device of stats.buffer \(cpu\), got meta",
    ),
    "label for another batch": ({"label": torch.arange(3)}, ValueError, r"label must have shape \(2,\), got \(3,\)"),
    "label in int32": ({"label": INDEX.int()}, TypeError, "label must be int64, got int32"),
    "target elsewhere": ({"target": INDEX.to("meta")}, ValueError, "target must be on the device of logits"),
    "target of floats": ({"target": torch.zeros(2)}, TypeError, "target must be int64, got float32"),
    **bad_backends("logit_stats", logits=LOGITS.double()),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        logit_stats_(**{"stats": Stats(BUFFER), "logits": LOGITS, "label": INDEX, **change})

"""logit_loss of hostile rows, infinite and NaN logits among them, against the definition written out in float64."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from fairtat.ops import logit_loss

INF, NAN = math.inf, math.nan
CASES = [("ce", False), ("margin", False), ("dlr", False), ("dlr", True), ("kl", False)]
NOTHING = (NAN, None)  # no loss and no gradient


def probabilities(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def log_probabilities(z: np.ndarray) -> np.ndarray:
    return z - z.max() - math.log(np.exp(z - z.max()).sum())


def one_hot(classes: int, at: int) -> np.ndarray:
    return np.eye(classes)[at]


def best_other(z: np.ndarray, target: int) -> int:
    return max((j for j in range(len(z)) if j != target), key=lambda j: (z[j], -j))


def definition(
    kind: str, z: np.ndarray, target: int, y: int | None, clean: np.ndarray
) -> tuple[float, np.ndarray | None]:
    """(loss, gradient) of one row; no gradient stands for NaN everywhere."""
    classes = len(z)
    if not math.isfinite(z.max()) or (kind == "kl" and not math.isfinite(clean.max())):
        return NOTHING
    if kind == "ce":
        # logsumexp(z) - z_t; the other classes' share of it, so that it does not cancel where t is likely.
        others = np.delete(probabilities(z), target).sum()
        loss = math.log1p(others / (1 - others)) if others < 0.5 else -log_probabilities(z)[target]
        p = probabilities(z)
        p[target] = -others
        return loss, p
    if kind == "kl":
        p, q = probabilities(clean), probabilities(z)
        terms = []
        for j in range(classes):
            if clean[j] == -INF:
                terms.append(0.0)
            elif z[j] == -INF:
                terms.append(INF)
            else:
                terms.append(p[j] * (log_probabilities(clean)[j] - log_probabilities(z)[j]))
        return sum(terms), q - p
    plus = best_other(z, target) if y is None else y
    gap = z[plus] - z[target]
    direction = one_hot(classes, plus) - one_hot(classes, target)
    if kind == "margin":
        return (gap, direction) if not math.isnan(gap) else NOTHING
    order = sorted(range(classes), key=lambda j: (-z[j], j))
    low = [order[2]] if y is None else [order[2], order[3]]
    spread = sum(z[order[0]] - z[j] for j in low) / len(low) + 1e-12
    loss = gap / spread
    if math.isnan(loss):
        return NOTHING
    # d(gap / spread) = (d gap - loss * d spread) / spread
    gradient = direction.copy()
    gradient[order[0]] -= loss
    for j in low:
        gradient[j] += loss / len(low)
    return loss, gradient / spread


@dataclass(frozen=True)
class Case:
    """Rows and what the definition makes of them."""

    kind: str
    z: Tensor
    target: Tensor
    y: Tensor | None
    clean: Tensor | None
    loss: Tensor
    gradient: Tensor


def case(kind: str, with_y: bool, z: Tensor, target: Tensor, y: Tensor, clean: Tensor) -> Case:
    with np.errstate(all="ignore"):
        expected = [
            definition(kind, row.double().numpy(), int(t), int(label) if with_y else None, other.double().numpy())
            for row, t, label, other in zip(z, target, y, clean, strict=True)
        ]
    loss = torch.tensor([one for one, _ in expected], dtype=torch.float64)
    rows = [np.full(z.shape[1], NAN) if row is None else row for _, row in expected]
    gradient = torch.from_numpy(np.stack(rows)).to(z.dtype).double()
    return Case(kind, z, target, y if with_y else None, clean if kind == "kl" else None, loss, gradient)


def check(backend: str, case: Case) -> None:
    z, target = case.z, case.target
    result = logit_loss(z, target, kind=case.kind, y=case.y, clean_logits=case.clean, backend=backend)
    assert torch.equal(result.pred, z.argmax(1))
    assert torch.equal(result.reached, z.argmax(1) == target)
    # Differences of large logits round in float32: half a unit in the last place of the largest.
    scale = torch.where(z.isfinite(), z.double().abs(), 0.0).amax(1)
    atol = 1e-6 + 1e-7 * scale
    close(result.loss, case.loss, atol, z, target)
    rtol = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9}.get(z.dtype, 2e-5)
    close(result.dlogits, case.gradient, torch.full_like(atol, 1e-6), z, target, rtol)


def close(ours: Tensor, expected: Tensor, atol: Tensor, z: Tensor, target: Tensor, rtol: float = 1e-5) -> None:
    ours = ours.double()
    atol = atol.view(-1, *[1] * (ours.ndim - 1))
    same = (
        (ours == expected)
        | (ours.isnan() & expected.isnan())
        | ((ours - expected).abs() <= atol + rtol * expected.abs())
    )
    for i in (~same.view(len(same), -1).all(1)).nonzero()[:3, 0]:
        pytest.fail(
            f"logits {z[i].tolist()}, target {int(target[i])}: {ours[i].tolist()} is not {expected[i].tolist()}"
        )


@cache  # one definition for all backends
def every_row(kind: str, with_y: bool, dtype: torch.dtype) -> list[Case]:
    fewest = {"ce": 1, "kl": 1, "margin": 2, "dlr": 4 if with_y else 3}[kind]
    cases = []
    for classes in {fewest, 4}:
        z = torch.tensor(list(itertools.product((-INF, INF, NAN, 0.0, 2.0, -3.0), repeat=classes)), dtype=dtype)
        z = z[:: 1 if dtype == torch.float32 else 7]
        target = torch.arange(len(z)) % classes
        y = (target + 1 + torch.arange(len(z)) // classes % max(classes - 1, 1)) % classes
        clean = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(1))]
        cases.append(case(kind, with_y, z, target, y, clean))
    return cases


@pytest.mark.parametrize(("kind", "with_y"), CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_every_row_of_special_logits_is_defined(backend: str, kind: str, with_y: bool, dtype: torch.dtype) -> None:
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("float64 is served by the reference")
    for rows in every_row(kind, with_y, dtype):
        check(backend, rows)


@cache
def longer_rows(kind: str, with_y: bool, classes: int) -> Case:
    n = 200
    g = torch.Generator().manual_seed(classes)
    z, clean = (torch.randn(n, classes, generator=g) * 4 for _ in range(2))
    for t in (z, clean):
        for value, share in ((-INF, 0.5), (INF, 0.002), (NAN, 0.002)):
            t[torch.rand(t.shape, generator=g) < share * torch.rand(n, 1, generator=g)] = value
        t[::7] = -INF  # all ruled out, or all but one
        t[::14, classes - 1] = 0.5
    target = torch.randint(classes, (n,), generator=g)
    target[::28] = 0
    return case(kind, with_y, z, target, (target + 1) % classes, clean)


@pytest.mark.parametrize(("kind", "with_y"), CASES, ids=str)
@pytest.mark.parametrize("classes", [5, 16, 40, 70, 300])
def test_special_logits_in_longer_rows(backend: str, kind: str, with_y: bool, classes: int) -> None:
    check(backend, longer_rows(kind, with_y, classes))


def test_the_best_of_ruled_out_classes_is_not_the_target(backend: str) -> None:
    z = torch.tensor([[3.0, -INF, -INF], [-INF, 3.0, -INF], [-INF, -INF, 3.0]])
    result = logit_loss(z, torch.arange(3), kind="margin", backend=backend)
    assert result.loss.tolist() == [-INF] * 3
    assert result.dlogits.tolist() == [[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 0.0, -1.0]]


@pytest.mark.parametrize(("kind", "with_y"), CASES, ids=str)
def test_a_model_that_diverged_in_float16_shows(backend: str, kind: str, with_y: bool) -> None:
    # What overflows float16 is +inf: neither loss nor gradient may look healthy.
    z = torch.tensor([[70000.0, 1.0, 2.0, 3.0, 0.0], [1.0, 70000.0, 2.0, 3.0, 0.0]]).half()
    for target, y in (([0, 1], [1, 0]), ([1, 0], [2, 2]), ([2, 2], [0, 1])):
        result = logit_loss(
            z, torch.tensor(target), kind=kind, y=torch.tensor(y) if with_y else None,
            clean_logits=torch.zeros(2, 5).half() if kind == "kl" else None, backend=backend,
        )  # fmt: skip
        assert bool(result.loss.isnan().all())
        assert bool(result.dlogits.isnan().all())


def test_a_small_chance_of_a_class_that_is_ruled_out_is_infinite(backend: str) -> None:
    # exp(-100) is subnormal in float32 and exp(-120) is 0: the definition knows neither.
    for gap in (1.0, 90.0, 100.0, 120.0):
        clean, z = torch.tensor([[gap, 0.0]]), torch.tensor([[0.0, -INF]])
        result = logit_loss(z, torch.tensor([0]), kind="kl", clean_logits=clean, backend=backend)
        assert result.loss.tolist() == [INF]
        assert bool(result.dlogits.isfinite().all())

"""logit_loss against textbook losses in float64, differentiated by autograd."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_calls import BACKENDS
from pairwise import pairwise
from torch import Tensor

from fairtat.ops import logit_loss

INF, NAN = float("inf"), float("nan")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 5), (7, 4), (5, 10), (3, 17), (2, 33), (64, 10), (4, 1003), (300, 101)]
CASES = [("ce", False), ("margin", False), ("dlr", False), ("dlr", True), ("kl", False)]
Textbook = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ce(z: Tensor, target: Tensor, y: Tensor, clean: Tensor) -> Tensor:
    return F.cross_entropy(z, target, reduction="none")


def margin(z: Tensor, target: Tensor, y: Tensor, clean: Tensor) -> Tensor:
    """Carlini & Wagner: the best other logit minus the target's."""
    onehot = F.one_hot(target, z.shape[1]).bool()
    return z.masked_fill(onehot, -INF).max(1).values - z[onehot]


def dlr(z: Tensor, target: Tensor, y: Tensor, clean: Tensor) -> Tensor:
    """AutoAttack's DLR loss, which is large away from the label."""
    ascending, order = z.sort(dim=1)
    top_is_target = (order[:, -1] == target).to(z)
    chosen = z.gather(1, target[:, None])[:, 0]
    other = ascending[:, -2] * top_is_target + ascending[:, -1] * (1.0 - top_is_target)
    return -(chosen - other) / (ascending[:, -1] - ascending[:, -3] + 1e-12)


def targeted_dlr(z: Tensor, target: Tensor, y: Tensor, clean: Tensor) -> Tensor:
    """AutoAttack's targeted DLR loss with the other sign: small at the target."""
    ascending = z.sort(dim=1).values
    ours, theirs = (z.gather(1, index[:, None])[:, 0] for index in (y, target))
    return (ours - theirs) / (ascending[:, -1] - 0.5 * (ascending[:, -3] + ascending[:, -4]) + 1e-12)


def kl(z: Tensor, target: Tensor, y: Tensor, clean: Tensor) -> Tensor:
    """The term of TRADES."""
    return F.kl_div(F.log_softmax(z, 1), F.softmax(clean, 1), reduction="none").sum(1)


TEXTBOOK: dict[tuple[str, bool], Textbook] = dict(zip(CASES, (ce, margin, dlr, targeted_dlr, kl), strict=True))


def batch(shape: tuple[int, int], scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets, labels other than the target, clean logits: float64, every class a target in turn."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(shape, generator=g, dtype=torch.float64) * scale
    clean = z + torch.randn(shape, generator=g, dtype=torch.float64)
    target = torch.arange(shape[0]) * 7 % shape[1]
    return z, target, (target + 1 + torch.arange(shape[0]) % (shape[1] - 1)) % shape[1], clean


def differentiated(textbook: Textbook, z: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    z = z.detach().clone().requires_grad_()
    loss = textbook(z, *rest)
    return loss.detach(), torch.autograd.grad(loss.sum(), z)[0]


def options(kind: str, with_y: bool, y: Tensor, clean: Tensor) -> dict[str, Any]:
    return {"kind": kind, "y": y if with_y else None, "clean_logits": clean if kind == "kl" else None}


@pairwise("threads", case=CASES, shape=SHAPES, scale=(0.1, 3.0, 100.0), threads=(1, 3))
def test_float32_meets_the_textbook(
    backend: str, case: tuple[str, bool], shape: tuple[int, int], scale: float, threads: int
) -> None:
    kind, with_y = case
    z, target, y, clean = batch(shape, scale)
    z, clean = z.float(), clean.float()
    result = logit_loss(z, target, **options(kind, with_y, y, clean), backend=backend)
    loss, dz = differentiated(TEXTBOOK[kind, with_y], z.double(), target, y, clean.double())
    assert result.loss.dtype == result.dlogits.dtype == torch.float32
    torch.testing.assert_close(result.loss.double(), loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.dlogits.double(), dz, rtol=1e-5, atol=1e-6)
    assert torch.equal(result.pred, z.argmax(1))
    assert torch.equal(result.reached, z.argmax(1) == target)


@pytest.mark.parametrize(("kind", "with_y"), CASES, ids=str)
def test_float64_meets_the_textbook_in_its_precision(kind: str, with_y: bool) -> None:
    z, target, y, clean = batch((9, 11))
    result = logit_loss(z, target, **options(kind, with_y, y, clean))
    loss, dz = differentiated(TEXTBOOK[kind, with_y], z, target, y, clean)
    assert result.loss.dtype == result.dlogits.dtype == torch.float64
    torch.testing.assert_close(result.loss, loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(result.dlogits, dz, rtol=1e-12, atol=1e-14)


@pairwise(case=CASES, shape=[(1, 5), (64, 10), (3, 17), (40, 100)], dtype=(torch.bfloat16, torch.float16))
def test_low_precision_errs_at_most_twice_as_much_as_pytorch(
    backend: str, case: tuple[str, bool], shape: tuple[int, int], dtype: torch.dtype
) -> None:
    kind, with_y = case
    z, target, y, clean = batch(shape)
    z, clean = z.to(dtype), clean.to(dtype)
    result = logit_loss(z, target, **options(kind, with_y, y, clean), backend=backend)
    textbook = TEXTBOOK[kind, with_y]
    true_loss, true_dz = differentiated(textbook, z.double(), target, y, clean.double())
    torch_loss, torch_dz = differentiated(textbook, z, target, y, clean)
    assert result.loss.dtype == torch.float32
    assert result.dlogits.dtype == dtype
    for ours, theirs, truth in ((result.loss, torch_loss, true_loss), (result.dlogits, torch_dz, true_dz)):
        allowed = 2 * (theirs.double() - truth).abs().max() + 1e-6
        assert float((ours.double() - truth).abs().max()) <= allowed
    # The arithmetic is float32: only the stored gradient is rounded.
    torch.testing.assert_close(result.loss.double(), true_loss, rtol=1e-5, atol=1e-6)
    assert torch.equal(result.pred, z.argmax(1))


@pytest.mark.parametrize(("kind", "with_y"), CASES, ids=str)
def test_a_common_offset_of_the_logits_costs_no_accuracy(backend: str, kind: str, with_y: bool) -> None:
    z, target, y, clean = batch((40, 7))
    z, clean = (z + 1e4).float(), (clean - 1e4).float()
    result = logit_loss(z, target, **options(kind, with_y, y, clean), backend=backend)
    loss, dz = differentiated(TEXTBOOK[kind, with_y], z.double(), target, y, clean.double())
    torch.testing.assert_close(result.loss.double(), loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.dlogits.double(), dz, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize(("kind", "with_y"), CASES, ids=str)
def test_logits_of_ten_thousand_are_safe(backend: str, kind: str, with_y: bool, dtype: torch.dtype) -> None:
    if dtype == torch.float64 and backend != "reference":
        pytest.skip("float64 is served by the reference")
    rows = torch.tensor(
        [[1e4, -1e4, 0.0, 3.0], [-1e4, 1e4, 9e3, -5.0], [1e4, 9984.0, 1e4, 0.0], [-1e4, -9e3, -8e3, 1e4]]
    )
    z, clean = rows.to(dtype), rows.flip(1).to(dtype)
    target, y = torch.tensor([1, 0, 3, 3]), torch.tensor([0, 1, 0, 2])
    result = logit_loss(z, target, **options(kind, with_y, y, clean), backend=backend)
    loss, dz = differentiated(TEXTBOOK[kind, with_y], z.double(), target, y, clean.double())
    torch.testing.assert_close(result.loss.double(), loss, rtol=1e-5, atol=1e-6)
    # The tie of the third row may share its gradient in other ways in sort's backward pass.
    free_of_ties = torch.tensor([0, 1, 3]) if kind == "dlr" else torch.arange(4)
    rtol = {torch.bfloat16: 2**-8, torch.float16: 2**-11}.get(dtype, 1e-5)
    torch.testing.assert_close(result.dlogits.double()[free_of_ties], dz[free_of_ties], rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gap", [1.0, 17.0, 25.0, 87.0])
def test_a_confident_sample_keeps_its_gradient(backend: str, gap: float, dtype: torch.dtype) -> None:
    # From a gap of about 17 on, p_t - 1 rounds to 0 in float32: attacks that compute it so stand still.
    z = torch.tensor([[0.0, gap, -3.0], [gap, gap - 0.5, 0.0]], dtype=dtype)
    target = torch.tensor([1, 0])
    result = logit_loss(z, target, backend=backend)
    # In float64, too, p_t - 1 would cancel: the target's entry is minus the sum of the others.
    others = F.softmax(z.double(), 1).scatter(1, target[:, None], 0.0)
    dz = others.scatter(1, target[:, None], -others.sum(1, keepdim=True))
    rtol = 2**-8 if dtype == torch.bfloat16 else 1e-5
    smallest = torch.finfo(torch.float32).tiny  # below it, an instruction set may flush to zero
    torch.testing.assert_close(result.dlogits.double(), dz, rtol=rtol, atol=smallest)
    assert bool((result.dlogits[:, :2] != 0).all())
    torch.testing.assert_close(result.loss.double(), -torch.log1p(-others.sum(1)), rtol=1e-5, atol=smallest)


def test_a_small_probability_is_precise_at_every_gap(backend: str) -> None:
    # With two classes the gradient is the sigmoid of the gap: the exponential itself, over its whole range.
    gap = torch.linspace(0, 87, 20_011)
    z = torch.stack([torch.zeros_like(gap), -gap], dim=1)
    got = logit_loss(z, torch.zeros(len(gap), dtype=torch.int64), backend=backend).dlogits[:, 1]
    torch.testing.assert_close(got.double(), torch.sigmoid(-gap.double()), rtol=3e-7, atol=0)


@pytest.mark.parametrize(("kind", "with_y"), CASES, ids=str)
def test_a_sample_does_not_depend_on_its_batch(backend: str, kind: str, with_y: bool) -> None:
    z, target, y, clean = batch((6, 37))
    z, clean = z.float(), clean.float()
    whole = logit_loss(z, target, **options(kind, with_y, y, clean), backend=backend)
    for i in range(6):
        row = slice(i, i + 1)
        one = logit_loss(z[row], target[row], **options(kind, with_y, y[row], clean[row]), backend=backend)
        torch.testing.assert_close(one.loss, whole.loss[row], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one.dlogits, whole.dlogits[row], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3, 15, 16, 17, 40])
def test_the_prediction_is_the_first_of_equals(backend: str, classes: int) -> None:
    z = torch.zeros(classes, classes)
    for row, first in enumerate(range(classes)):
        z[row, first:] = 1.0
    result = logit_loss(z, torch.zeros(classes, dtype=torch.int64), backend=backend)
    assert result.pred.tolist() == list(range(classes))
    assert result.reached.tolist() == [True] + [False] * (classes - 1)


@pytest.mark.parametrize(("kind", "with_y"), [("margin", False), ("dlr", False), ("dlr", True)], ids=str)
def test_ties_give_a_gradient_of_the_loss(backend: str, kind: str, with_y: bool) -> None:
    # At a tie any choice among the equals is a subgradient; ours is that of the lowest index, exactly.
    for values in itertools.product((0.0, 1.0, 2.0), repeat=4):
        z = torch.tensor([values])
        target, y = torch.tensor([2]), torch.tensor([1])
        result = logit_loss(z, target, **options(kind, with_y, y, z), backend=backend)
        # Breaking the ties by less than any difference turns the rule into the textbook's unique gradient.
        broken = z.double() - torch.arange(4) * 2.0**-40
        loss, dz = differentiated(TEXTBOOK[kind, with_y], broken, target, y, z)
        if float(broken.max() - broken.sort(1).values[0, -3]) < 0.5:
            continue  # the spread itself vanishes: covered below
        torch.testing.assert_close(result.loss.double(), loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(result.dlogits.double(), dz, rtol=1e-5, atol=1e-6)


def test_equal_logits_divide_by_the_guard_of_dlr(backend: str) -> None:
    z, target = torch.ones(1, 5), torch.tensor([3])
    for y in (None, torch.tensor([1])):
        result = logit_loss(z, target, kind="dlr", y=y, backend=backend)
        assert result.loss.tolist() == [0.0]
        expected = torch.zeros(1, 5)
        expected[0, 0 if y is None else 1], expected[0, 3] = 1e12, -1e12
        torch.testing.assert_close(result.dlogits, expected)


def test_ruled_out_classes_take_no_part(backend: str) -> None:
    # A logit of -inf is how classes are masked; the others must not notice.
    z = torch.tensor([[1.0, 2.0, -INF, 0.5, -1.0], [-INF, 0.0, 3.0, -INF, 1.0]])
    kept = [torch.tensor([0, 1, 3, 4]), torch.tensor([1, 2, 4])]
    target, target_kept = torch.tensor([3, 1]), [2, 0]
    for kind in ("ce", "margin", "kl"):
        clean = z + torch.tensor([0.5, -0.5, 0.0, 1.0, 0.0])
        result = logit_loss(z, target, kind=kind, clean_logits=clean if kind == "kl" else None, backend=backend)
        for i, classes in enumerate(kept):
            row, clean_row = z[i, classes].double()[None], clean[i, classes].double()[None]
            index = torch.tensor([target_kept[i]])
            loss, dz = differentiated(TEXTBOOK[kind, False], row, index, index, clean_row)
            torch.testing.assert_close(result.loss.double()[i : i + 1], loss, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(result.dlogits.double()[i : i + 1, classes], dz, rtol=1e-5, atol=1e-6)
            dropped = [c for c in range(5) if c not in classes]
            assert result.dlogits[i, dropped].tolist() == [0.0] * len(dropped)


def test_a_ruled_out_target_is_infinitely_far(backend: str) -> None:
    z, target = torch.tensor([[1.0, -INF, 0.0]]), torch.tensor([1])
    for kind in ("ce", "margin"):
        result = logit_loss(z, target, kind=kind, backend=backend)
        assert result.loss.tolist() == [INF]
        assert bool(result.dlogits.isfinite().all())
        assert float(result.dlogits[0, 1]) == -1.0


@pytest.mark.parametrize(("kind", "with_y"), CASES, ids=str)
def test_nan_logits_are_not_hidden(backend: str, kind: str, with_y: bool) -> None:
    z, target, y, clean = batch((4, 6))
    z, clean = z.float(), clean.float()
    healthy = logit_loss(z, target, **options(kind, with_y, y, clean), backend=backend)
    z[1, 4] = z[2] = NAN
    result = logit_loss(z, target, **options(kind, with_y, y, clean), backend=backend)
    # As torch.argmax: a NaN counts as largest.
    assert result.pred.tolist() == [healthy.pred[0], 4, 0, healthy.pred[3]]
    assert result.reached.tolist() == [bool(p == t) for p, t in zip(result.pred, target, strict=True)]
    assert bool(result.loss[2].isnan())
    if kind in ("ce", "kl") or (kind, with_y) == ("margin", False):
        assert bool(result.loss[1].isnan())
    for row in (0, 3):
        torch.testing.assert_close(result.loss[row], healthy.loss[row])
        torch.testing.assert_close(result.dlogits[row], healthy.dlogits[row])


def test_nan_clean_logits_are_not_hidden(backend: str) -> None:
    z, clean = torch.zeros(2, 3), torch.tensor([[0.0, NAN, 0.0], [0.0, 0.0, 0.0]])
    result = logit_loss(z, torch.tensor([0, 0]), kind="kl", clean_logits=clean, backend=backend)
    assert bool(result.loss[0].isnan())
    assert bool(result.dlogits[0].isnan().any())
    assert float(result.loss[1]) == 0.0


def test_kl_takes_log_probabilities_and_other_dtypes(backend: str) -> None:
    z, target, _, clean = batch((5, 9))
    truth, dz = differentiated(kl, z.float().double(), target, target, clean)
    for given in (clean.float(), clean.log_softmax(1).float(), clean):
        result = logit_loss(z.float(), target, kind="kl", clean_logits=given, backend=backend)
        torch.testing.assert_close(result.loss.double(), truth, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(result.dlogits.double(), dz, rtol=1e-5, atol=1e-6)


def test_kl_keeps_precise_clean_logits_beside_coarse_ones(backend: str) -> None:
    z, target, _, clean = batch((5, 9))
    coarse = z.bfloat16()
    truth, _ = differentiated(kl, coarse.double(), target, target, clean)
    for given in (clean.float(), clean):
        result = logit_loss(coarse, target, kind="kl", clean_logits=given, backend=backend)
        torch.testing.assert_close(result.loss.double(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "with_y"), CASES, ids=str)
def test_any_strides_of_logits_and_indices_are_served(backend: str, kind: str, with_y: bool) -> None:
    z, target, y, clean = batch((6, 9))
    z, clean = z.float(), clean.float()
    plain = logit_loss(z, target, **options(kind, with_y, y, clean), backend=backend)
    wide = torch.stack([target, y], dim=1)
    strided = options(kind, with_y, wide[:, 1], clean.t().contiguous().t())
    result = logit_loss(z.t().contiguous().t(), wide[:, 0], **strided, backend=backend)
    for ours, expected in zip(result, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pairwise("backend", backend=BACKENDS, case=CASES, dtype=DTYPES)
def test_an_empty_batch(backend: str, case: tuple[str, bool], dtype: torch.dtype) -> None:
    kind, with_y = case
    z, index = torch.empty(0, 5, dtype=dtype), torch.empty(0, dtype=torch.int64)
    result = logit_loss(z, index, **options(kind, with_y, index, z), backend=backend)
    assert [tuple(t.shape) for t in result] == [(0,), (0, 5), (0,), (0,)]
    assert [t.dtype for t in result] == [torch.float32, dtype, torch.int64, torch.bool]


def test_one_class_is_always_right(backend: str) -> None:
    result = logit_loss(torch.tensor([[3.0]]), torch.tensor([0]), backend=backend)
    assert [t.tolist() for t in result] == [[0.0], [[0.0]], [0], [True]]


def test_the_fewest_classes_of_each_loss(backend: str) -> None:
    for kind, with_y, classes in (("margin", False, 2), ("dlr", False, 3), ("dlr", True, 4), ("kl", False, 2)):
        z, target, y, clean = batch((5, classes))
        z, clean = z.float(), clean.float()
        result = logit_loss(z, target, **options(kind, with_y, y, clean), backend=backend)
        loss, dz = differentiated(TEXTBOOK[kind, with_y], z.double(), target, y, clean.double())
        torch.testing.assert_close(result.loss.double(), loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(result.dlogits.double(), dz, rtol=1e-5, atol=1e-6)


def test_logits_of_a_model_give_a_gradient_without_a_graph(backend: str) -> None:
    z, target, y, clean = batch((3, 5))
    for kind, with_y in CASES:
        given = z.float().requires_grad_()
        result = logit_loss(given, target, **options(kind, with_y, y, clean.float()), backend=backend)
        assert not any(t.requires_grad for t in result)


PAIRS = [("ce", "kl"), ("ce", "ce"), ("margin", "ce"), ("kl", "margin"), ("dlr", "dlr"), ("ce", "dlr"), ("dlr", "kl")]


@pairwise("threads", pair=PAIRS, shape=[(1, 5), (37, 10), (33, 64), (21, 65), (130, 130)], dtype=DTYPES, threads=(1, 3))
def test_a_batch_of_both_kinds_is_the_two_batches(
    backend: str, pair: tuple[str, str], shape: tuple[int, int], dtype: torch.dtype, threads: int
) -> None:
    """To the last bit: what a sample gets does not depend on what stands beside it."""
    z, target, y, clean = (t.to(dtype) if t.is_floating_point() else t for t in batch(shape))
    targeted = torch.rand(shape[0], generator=torch.Generator().manual_seed(1)) < 0.4
    given = {"y": y if pair[0] == "dlr" else None, "clean_logits": clean if "kl" in pair else None}
    mixed = logit_loss(z, target, kind=pair, targeted=targeted, **given, backend=backend)
    for rows, kind, with_y in ((targeted, pair[0], pair[0] == "dlr"), (~targeted, pair[1], False)):
        alone = options(kind, with_y, y[rows], clean[rows])
        part = logit_loss(z[rows], target[rows], **alone, backend=backend)
        for name in part._fields:
            assert torch.equal(getattr(mixed, name)[rows], getattr(part, name)), name


@pytest.mark.parametrize("pair", [("ce", "kl"), ("dlr", "dlr")], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_batch_of_both_kinds_meets_the_textbook(backend: str, pair: tuple[str, str], share: float) -> None:
    z, target, y, clean = batch((31, 12))
    targeted = torch.arange(31) < round(31 * share)
    kinds = (pair[0], pair[0] == "dlr"), (pair[1], False)
    y_given, clean_given = (y if pair[0] == "dlr" else None), (clean.float() if "kl" in pair else None)
    result = logit_loss(
        z.float(), target, kind=pair, targeted=targeted, y=y_given, clean_logits=clean_given, backend=backend
    )
    towards, away = (differentiated(TEXTBOOK[kind], z, target, y, clean) for kind in kinds)
    for ours, first, second in zip(result[:2], towards, away, strict=True):
        expected = torch.where(targeted.view(-1, *[1] * (ours.ndim - 1)), first, second)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
    empty = torch.empty(0, dtype=torch.int64)
    none = logit_loss(torch.empty(0, 12), empty, kind=("ce", "margin"), targeted=empty.bool(), backend=backend)
    assert [tuple(t.shape) for t in none] == [(0,), (0, 12), (0,), (0,)]


def test_an_infinite_row_beside_another_kind_stays_in_its_row(backend: str) -> None:
    z = torch.tensor([[INF, 0.0, 1.0], [0.0, 1.0, 2.0], [NAN, 0.0, 0.0], [0.0, -INF, 1.0]]).repeat(9, 1)
    targeted, target, clean = torch.arange(36) % 3 == 0, torch.zeros(36, dtype=torch.int64), torch.rand(36, 3)
    result = logit_loss(z, target, kind=("ce", "kl"), targeted=targeted, clean_logits=clean, backend=backend)
    bad = torch.tensor([True, False, True, False]).repeat(9)
    assert torch.equal(result.loss.isnan(), bad)
    assert torch.equal(result.dlogits.isnan().all(1), bad)

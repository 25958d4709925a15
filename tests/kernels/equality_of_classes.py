"""logit_loss, sample_targets and class_stats of the Triton kernels against the reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from pairwise import pairs
from torch import Tensor
from triton_calls import IDS, INF, LOW_PRECISION, NAN, SEEDS, Case, Guarded, call, close, generator, same_bits

from fairtat import reference
from fairtat.backends import triton as kernels
from fairtat.ops.sample_targets import target_table
from fairtat.reference.class_stats import HEADER


def losses(
    kind: str,
    with_y: bool,
    z: Tensor,
    target: Tensor,
    y: Tensor,
    clean: Tensor,
    bad: Tensor | None = None,
) -> None:
    """``bad`` (N,) marks rows whose target or y is out of range."""
    good = torch.ones(len(target), dtype=torch.bool) if bad is None else ~bad
    clean_given = clean if kind == "kl" else None
    y_given = y if with_y else None
    expected = reference.logit_loss(
        z.double()[good], target[good], kind, None if y_given is None else y_given[good],
        None if clean_given is None else clean_given.double()[good],
    )  # fmt: skip
    loss, dlogits, pred, reached = call(kernels.logit_loss, z, target, kind, y_given, clean_given)
    assert (loss.dtype, dlogits.dtype, pred.dtype, reached.dtype) == (
        torch.float32, z.dtype, torch.int64, torch.bool,
    )  # fmt: skip
    rtol = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}.get(z.dtype, 1e-5)
    close(loss[good], expected[0])
    close(dlogits[good], expected[1], rtol=rtol)
    same_bits(pred[good], expected[2])
    same_bits(reached[good], expected[3])
    if bad is not None:
        assert bool(loss[bad].isnan().all()), "the loss of an index out of range must be NaN"
        assert bool(dlogits[bad].isnan().all()), "the gradient of an index out of range must be NaN"
        same_bits(pred[bad], z[bad].argmax(1))


def rows(n: int, classes: int, scale: float = 3.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Logits, targets, labels other than the target, clean logits."""
    g = generator(classes)
    z = torch.randn(n, classes, generator=g) * scale
    clean = z + torch.randn(n, classes, generator=g)
    target = torch.arange(n) * 7 % classes
    y = (target + 1 + torch.arange(n) % max(classes - 1, 1)) % classes
    return z.to(dtype), target, y, clean.to(dtype)


KINDS = {("ce", False): 1, ("kl", False): 1, ("margin", False): 2, ("dlr", False): 3, ("dlr", True): 4}


def logit_loss() -> Iterator[Case]:
    for (kind, with_y), fewest in KINDS.items():
        name = f"{kind} {'y ' if with_y else ''}"
        for classes in (fewest, 3, 10, 17, 1000, 2049, 4500):
            if classes >= fewest:
                batch = rows(7 if classes < 100 else 2, classes)
                yield f"{name}C={classes}", partial(losses, kind, with_y, *batch)
        for dtype, scale in product(LOW_PRECISION, (0.1, 3.0, 100.0)):
            batch = rows(9, 10, scale, dtype)
            yield f"{name}{dtype} {scale}", partial(losses, kind, with_y, *batch)
        far = torch.tensor([[1e4, -1e4, 0.0, 3.0], [-1e4, 1e4, 9e3, -5.0], [1e4, 9984.0, 1e4, 0.0]])
        index = (torch.tensor([1, 0, 3]), torch.tensor([0, 1, 0]))
        yield f"{name}far", partial(losses, kind, with_y, far, *index, far.flip(1))
        ties = torch.tensor(list(product((0.0, -0.0, 1.0, 2.0), repeat=4)))[::3].contiguous()
        index = (torch.arange(len(ties)) % 4, (torch.arange(len(ties)) % 4 + 1) % 4)
        yield f"{name}ties", partial(losses, kind, with_y, ties, *index, ties)
        z, target, y, clean = rows(6, 10)
        bad_target, bad_y = target.clone(), y.clone()
        bad_target[1], bad_target[4], bad_y[2] = -1, 10, 2**40
        marked = torch.tensor([False, True, with_y, False, True, False])
        yield f"{name}bad index", partial(losses, kind, with_y, z, bad_target, bad_y, clean, marked)
        empty = torch.empty(0, dtype=torch.int64)
        yield f"{name}empty", partial(losses, kind, with_y, z[:0], empty, empty, clean[:0])
        spoiled = z.clone()
        spoiled[1, 4] = spoiled[2] = spoiled[3, target[3]] = spoiled[0, 5] = NAN
        spoiled[0, 2] = spoiled[4, 7] = -torch.tensor(NAN)  # the sign of a NaN means nothing
        yield f"{name}nan", partial(losses, kind, with_y, spoiled, target, y, clean)
        yield f"{name}nan prediction", partial(nan_rows, kind, spoiled, target, y if with_y else None, clean)
        special = torch.tensor(list(product((-INF, INF, NAN, 0.0, 2.0), repeat=4)))[:: 1 if kind == "ce" else 3]
        index = (torch.arange(len(special)) % 4, (torch.arange(len(special)) % 4 + 1) % 4)
        shuffled = special[torch.randperm(len(special), generator=generator(3))]
        yield f"{name}special", partial(losses, kind, with_y, special.contiguous(), *index, shuffled)
    for kind, away in (("ce", "kl"), ("dlr", "dlr"), ("margin", "ce"), ("kl", "dlr")):
        for classes in (5, 10, 1000):
            yield f"{kind} and {away} C={classes}", partial(both_kinds, kind, away, classes)
    for dtype in (torch.float32, torch.bfloat16):
        yield f"confident {dtype}", partial(confident, dtype)


def both_kinds(kind: str, away: str, classes: int) -> None:
    """Each row has the loss of its kind, and the same bits as in a batch of that kind alone."""
    z, target, y, clean = rows(7 if classes < 100 else 3, classes)
    targeted = torch.arange(len(z)) % 3 == 0
    given = [y if kind == "dlr" else None, clean if "kl" in (kind, away) else None]
    found = call(kernels.logit_loss, z, target, kind, *given, away, targeted)
    wide = [t.double() if t is not None and t.is_floating_point() else t for t in given]
    expected = reference.logit_loss(z.double(), target, kind, *wide, away, targeted)
    for ours, theirs in zip(found, expected, strict=True):
        (close if ours.is_floating_point() else same_bits)(ours, theirs)
    given_alone = {
        kind: [given[0], given[1] if kind == "kl" else None],
        away: [None, given[1] if away == "kl" else None],
    }
    for part, one in ((targeted, kind), (~targeted, away)):
        if kind != away:
            alone = call(kernels.logit_loss, z, target, one, *given_alone[one])
            for ours, theirs in zip(found, alone, strict=True):
                same_bits(ours[part], theirs[part])


def nan_rows(kind: str, z: Tensor, target: Tensor, y: Tensor | None, clean: Tensor) -> None:
    _, _, pred, reached = call(kernels.logit_loss, z, target, kind, y, clean if kind == "kl" else None)
    same_bits(pred, z.argmax(1))  # a NaN counts as largest
    same_bits(reached, z.argmax(1) == target)


def confident(dtype: torch.dtype) -> None:
    """Where p_t - 1 would round to 0 the gradient stays, and the exponential is precise over its whole range."""
    gap = torch.linspace(0, 87, 301).to(dtype)
    z = torch.stack([torch.zeros_like(gap), -gap], dim=1)
    loss, dlogits, _, _ = call(kernels.logit_loss, z, torch.zeros(len(gap), dtype=torch.int64), "ce", None, None)
    close(dlogits[:, 1], torch.sigmoid(-gap.double()), rtol=2.0**-8 if dtype == torch.bfloat16 else 3e-7, atol=0)
    close(dlogits[:, 0], -torch.sigmoid(-gap.double()), rtol=2.0**-8 if dtype == torch.bfloat16 else 3e-7, atol=0)
    close(loss, torch.log1p(torch.exp(-gap.double())), rtol=1e-6, atol=0)


def draw(
    n: int, classes: int, by_label: bool, ids: bool = False, seed: int = 5, stream: int = 0, small: bool = False
) -> None:
    weight = torch.rand((classes, classes) if by_label else (classes,), generator=generator(classes)) ** 4
    if classes > 4:
        weight[..., ::3] = 0.0
    # A table of small numbers lets draws fall on the borders between classes.
    table = (weight > 0).long().cumsum(-1) if small else target_table(weight)
    label = torch.randint(classes, (n,), generator=generator(1))
    sample_ids = torch.tensor([IDS[i % len(IDS)] + i for i in range(n)], dtype=torch.int64) if ids else None
    expected = reference.sample_targets(label, table, sample_ids, seed, stream)
    same_bits(call(kernels.sample_targets, label, table, sample_ids, seed, stream), expected)
    if n > 3:
        label[2], label[3] = -1, classes
        expected[2:4] = -1
        same_bits(call(kernels.sample_targets, label, table, sample_ids, seed, stream), expected)


def sample_targets() -> Iterator[Case]:
    for n, classes, by_label in pairs((0, 1, 257), (2, 3, 10, 1000), (False, True)):
        yield f"{n} {classes} {by_label}", partial(draw, n, classes, by_label)
        yield f"{n} {classes} {by_label} small", partial(draw, n, classes, by_label, small=True)
    for seed, stream in product(SEEDS, (0, 2**32 - 1)):
        yield f"seed {seed} stream {stream}", partial(draw, 5, 10, True, True, seed, stream)


def count(n: int, classes: int, with_loss: bool, with_target: bool, invalid: bool = False) -> None:
    g = generator(n + classes)
    pred, label, target = (torch.randint(classes, (n,), generator=g) for _ in range(3))
    loss = torch.randn(n, generator=g) * 20
    edges = torch.tensor(
        [NAN, INF, -INF, 2.0**31, -(2.0**31), 2147483520.0, -2147483520.0, 3e38, 2.0**-33, 3 * 2.0**-33]
    )
    loss[: len(edges)] = edges[:n]
    keep = torch.ones(n, dtype=torch.bool)
    if invalid:
        pred[0], label[1], label[2] = classes, -1, 2**40
        keep[:3] = False
        if with_target:
            target[3], keep[3] = -7, False
    expected = torch.arange((HEADER + classes) * classes).view(HEADER + classes, classes)
    ours = Guarded(expected)
    reference.class_stats_(
        expected, pred[keep], label[keep], loss[keep] if with_loss else None, target[keep] if with_target else None
    )
    call(kernels.class_stats_, ours.tensor, pred, label, loss if with_loss else None, target if with_target else None)
    ours.check()
    same_bits(ours.tensor, expected)


def count_logits(n: int, classes: int, dtype: torch.dtype, with_target: bool) -> None:
    """The integers of class_stats with the loss and the prediction of logit_loss, all three of this backend."""
    z, label, target, _ = rows(n, classes, 9.0, dtype)
    if n > 6:
        z[0], z[1, 1], z[2, 0], z[3, 1] = -INF, NAN, INF, -INF
        label[4], target[5] = -1, classes
    hit = target if with_target else None
    loss, _, pred, _ = call(kernels.logit_loss, z, label, "ce", None, None)
    expected = torch.arange((HEADER + classes) * classes).view(HEADER + classes, classes)
    ours = Guarded(expected)
    call(kernels.class_stats_, expected, pred, label, loss, hit)
    call(kernels.logit_stats_, ours.tensor, z, label, hit)
    ours.check()
    same_bits(ours.tensor, expected)


def logit_stats() -> Iterator[Case]:
    for options in pairs((0, 1, 9), (2, 3, 10, 101, 2049), LOW_PRECISION, (False, True)):
        yield f"{options}", partial(count_logits, *options)


def class_stats() -> Iterator[Case]:
    for options in pairs((0, 1, 9, 257), (1, 2, 3, 10, 101), (False, True), (False, True)):
        yield f"{options}", partial(count, *options)
    yield "many classes", partial(count, 1000, 1000, True, True)
    for with_loss, with_target in product((False, True), repeat=2):
        options = (40, 10, with_loss, with_target, True)
        yield f"invalid {with_loss} {with_target}", partial(count, *options)

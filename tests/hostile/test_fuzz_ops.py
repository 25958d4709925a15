"""Every op of the compiled core against the reference on hostile input: any bits in a float, any shape and layout.

``make fuzz`` runs the same tests with 10,000 examples that differ from run to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

import fairtat
from fairtat import backends
from fairtat.ops import class_stats_, logit_loss, logit_stats_, pgd_init, pgd_step_, sample_targets, target_table

NATIVE = backends.native_info()
if NATIVE is None:
    pytest.skip("needs the compiled core", allow_module_level=True)

# Sixty examples for each op in the everyday run, or as many as the profile asks for.
fuzz = settings(
    max_examples=max(60, settings.default.max_examples if settings.default else 0),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
LARGEST = torch.finfo(torch.float32).max
LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)
SPECIAL = [0.0, -0.0, 1e-45, -1e-42, 1.2e-38, 1e-20, 1e19, -2e19, 1e38, -LARGEST, LARGEST, np.inf, -np.inf, np.nan]

floats = st.one_of(st.sampled_from(SPECIAL), st.floats(-2, 2, width=32), st.floats(width=32))
logits = st.one_of(
    st.sampled_from([0.0, 1.0, -np.inf, np.inf, np.nan, 1e-40, 1e38, -1e38]), st.floats(-200, 200, width=32)
)
radii = st.one_of(st.sampled_from([0.0, 1e-45, 1e-20, 0.03, 1e19, LARGEST]), st.floats(0, LARGEST, width=32))
seeds = st.one_of(st.sampled_from([0, -1, 2**63, 2**64 - 1, -(2**63)]), st.integers(-(2**63), 2**64 - 1))
streams = st.sampled_from([0, 1, 2**31, 2**32 - 1])
bounds = st.sampled_from([(0.0, 1.0), (-np.inf, np.inf), (-1e38, 1e38), (0.25, np.inf), (-0.0, 1e-45)])
shapes = hnp.array_shapes(min_dims=2, max_dims=6, min_side=0, max_side=7).filter(lambda s: np.prod(s) <= 400)
int64s = st.integers(-(2**63), 2**63 - 1)


pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Draw:
    """What an example is made of."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw

    def tensor(self, shape: tuple[int, ...], elements: Any = floats, dtype: Any = np.float32) -> Tensor:
        return torch.from_numpy(self.draw(hnp.arrays(dtype, shape, elements=elements)))

    def layout(self, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
        """Any order of a sample's dimensions in memory."""
        order = self.draw(st.permutations(range(1, len(shape))))
        there = [0, *order]
        back = [there.index(i) for i in range(len(shape))]
        return lambda t: t.permute(there).contiguous().permute(back)

    def by_sample(self, n: int) -> float | Tensor:
        return self.tensor((n,), radii) if self.draw(st.booleans()) else self.draw(radii)

    def ids(self, n: int) -> Tensor | None:
        return self.tensor((n,), int64s, np.int64) if self.draw(st.booleans()) else None

    def indices(self, n: int, classes: int) -> Tensor:
        return self.tensor((n,), st.integers(0, classes - 1), np.int64)

    def both(self, run: Callable[[str], Any]) -> tuple[Any, Any]:
        """(what the core returns on one of its instruction sets with some threads, what the reference returns)."""
        core, threads = backends.native.core(), torch.get_num_threads()
        before = core.isa()
        core.set_isa(self.draw(st.sampled_from(core.isas())))
        torch.set_num_threads(self.draw(st.sampled_from([1, 3])))
        try:
            return run("cpu"), run("reference")
        finally:
            core.set_isa(before)
            torch.set_num_threads(threads)


def same_bits(ours: Tensor, theirs: Tensor) -> None:
    """To the last bit and the sign of zero; one NaN is as good as another."""
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[ours.element_size()]
    same = ours.contiguous().view(integer) == theirs.contiguous().view(integer)
    if ours.is_floating_point():
        same |= ours.isnan() & theirs.isnan()
    assert bool(same.all()), f"{ours[~same]} is not {theirs[~same]}"


def near(ours: Tensor, theirs: Tensor, tolerance: Tensor) -> None:
    """Within the tolerance; NaN where the other is. What overflows in one may be the largest number in the other."""
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert torch.equal(ours.isnan(), theirs.isnan()), f"{ours} is not {theirs}"
    top = torch.finfo(ours.dtype).max
    a, b = (t.double().nan_to_num(0.0).clamp(-top, top) for t in (ours, theirs))
    wrong = (a - b).abs() > tolerance
    assert not bool(wrong.any()), f"{ours[wrong]} is not {theirs[wrong]}"


def largest(t: Tensor) -> Tensor:
    """(N, 1, ...) the largest finite magnitude of each sample."""
    flat = torch.where(t.isfinite(), t.double().abs(), 0.0).flatten(1)
    top = flat.amax(1) if flat.shape[1] else flat.new_zeros(len(t))
    return top.view(-1, *[1] * (t.ndim - 1))


@fuzz
@given(data=st.data())
def test_pgd_init(data: st.DataObject) -> None:
    d = Draw(data)
    shape = d.draw(shapes)
    x = d.layout(shape)(d.tensor(shape))
    eps = d.by_sample(shape[0])
    init, norm = d.draw(st.sampled_from(["uniform", "normal", "zero"])), d.draw(st.sampled_from(["linf", "l2"]))
    options = {
        "seed": d.draw(seeds), "stream": d.draw(streams), "sample_ids": d.ids(shape[0]), "bounds": d.draw(bounds),
        "init": init, "norm": norm,
    }  # fmt: skip
    ours, theirs = d.both(lambda backend: pgd_init(x, eps, **options, backend=backend))
    assert ours.stride() == theirs.stride()
    if init == "zero" or (init, norm) == ("uniform", "linf"):
        same_bits(ours, theirs)
        return
    radius = torch.as_tensor(eps, dtype=torch.float64).expand(shape[0]).view(-1, *[1] * (len(shape) - 1))
    move = radius if init == "uniform" else radius.clamp_max(0.01)  # of a normal start, 1e-3 * z
    near(ours, theirs, 3e-7 * torch.where(x.isfinite(), x.double().abs(), 0.0) + 1e-5 * move + 1e-44)


@fuzz
@given(data=st.data())
def test_pgd_step(data: st.DataObject) -> None:
    d = Draw(data)
    shape = d.draw(shapes)
    layout = d.layout(shape)
    x_adv, x = (layout(d.tensor(shape)) for _ in range(2))
    if d.draw(st.booleans()):
        x_adv = x + 0.0
    grad = layout(d.tensor(shape).to(d.draw(st.sampled_from(LOW_PRECISION))))
    eps, step = d.by_sample(shape[0]), d.by_sample(shape[0])
    norm = d.draw(st.sampled_from(["linf", "l2"]))
    targeted = d.draw(st.booleans())
    mixed = torch.arange(shape[0]) % 3 == 0 if d.draw(st.booleans()) else targeted
    options = {"norm": norm, "bounds": d.draw(bounds), "targeted": mixed}
    input_dtype = d.draw(st.sampled_from([None, *LOW_PRECISION]))
    statistics = [d.tensor((shape[1],)) for _ in range(2)] if d.draw(st.booleans()) else None
    counted = d.draw(st.booleans())
    velocity = layout(d.tensor(shape).nan_to_num(0.0, 1.0, -1.0)) if d.draw(st.booleans()) else None
    momentum = 0.0 if velocity is None else d.draw(st.sampled_from([0.0, 0.9, 1.0]))

    def run(backend: str) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        moved = torch.empty_like(x_adv).copy_(x_adv)
        count = torch.arange(shape[0]) if counted else None
        model_input = None if input_dtype is None else torch.empty_like(x_adv, dtype=input_dtype)
        mean, std = (None, None) if input_dtype is None or statistics is None else statistics
        speed = None if velocity is None else torch.empty_like(x_adv).copy_(velocity)
        pgd_step_(
            moved, grad, x, eps, step, model_input=model_input, mean=mean, std=std, zero_grad=count, backend=backend,
            velocity=speed, momentum=momentum, **options,
        )  # fmt: skip
        return moved, model_input, count, speed

    (ours, our_input, our_count, our_speed), (theirs, _, their_count, their_speed) = d.both(run)
    if our_speed is not None:
        same_bits(our_speed, their_speed)
    if norm == "linf":
        same_bits(ours, theirs)
    else:
        radius, towards = (torch.as_tensor(v, dtype=torch.float64).expand(shape[0]) for v in (eps, step))
        column = (-1, *[1] * (len(shape) - 1))
        farthest = torch.minimum(radius.view(column), largest(x_adv) + towards.view(column))
        near(ours, theirs, 1e-6 * (largest(x) + farthest) + 1e-5 * theirs.double().nan_to_num().abs() + 1e-44)
    if our_count is not None:
        same_bits(our_count, their_count)
    if our_input is not None and input_dtype is not None:
        expected = ours
        if statistics is not None:
            per_channel = (1, -1, *[1] * (len(shape) - 2))
            expected = (ours - statistics[0].view(per_channel)) / statistics[1].view(per_channel)
        same_bits(our_input, expected.to(input_dtype))


@fuzz
@given(data=st.data())
def test_logit_loss(data: st.DataObject) -> None:
    d = Draw(data)
    kind, with_y = d.draw(
        st.sampled_from([("ce", False), ("margin", False), ("dlr", False), ("dlr", True), ("kl", False)])
    )
    fewest = {"ce": 1, "kl": 1, "margin": 2, "dlr": 4 if with_y else 3}[kind]
    n, classes = (
        d.draw(st.integers(0, 20)),
        d.draw(st.one_of(st.integers(fewest, 20), st.sampled_from([63, 64, 65, 130]))),
    )
    dtype, clean_dtype = (d.draw(st.sampled_from(LOW_PRECISION)) for _ in range(2))
    z, clean = d.tensor((n, classes), logits).to(dtype), d.tensor((n, classes), logits).to(clean_dtype)
    target, y = d.indices(n, classes), d.indices(n, classes)
    if d.draw(st.booleans()):
        z = z.t().contiguous().t()
    options = {"kind": kind, "y": y if with_y else None, "clean_logits": clean if kind == "kl" else None}
    ours, theirs = d.both(lambda backend: logit_loss(z, target, **options, backend=backend))
    same_bits(ours.pred, theirs.pred)
    same_bits(ours.reached, theirs.reached)
    scale = largest(z) + (largest(clean) if kind == "kl" else 0.0)
    near(ours.loss, theirs.loss, 1e-6 + (2e-6 * scale + 2e-5 * largest(theirs.loss[:, None]))[:, 0])
    rounding = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9}.get(dtype, 3e-5)
    smallest = 2.0**-23 if dtype == torch.float16 else 2e-38
    # The entries of dlr share the rounding of the largest; those of kl are differences of probabilities.
    floor = {"dlr": 2e-5 * largest(theirs.dlogits), "kl": 2e-6}.get(kind, 0.0)
    near(ours.dlogits, theirs.dlogits, rounding * theirs.dlogits.double().nan_to_num().abs() + floor + smallest)


@fuzz
@given(data=st.data())
def test_class_stats(data: st.DataObject) -> None:
    d = Draw(data)
    n, classes = d.draw(st.integers(0, 40)), d.draw(st.sampled_from([2, 3, 10, 70]))
    pred, label, target = (d.indices(n, classes) for _ in range(3))
    loss = d.tensor((n,)) if d.draw(st.booleans()) else None
    hit = target if d.draw(st.booleans()) else None
    bad = d.draw(st.sampled_from([None, None, None, -1, classes, 2**63 - 1, -(2**63)])) if n else None
    if bad is not None:
        d.draw(st.sampled_from([pred, label, target]))[d.draw(st.integers(0, n - 1))] = bad

    def run(backend: str) -> tuple[Tensor, bool]:
        stats = fairtat.ClassStats(classes)
        refused = False
        for _ in range(3):
            try:
                class_stats_(stats, pred, label, loss=loss, target=hit, backend=backend)
            except ValueError:
                refused = True
        return stats.buffer, refused

    (ours, our_refusal), (theirs, their_refusal) = d.both(run)
    assert our_refusal == their_refusal
    same_bits(ours, theirs)


@fuzz
@given(data=st.data())
def test_logit_stats(data: st.DataObject) -> None:
    """The integers of class_stats_ with the loss and the prediction of logit_loss, on the same backend."""
    d = Draw(data)
    n = d.draw(st.integers(0, 40))
    classes = d.draw(st.one_of(st.integers(2, 20), st.sampled_from([63, 64, 65, 130])))
    z = d.tensor((n, classes), logits).to(d.draw(st.sampled_from(LOW_PRECISION)))
    label, target = d.indices(n, classes), d.indices(n, classes)
    if d.draw(st.booleans()):
        z = z.t().contiguous().t()
    hit = target if d.draw(st.booleans()) else None
    bad = d.draw(st.sampled_from([None, None, None, -1, classes, 2**63 - 1, -(2**63)])) if n else None
    if bad is not None:
        d.draw(st.sampled_from([label, target]))[d.draw(st.integers(0, n - 1))] = bad

    def run(backend: str) -> tuple[Tensor, bool]:
        stats, parts = fairtat.ClassStats(classes), fairtat.ClassStats(classes)
        try:
            logit_stats_(stats, z, label, hit, backend=backend)
        except ValueError:
            return stats.buffer, True
        result = logit_loss(z, label, backend=backend)
        class_stats_(parts, result.pred, label, loss=result.loss, target=hit, backend=backend)
        same_bits(stats.buffer, parts.buffer)
        return stats.buffer, False

    (ours, our_refusal), (theirs, their_refusal) = d.both(run)
    assert our_refusal == their_refusal
    counts = [i for i in range(len(ours)) if i not in (3, 4)]  # without the sums of losses
    same_bits(ours[counts], theirs[counts])


@fuzz
@given(data=st.data())
def test_sample_targets(data: st.DataObject) -> None:
    d = Draw(data)
    n, classes = d.draw(st.integers(0, 40)), d.draw(st.sampled_from([2, 3, 10, 70]))
    shape = (classes, classes) if d.draw(st.booleans()) else (classes,)
    weight = d.tensor(shape, st.one_of(st.sampled_from([0.0, 1e-45, 1.0, LARGEST]), st.floats(0, 2, width=32)))
    try:
        table = target_table(weight)
    except ValueError:
        weight = weight + 1.0
        table = target_table(weight)
    label = d.indices(n, classes)
    options = {"seed": d.draw(seeds), "stream": d.draw(streams), "sample_ids": d.ids(n)}
    ours, theirs = d.both(lambda backend: sample_targets(label, table, **options, backend=backend))
    same_bits(ours, theirs)
    assert not bool((ours == label).any())
    chosen = weight[ours] if weight.ndim == 1 else weight[label, ours]
    assert bool((chosen > 0).all())

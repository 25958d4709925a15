"""The ops as citizens of PyTorch: schemas, fake tensors, autograd modes and versions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from op_calls import CALLS, NAMES, OP_NAMES, Stats, assert_equal, buffer, every_op, images, index, logits, table
from torch._subclasses import FakeTensorMode
from torch.library import opcheck

from fairtat import backends
from fairtat.ops import class_stats_, logit_loss, pgd_init, pgd_step_, target_table

channels_last = torch.channels_last


OPS = torch.ops.fairtat
SAMPLES: dict[str, tuple[Any, Callable[[], tuple[Any, ...]]]] = {
    "pgd_init": (OPS.pgd_init, lambda: (images(), None, 0.1, None, 3, 0, "uniform", "linf", 0.0, 1.0)),
    "pgd_init of a leaf, every option": (
        OPS.pgd_init,
        lambda: (
            images().contiguous(memory_format=channels_last).requires_grad_(), torch.rand(4), 0.0, torch.arange(4) - 2,
            -1, 2**32 - 1, "normal", "l2", -1.0, 2.0,
        ),
    ),
    "pgd_init of bytes": (
        OPS.pgd_init_and_input,
        lambda: (
            (images() * 255).byte(), None, 0.1, None, 3, 0, "uniform", "linf", 0.0, 1.0, torch.empty(4, 3, 5, 7),
            torch.empty(4, 3, 5, 7, dtype=torch.bfloat16), torch.rand(3), torch.rand(3) + 1,
        ),
    ),
    "pgd_init, empty": (
        OPS.pgd_init, lambda: (images(0), None, 0.1, None, 3, 0, "zero", "linf", 0.0, 1.0),
    ),
    "pgd_step_": (
        OPS.pgd_step_,
        lambda: (images(), images(), images(), None, 0.1, None, 0.1, True, "linf", 0.0, 1.0, *[None] * 5, 0.0, 0),
    ),
    "pgd_step_, every option": (
        OPS.pgd_step_,
        lambda: (
            *(images().contiguous(memory_format=channels_last) for _ in range(3)),
            torch.rand(4), 0.0, torch.rand(4), 0.0, False, "l2", 0.0, 1.0,
            torch.empty(4, 3, 5, 7, dtype=torch.bfloat16, memory_format=channels_last),
            torch.rand(3), torch.rand(3) + 1, torch.zeros(4, dtype=torch.int64),
            torch.rand(4, 3, 5, 7).contiguous(memory_format=channels_last), 0.9, 0,
        ),
    ),
    "pgd_step_, l1": (
        OPS.pgd_step_,
        lambda: (
            images(), images(), images(), None, 2.0, None, 1.0, True, "l1", 0.0, 1.0, None, None, None, None,
            images() / 9, 0.9, 5,
        ),
    ),
    "logit_loss": (OPS.logit_loss, lambda: (logits().requires_grad_(), index(), "ce", None, None, None, None)),
    "logit_loss, dlr in bfloat16": (
        OPS.logit_loss, lambda: (logits().bfloat16(), index(), "dlr", index(4, 1), None, None, None),
    ),
    "logit_loss, kl": (OPS.logit_loss, lambda: (logits(), index(), "kl", None, logits().half(), None, None)),
    "logit_loss, mixed": (
        OPS.logit_loss, lambda: (logits(), index(), "ce", None, logits(), "kl", torch.arange(4) % 2 == 0),
    ),
    "sample_targets": (OPS.sample_targets, lambda: (index(), table(), None, 5, 0)),
    "sample_targets, every option": (
        OPS.sample_targets, lambda: (index(), target_table(torch.rand(6, 6) + 0.1), torch.arange(4) - 9, -5, 7),
    ),
    "class_stats_": (OPS.class_stats_, lambda: (buffer(), index(), index(4, 1), None, None)),
    "class_stats_, every option": (
        OPS.class_stats_, lambda: (buffer(), index(), index(4, 1), torch.rand(4), index(4, 2)),
    ),
}  # fmt: skip
for op, kernel in ((op, definition.name) for op, definition in backends.OPS.items()):
    if kernel not in SAMPLES:
        SAMPLES |= {name: (getattr(OPS, kernel), partial(tuple, given)) for name, given in CALLS[op]().items()}


def test_every_op_has_its_public_call() -> None:
    assert set(OP_NAMES) == {definition.name for definition in backends.OPS.values()}


# The checks do not depend on the backend, except that its kernel must do what the schema says: one each in turn.
@pytest.mark.parametrize(
    ("backend", "name"), [(NAMES[i % len(NAMES)], name) for i, name in enumerate(SAMPLES)], indirect=["backend"]
)
def test_opcheck(backend: str, name: str) -> None:
    op, sample = SAMPLES[name]
    # Schema and mutation, registration with autograd, the fake implementation, and tracing with dynamic shapes.
    opcheck(op.default, (*sample(), backend))


@pytest.mark.parametrize("name", OP_NAMES)
@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_autograd_mode_gives_the_same(
    backend: str, name: str, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    function, tensors = every_op(backend)[name]
    outside = tensors(4)
    expected = function(*(t.clone() for t in outside))
    with mode():
        assert_equal(function(*(t.clone() for t in outside)), expected)  # tensors made inside
        assert_equal(function(*outside), expected)  # and outside


def test_nothing_that_an_op_makes_asks_for_a_gradient(backend: str) -> None:
    x, z = images().requires_grad_(), logits().requires_grad_()
    made = [pgd_init(x, 0.1, seed=0, init=init, norm=norm, backend=backend) for init in ("uniform", "normal", "zero")
            for norm in ("linf", "l2")]  # fmt: skip
    made += logit_loss(z, index(), backend=backend)
    x_adv = pgd_step_(images(), x, x, 0.1, 0.1, norm="l2", backend=backend)
    assert not any(t.requires_grad for t in (*made, x_adv))


def test_what_is_written_in_place_is_known_to_autograd(backend: str) -> None:
    x_adv, model_input, count, statistics = images(), images(), torch.zeros(4, dtype=torch.int64), buffer()
    weight = torch.ones(4, 3, 5, 7, requires_grad=True)
    products = [weight * x_adv, weight * model_input]
    pgd_step_(x_adv, images(), images(), 0.1, 0.1, model_input=model_input, zero_grad=count, backend=backend)
    class_stats_(Stats(statistics), index(), index(), backend=backend)
    assert all(t._version > 0 for t in (x_adv, model_input, count, statistics))
    for product in products:  # their backward passes need the values from before the step
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


def test_what_is_only_read_keeps_its_version(backend: str) -> None:
    grad, x, label, z = images(), images(), index(), logits()
    pgd_init(x, 0.1, seed=0, backend=backend)
    pgd_step_(images(), grad, x, 0.1, 0.1, backend=backend)
    logit_loss(z, label, backend=backend)
    class_stats_(Stats(buffer()), label, label, backend=backend)
    assert [t._version for t in (grad, x, label, z)] == [0, 0, 0, 0]


def described(value: Any) -> list[tuple[Any, ...]]:
    values = value if isinstance(value, tuple) else (value,)
    return [(tuple(t.shape), t.dtype, t.stride()) for t in values]


@pytest.mark.parametrize("name", OP_NAMES)
@pytest.mark.parametrize("n", [0, 4])
def test_fake_tensors_tell_the_shapes(backend: str, name: str, n: int) -> None:
    function, tensors = every_op(backend)[name]
    expected = described(function(*tensors(n)))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = function(*(mode.from_tensor(t) for t in tensors(n)))
    assert described(fake) == expected


@pytest.mark.parametrize("name", ["pgd_init", "pgd_step_", "logit_loss", "class_stats_"])
def test_meta_tensors_tell_the_shapes(name: str) -> None:
    function, tensors = every_op("auto")[name]
    expected = described(function(*tensors(4)))
    assert described(function(*(t.to("meta") for t in tensors(4)))) == expected


@pytest.mark.parametrize("name", OP_NAMES)
def test_the_users_defaults_do_not_leak_into_a_kernel(backend: str, name: str) -> None:
    function, tensors = every_op(backend)[name]
    expected = function(*tensors(4))
    given = tensors(4)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert_equal(function(*given), expected)
    finally:
        torch.set_default_dtype(torch.float32)

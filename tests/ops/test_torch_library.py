"""The ops as citizens of PyTorch: schemas, fake tensors, autograd modes and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from op_calls import CALLS
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

from fairtat import backends
from fairtat.ops import class_stats_, logit_loss, logit_stats_, pgd_init, pgd_step_, sample_targets, target_table
from fairtat.reference.class_stats import HEADER

NAMES = ["reference"] + (["cpu"] if backends.status()["cpu"].available else [])
channels_last = torch.channels_last


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@dataclass
class Stats:
    buffer: Tensor


def images(n: int = 4) -> Tensor:
    return torch.rand(n, 3, 5, 7, generator=torch.Generator().manual_seed(n))


def logits(n: int = 4) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(n))


def index(n: int = 4, shift: int = 0) -> Tensor:
    return (torch.arange(n) + shift) % 6


def buffer() -> Tensor:
    return torch.zeros(HEADER + 6, 6, dtype=torch.int64)


def table() -> Tensor:
    return target_table(torch.arange(1.0, 7.0))


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


# The checks do not depend on the backend, except that its kernel must do what the schema says: one each in turn.
@pytest.mark.parametrize(
    ("backend", "name"), [(NAMES[i % len(NAMES)], name) for i, name in enumerate(SAMPLES)], indirect=["backend"]
)
def test_opcheck(backend: str, name: str) -> None:
    op, sample = SAMPLES[name]
    # Schema and mutation, registration with autograd, the fake implementation, and tracing with dynamic shapes.
    opcheck(op.default, (*sample(), backend))


# Each public function once, as a function of tensors alone: (function of the backend, its tensors for a batch of n).
def every_op(backend: str) -> dict[str, tuple[Callable[..., Any], Callable[[int], tuple[Tensor, ...]]]]:
    def start(x: Tensor, eps: Tensor) -> Tensor:
        return pgd_init(x, eps, seed=3, backend=backend)

    def step(x_adv: Tensor, grad: Tensor, x: Tensor, model_input: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
        pgd_step_(
            x_adv, grad, x, 0.1, 0.02, model_input=model_input, mean=mean, std=std, zero_grad=count, backend=backend
        )
        return x_adv + 0.0, model_input, count

    def loss(z: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return tuple(logit_loss(z, target, kind="margin", backend=backend))

    def targets(label: Tensor, ids: Tensor) -> Tensor:
        return sample_targets(label, TABLE, seed=1, sample_ids=ids, backend=backend)

    def count(statistics: Tensor, pred: Tensor, label: Tensor, losses: Tensor) -> Tensor:
        return class_stats_(Stats(statistics), pred, label, loss=losses, target=label, backend=backend).buffer

    def count_logits(statistics: Tensor, z: Tensor, label: Tensor) -> Tensor:
        return logit_stats_(Stats(statistics), z, label, label, backend=backend).buffer

    return {
        "pgd_init": (start, lambda n: (images(n), torch.linspace(0, 0.2, n))),
        "pgd_step_": (
            step,
            lambda n: (
                images(n), images(n) - 0.5, images(n), torch.empty(n, 3, 5, 7, dtype=torch.bfloat16),
                torch.zeros(n, dtype=torch.int64),
            ),
        ),
        "logit_loss": (loss, lambda n: (logits(n), index(n))),
        "sample_targets": (targets, lambda n: (index(n), torch.arange(n) - 2)),
        "logit_stats_": (count_logits, lambda n: (buffer(), logits(n), index(n, 1))),
        "class_stats_": (count, lambda n: (buffer(), index(n), index(n, 1), torch.linspace(-1, 2, n))),
    }  # fmt: skip


TABLE = table()
OP_NAMES = list(every_op("auto"))


def assert_equal(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# What is traced differs between "auto" and a name, not from one name to another.
@pytest.mark.parametrize(
    ("choice", "name"), [*(("auto", name) for name in OP_NAMES), *((choice, "pgd_step_") for choice in NAMES)]
)
def test_compiles_into_one_graph(name: str, choice: str) -> None:
    function, tensors = every_op(choice)[name]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    given, same = tensors(4), [t.clone() for t in tensors(4)]
    given[-1].copy_(same[-1])
    for _ in range(2):
        assert_equal(compiled(*given), function(*same))
    # What the op writes in place reaches the caller's tensors.
    for ours, expected in zip(given, same, strict=True):
        assert_equal(ours, expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", OP_NAMES)
def test_one_dynamic_graph_serves_every_batch_size(name: str) -> None:
    function, tensors = every_op("auto")[name]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for n in (4, 9, 23):
        given = tensors(n)
        same = [t.clone() for t in given]
        assert_equal(compiled(*given), function(*same))
    assert counter.frame_count == 2  # the first batch's graph, and the one for all others


def test_new_seeds_and_streams_do_not_compile_again() -> None:
    # A training loop draws with another seed or stream in every step.
    def draw(x: Tensor, label: Tensor, seed: int, stream: int) -> tuple[Tensor, Tensor]:
        start = pgd_init(x, 0.1, seed=seed, stream=stream)
        return start, sample_targets(label, TABLE, seed=seed, stream=stream)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(draw, fullgraph=True, backend=counter)
    for step in range(8):
        assert_equal(compiled(images(), index(), 1000 + step, step + 2), draw(images(), index(), 1000 + step, step + 2))
    assert counter.frame_count <= 2
    for seed in (2**63, 2**64 - 1, -(2**63)):
        assert_equal(compiled(images(), index(), seed, 2), draw(images(), index(), seed, 2))


def test_radii_in_a_tensor_do_not_compile_again() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, eps: pgd_init(x, eps, seed=0), fullgraph=True, backend=counter)
    for eps in torch.linspace(0, 1, 12):
        assert_equal(compiled(images(), eps), pgd_init(images(), eps, seed=0))
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", OP_NAMES)
def test_inductor_serves_every_op(backend: str, name: str) -> None:
    function, tensors = every_op(backend)[name]
    given = tensors(4)
    same = [t.clone() for t in given]
    assert_equal(torch.compile(function, fullgraph=True)(*given), function(*same))
    for ours, expected in zip(given, same, strict=True):
        assert_equal(ours, expected)


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


class Watching(Tensor):
    """A subclass that only wants to see what is called."""

    seen: list[str]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(str(func))
        with torch._C._DisableTorchDispatch():
            return func(*args, **(kwargs or {}))


def test_a_tensor_subclass_sees_the_op() -> None:
    Watching.seen = []
    pgd_init(Tensor._make_subclass(Watching, images()), 0.1, seed=1)
    assert "fairtat.pgd_init.default" in Watching.seen


def test_tracing_real_tensors_records_the_op() -> None:
    graph = make_fx(lambda x: pgd_init(x, 0.1, seed=1) + 1)(images())
    assert "fairtat.pgd_init.default" in str(graph.graph)


def test_a_function_transform_sees_the_op() -> None:
    expected = pgd_init(images(), 0.1, seed=1) + 1
    assert torch.equal(torch.func.functionalize(lambda x: pgd_init(x, 0.1, seed=1) + 1)(images()), expected)


def with_pending_negation(t: Tensor) -> Tensor:
    """The values of ``t``, as a view of their negation that nobody has carried out yet."""
    return torch._neg_view(-t)


def imaginary_part(t: Tensor) -> Tensor:
    """The same as PyTorch itself makes them: the imaginary part of a conjugate."""
    pairs = torch.view_as_complex(torch.stack([torch.zeros_like(t), -t], dim=-1))
    return pairs.conj().imag


@pytest.mark.parametrize("name", OP_NAMES)
def test_a_pending_negation_is_carried_out(backend: str, name: str) -> None:
    function, tensors = every_op(backend)[name]
    given = tensors(4)
    for i in range(len(given)):
        same = [t.clone() for t in given]
        expected = function(*same)
        lazy = [with_pending_negation(t) if i == j else t.clone() for j, t in enumerate(given)]
        assert_equal(function(*lazy), expected)
        for ours, theirs in zip(lazy, same, strict=True):  # what is written in place, too
            assert_equal(ours, theirs)


def test_a_pending_negation_of_every_argument_is_carried_out(backend: str) -> None:
    eps, step = torch.linspace(0.0, 0.3, 4), torch.linspace(0.2, 0.01, 4)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    z, clean, y = logits(), logits(4).flip(0), index(4, 1)
    lazy = with_pending_negation

    def stepped(form: Callable[[Tensor], Tensor]) -> Tensor:
        model_input = torch.empty(4, 3, 5, 7)
        pgd_step_(
            images(), images() - 0.5, images(), form(eps), form(step), model_input=model_input, mean=form(mean),
            std=form(std), backend=backend,
        )  # fmt: skip
        return model_input

    assert_equal(stepped(lazy), stepped(Tensor.clone))
    for kind, given in (("kl", {"clean_logits": clean}), ("dlr", {"y": y})):
        expected = logit_loss(z, index(), kind=kind, **given, backend=backend)
        changed = {argument: lazy(t) for argument, t in given.items()}
        assert_equal(logit_loss(z, index(), kind=kind, **changed, backend=backend), expected)
    assert_equal(
        sample_targets(index(), lazy(TABLE), seed=1, backend=backend),
        sample_targets(index(), TABLE, seed=1, backend=backend),
    )


def test_the_imaginary_part_of_a_conjugate_has_its_sign(backend: str) -> None:
    z = imaginary_part(logits())
    assert z.is_neg()
    assert_equal(tuple(logit_loss(z, index(), backend=backend)), tuple(logit_loss(logits(), index(), backend=backend)))
    x = imaginary_part(images().double()).float()
    assert_equal(pgd_init(x, 0.1, seed=1, backend=backend), pgd_init(images(), 0.1, seed=1, backend=backend))


@pytest.mark.parametrize("name", ["pgd_init", "logit_loss", "sample_targets"])  # the others: an error of PyTorch's
def test_functional_tensors_take_the_dispatcher(backend: str, name: str) -> None:
    function, tensors = every_op(backend)[name]
    expected = function(*tensors(4))
    result = function(*map(torch._to_functional_tensor, tensors(4)))
    results = result if isinstance(result, tuple) else (result,)
    for r in results:
        torch._sync(r)
    assert_equal(
        tuple(map(torch._from_functional_tensor, results)), expected if isinstance(expected, tuple) else (expected,)
    )


def test_a_tensor_of_zeros_without_memory_is_read_as_zeros(backend: str) -> None:
    # What forward-mode differentiation makes.
    zeros = torch._efficientzerotensor(4, 6)
    expected = logit_loss(torch.zeros(4, 6), index(), backend=backend)
    assert_equal(tuple(logit_loss(zeros, index(), backend=backend)), tuple(expected))


@pytest.mark.parametrize("name", ["pgd_init", "logit_loss", "sample_targets"])
def test_vmap_maps_the_op(backend: str, name: str) -> None:
    function, tensors = every_op(backend)[name]
    batches = [tensors(4), tuple(t.flip(0).contiguous() for t in tensors(4))]
    given = [torch.stack(pair) for pair in zip(*batches, strict=True)]
    expected = [function(*batch) for batch in batches]
    result = torch.vmap(function)(*given)
    for i, one in enumerate(expected):
        assert_equal(tuple(t[i] for t in result) if isinstance(result, tuple) else result[i], one)


class Wrapper(Tensor):
    """A subclass without memory: the values are in another tensor."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        wrapper = Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype)
        wrapper.inner = inner
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        unwrapped = [a.inner if isinstance(a, Wrapper) else a for a in args]
        return func(*unwrapped, **(kwargs or {}))


@pytest.mark.parametrize("name", OP_NAMES)
def test_a_wrapper_decides_what_the_op_reads(backend: str, name: str) -> None:
    function, tensors = every_op(backend)[name]
    expected = function(*tensors(4))
    assert_equal(function(*map(Wrapper, tensors(4))), expected)


def test_a_function_mode_sees_the_op() -> None:
    class Seeing(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen: list[str] = []
    with Seeing():
        pgd_init(images(), 0.1, seed=1)
    assert "fairtat.pgd_init.default" in seen

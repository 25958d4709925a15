"""Tensors that are more than memory: subclasses, wrappers, pending negations, and what traces or maps a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_calls import OP_NAMES, TABLE, assert_equal, every_op, images, index, logits
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fairtat.ops import logit_loss, pgd_init, pgd_step_, sample_targets


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

"""Registration with torch.library, in one way for every op.

The ops take no part in autograd: the Autograd key falls through, and what they write counts as data
(as under no_grad).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fairtat import backends

_LIBRARY = torch.library.Library("fairtat", "DEF")

Call = Callable[..., Any]


def _nothing(*_: Any) -> None:
    """The fake of an op that returns nothing, and the check of one that needs none."""


def _as_is(kernel: Call, *arguments: Any) -> Any:
    return kernel(*arguments)


def register_op(schema: str, *, fake: Call = _nothing, check: Call = _nothing, run: Call = _as_is) -> Call:
    """`register` an op of `fairtat.reference.OPS`, whose kernel is that of a backend, named in its last argument.

    What the schema marks as written counts as changed for autograd.

    Args:
        schema: Without the backend. An underscore ends the name of an op that works in place.
        fake: Makes tensors like the results from the arguments.
        check: Raises below the dispatcher, where tensors have addresses, if the arguments cannot be served.
        run: Calls the kernel, its first argument, where the op's arguments are not the kernel's.
    """
    op = schema.partition("(")[0].removesuffix("_")
    parsed = torch._C.parse_schema(schema).arguments
    written = [i for i, argument in enumerate(parsed) if argument.is_write]

    def implementation(*arguments: Any) -> Any:
        given = arguments[:-1]
        check(*given)
        result = run(backends.kernel(op, arguments[-1]), *given)
        for i in written:
            t = given[i]
            # A mutating schema alone does not bump the version.
            if t is not None and not t.is_inference():
                torch.autograd.graph.increment_version(t)
        return result

    def fake_of(*arguments: Any) -> Any:
        return fake(*arguments[:-1])

    return register(schema.replace(") -> ", ", str backend) -> "), implementation, fake_of)


def register(schema: str, implementation: Call, fake: Call) -> Call:
    """Define ``fairtat::<schema>`` with one implementation for all devices and its fake; return how to call it.

    The call goes through PyTorch's dispatcher where something may be watching or rewriting (compilation, fake tensors,
    tracing, function transforms, tensor subclasses), and where a tensor is not what its memory holds (a pending
    negation, no memory at all). Elsewhere the dispatcher would only hand the arguments to ``implementation``, at some
    microseconds per call, which is as long as a small op takes: there it is left out.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    overload = getattr(torch.ops.fairtat, name).default
    described = overload._schema.arguments
    tensors = [i for i, argument in enumerate(described) if argument.type.isSubtypeOf(_MAYBE_TENSOR)]
    written = [i for i in tensors if described[i].is_write]

    def on_copies(*arguments: Any) -> Any:
        """With a copy of each tensor that is not what its memory holds; what was written to a copy goes back."""
        given = list(arguments)
        for i in tensors:
            if given[i] is not None:
                given[i] = given[i].clone() if given[i]._is_zerotensor() else given[i].resolve_neg()
        result = overload(*given)
        for i in written:
            if given[i] is not arguments[i]:
                arguments[i].copy_(given[i])
        return result

    _LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    # PyTorch's own fallbacks fail where an optional tensor is None, and hand over zeros with strides of 0.
    for key in ("Negative", "ZeroTensor"):
        _LIBRARY.impl(name, on_copies, key)
    torch.library.register_fake(f"fairtat::{name}", fake, lib=_LIBRARY)

    def call(*arguments: Any) -> Any:
        if is_compiling() or _dispatch_modes() or _function_modes() or _function_transform():
            return overload(*arguments)
        for i in tensors:
            t = arguments[i]
            if t is None:
                continue
            # A subclass of Tensor may do as it likes. A functional, zero or meta tensor has no memory.
            if type(t) not in _PLAIN or t.is_neg() or (t.data_ptr() == 0 and t.numel() > 0):
                return overload(*arguments)
        return implementation(*arguments)

    return call


def _nobody_can_tell() -> int:
    return 1


# Private names of PyTorch: where a release has moved one, every call goes through the dispatcher.
_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", _nobody_can_tell)
_function_modes: Callable[[], int] = getattr(torch._C, "_len_torch_function_stack", _nobody_can_tell)
_function_transform: Callable[[], Any] = getattr(torch._C._functorch, "peek_interpreter_stack", _nobody_can_tell)

_PLAIN = frozenset({Tensor, torch.nn.Parameter})
_MAYBE_TENSOR = torch._C.OptionalType(torch._C.TensorType.get())

"""Registration with torch.library, one way for every op.

The ops take no part in autograd: the Autograd key falls through, and what they write counts as data
(as under no_grad).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("fairtat", "DEF")

Call = Callable[..., Any]


def register(schema: str, implementation: Call, fake: Call) -> Call:
    """Define ``fairtat::<schema>`` with one implementation for all devices and its fake; return how to call it.

    The call goes through PyTorch's dispatcher where somebody may be watching or rewriting (compilation, fake tensors,
    tracing, function transforms, tensor subclasses). Elsewhere the dispatcher would only hand the arguments to
    ``implementation``, at some microseconds a call, which is as long as a small op takes: there it is left out.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"fairtat::{name}", fake, lib=_LIBRARY)
    overload = getattr(torch.ops.fairtat, name).default

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or _watched(arguments):
            return overload(*arguments)
        return implementation(*arguments)

    return call


def _nobody_can_tell() -> int:
    return 1


# Private names of PyTorch: where a release has moved one, every call goes through the dispatcher.
_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", _nobody_can_tell)
_function_transform: Callable[[], Any] = getattr(torch._C._functorch, "peek_interpreter_stack", _nobody_can_tell)


_PLAIN = frozenset({Tensor, torch.nn.Parameter, type(None), bool, int, float, str})


def _watched(arguments: tuple[Any, ...]) -> bool:
    if _dispatch_modes() != 0 or _function_transform() is not None:
        return True
    return not _PLAIN.issuperset(map(type, arguments))  # a subclass of Tensor may do as it likes


def mark_written(*tensors: Tensor | None) -> None:
    """Tell autograd that these tensors changed: a mutating schema alone does not bump their version."""
    for t in tensors:
        if t is not None and not t.is_inference():
            torch.autograd.graph.increment_version(t)

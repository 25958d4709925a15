"""Registration with torch.library, in one way for every op.

The ops take no part in autograd: the Autograd key falls through, and what they write counts as data
(as under no_grad).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.compiler import is_compiling

from fairtat import backends
from fairtat.backends import native
from fairtat.backends.signature import ON_CPU, signature
from fairtat.checks import check_apart
from fairtat.reference import OPS
from fairtat.reference.definition import Argument

_LIBRARY = torch.library.Library("fairtat", "DEF")

Call = Callable[..., Any]


def _nothing(*_: Any) -> None:
    """What an op makes that returns nothing."""


# What people call the arguments of kernels, where that is another name.
_PUBLIC = {"buffer": "stats.buffer", "eps_n": "eps", "step_n": "step_size"}


@dataclass(frozen=True)
class Op:
    """An op that is registered: called, it takes the kernel's arguments, which Python has checked, and the backend.

    `usual` and `direct` are the short way for the usual call, in which neither PyTorch's dispatcher nor a check in
    Python has anything to do. A backend that cannot serve the call is not a usual one: the checks refuse it, in their
    order::

        if chosen := op.usual(backend, tensor, *arguments):
            return op.direct(chosen, *kernel_arguments)
    """

    call: Call
    usual: Callable[..., str | None]  # the backend for arguments of the usual form; None for any others
    direct: Call  # as `call`, without dispatcher and checks; the backend comes first

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


def register_op(op: str, *, name: str | None = None, without: Collection[str] = (), usual: Sequence[str] = ()) -> Op:
    """`register` an op of `fairtat.reference.OPS`; a backend's name is its last argument.

    Its definition says what it takes, which follows in the schema, what it makes, and what it writes: that counts as
    changed for autograd, and shares memory with nothing else.

    Args:
        op: The key of `OPS`.
        name: Of the schema, where it is not the kernel's.
        without: Arguments at the kernel's end that the schema leaves out, as they have defaults.
        usual: The usual form of the arguments of `Op.usual`, as rules of `fairtat.backends.signature`: such as the
            checks in Python would pass as they are, and every backend serves. The first one is a tensor.
    """
    definition = OPS[op]
    arguments = [a for a in definition.op_arguments() if a.name not in without]
    written = [i for i, a in enumerate(arguments) if a.written]
    read = [i for i, a in enumerate(arguments) if a.type == "Tensor" and not a.written]
    in_memory = written + read if written else []
    names = [_PUBLIC.get(arguments[i].name, arguments[i].name) for i in in_memory]
    makes = definition.makes or _nothing
    makes_out = definition.makes_out
    fits = signature(*usual)

    def direct(backend: str, *given: Any) -> Any:
        kernel = backends.kernel(op, backend)
        if makes_out:
            result = makes(*given)
            kernel(result, *given)  # an attack has room for its start, so the kernel allocates none
        else:
            result = kernel(*given)
        for i in written:
            t = given[i]
            # A mutating schema alone does not bump the version.
            if t is not None and not t.is_inference():
                increment_version(t)
        return result

    def implementation(*given: Any) -> Any:
        # Here, below the dispatcher, tensors have addresses.
        check_apart(names, [given[i] for i in in_memory], names[: len(written)])
        return direct(given[-1], *given[:-1])

    def fake(*given: Any) -> Any:
        return makes(*given[:-1])

    def chosen(backend: str, *given: Any) -> str | None:
        if _is_watched():
            return None
        place = fits(*given)
        if not place:
            return None
        if place == ON_CPU and backend in ("auto", "cpu") and native.MISSING is None:
            return "cpu"  # what `choose` would say, which takes as long as the rest
        try:
            return backends.choose(op, given[0].device, torch.float32, backend)
        except ValueError:
            return None

    schema = schema_of(name or definition.name, arguments, definition.results())
    return Op(register(schema, implementation, fake), chosen, direct)


def schema_of(name: str, arguments: Iterable[Argument], results: int) -> str:
    """The schema of an op that takes these arguments and a backend, and returns so many tensors."""
    aliases = iter(string.ascii_lowercase)
    described = []
    for a in arguments:
        kind = f"{a.type}({next(aliases)}!)" if a.written else a.type
        described.append(f"{kind}{'?' if a.optional else ''} {a.name}")
    returned = "Tensor" if results == 1 else f"({', '.join(['Tensor'] * results)})"
    return f"{name}({', '.join(described)}, str backend) -> {returned}"


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
        if _is_watched():
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


def _is_watched() -> Any:
    """Whether something may be watching or rewriting the calls of ops: whatever is true or false."""
    return is_compiling() or _dispatch_modes() or _function_modes() or _function_transform()


def _nobody_can_tell() -> int:
    return 1


# Private names of PyTorch: where a release has moved one, every call goes through the dispatcher.
_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", _nobody_can_tell)
_function_modes: Callable[[], int] = getattr(torch._C, "_len_torch_function_stack", _nobody_can_tell)
_function_transform: Callable[[], Any] = getattr(torch._C._functorch, "peek_interpreter_stack", _nobody_can_tell)

_PLAIN = frozenset({Tensor, torch.nn.Parameter})
_MAYBE_TENSOR = torch._C.OptionalType(torch._C.TensorType.get())

"""Autocast's casts of frozen weights, made once for many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class CastOnce(TorchDispatchMode):
    """In here a tensor of these is cast once to each dtype, and later casts are given the first one's result.

    Autocast has a cache for that, but not for tensors that need no gradient: 10 steps through a network of 60 weights
    make 600 casts. As a mode it costs Python time on every operation, so it is for work that is recorded, not run.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._tensors = {id(t): t for t in tensors}
        self._made: dict[tuple[Any, ...], tuple[Tensor, tuple[int, int]]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.aten._to_copy.default or id(args[0]) not in self._tensors:
            return func(*args, **kwargs)
        key = id(args[0]), *sorted(kwargs.items())
        cast, versions = self._made.get(key, (None, None))
        # A forward that writes to its weight, or to what it cast from it, gets a fresh one.
        if cast is None or versions != (args[0]._version, cast._version):
            cast = func(*args, **kwargs)
            self._made[key] = cast, (args[0]._version, cast._version)
        return cast

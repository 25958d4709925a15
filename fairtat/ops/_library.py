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


def register(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define ``fairtat::<schema>`` with one implementation for all devices and its fake."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"fairtat::{name}", fake, lib=_LIBRARY)


def mark_written(*tensors: Tensor | None) -> None:
    """Tell autograd that these tensors changed: a mutating schema alone does not bump their version."""
    for t in tensors:
        if t is not None and not t.is_inference():
            torch.autograd.graph.increment_version(t)

"""The Triton kernels against the reference: every op's table of equality, as a program.

``TRITON_INTERPRET=1 python equality.py OP ...`` runs them on CPU tensors under Triton's interpreter; without the
variable they are compiled and run on a GPU. Prints one JSON object a line, with the op, the case and its failure.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from functools import partial
from typing import Any

import equality_of_classes as classes
import equality_of_images as images
import numpy as np
import torch
import triton.language as tl
from op_calls import CALLS, check, run
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle
from triton_calls import DEVICE, Case


def cast_impl(
    self: Any, src: TensorHandle, dst_type: Any, original: Any = InterpreterBuilder.cast_impl
) -> TensorHandle:
    """The interpreter truncates to bfloat16 and loses subnormals on the way back; GPUs round and keep them."""
    source, result = src.dtype.scalar, dst_type.scalar
    if source == tl.bfloat16 and result == tl.float32:
        return TensorHandle((src.data.astype(np.uint32) << 16).view(np.float32), result)
    if source == tl.float32 and result == tl.bfloat16:
        rounded = torch.from_numpy(np.ascontiguousarray(src.data)).bfloat16()
        return TensorHandle(rounded.view(torch.uint16).numpy(), result)
    return original(self, src, dst_type)


def cases(op: str) -> Iterator[Case]:
    """An op's own table, where it has one with more than the calls that all tests share."""
    table = getattr(images, op, None) or getattr(classes, op, None)
    if table is not None:
        yield from table()
        return
    for name, arguments in CALLS[op]().items():
        yield name, partial(agrees, op, name, arguments)


def agrees(op: str, name: str, arguments: tuple[Any, ...]) -> None:
    check(name, run(op, "triton", arguments, DEVICE), run(op, "reference", arguments))


def main(ops: list[str]) -> None:
    InterpreterBuilder.cast_impl = cast_impl
    # Fresh tensors hold NaN: what a kernel forgets to write cannot pass for a result.
    torch.use_deterministic_algorithms(True)
    np.seterr(all="ignore")  # infinities and lanes that are computed and not used
    for op in ops:
        for case, holds in cases(op):
            failure = None
            try:
                holds()
            except Exception:
                failure = traceback.format_exc(limit=-4)
            print(json.dumps({"op": op, "case": case, "failure": failure}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Compiles the Triton kernels for GPUs that are not there and prints what each needs, one JSON object a line.

Its own process, because a process whose Triton was imported as the interpreter cannot compile:
``python compile_ahead.py cuda:80 cuda:90 hip:gfx942``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from op_calls import CALLS
from torch import Tensor
from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fairtat.backends import OPS, kernel
from fairtat.backends import triton as launches
from fairtat.reference.class_stats import HEADER

BF16, F16, F32, I64 = torch.bfloat16, torch.float16, torch.float32, torch.int64
POINTER = {F32: "*fp32", BF16: "*bf16", F16: "*fp16", I64: "*i64", torch.bool: "*i1"}
CHANNELS_LAST = torch.channels_last
BATCH = (16, 3, 32, 32)

Launch = tuple[JITFunction[Any], dict[str, Any], dict[str, Any]]  # kernel, arguments, compile options


def empty(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    """Shape, strides and dtype are all that a launch is compiled for."""
    return torch.empty(shape, dtype=dtype, device="meta")


def step(
    norm: str, grad: torch.dtype, everything: bool, shape: tuple[int, ...] = BATCH, momentum: bool = False
) -> None:
    x, n = empty(*shape), shape[0]
    eps, steps = (empty(n), empty(n)) if everything else (None, None)
    mean, std = (empty(shape[1]), empty(shape[1])) if everything else (None, None)
    model_input = empty(*shape, dtype=BF16) if everything else None
    count = empty(n, dtype=I64) if everything else None
    gradient = empty(*shape, dtype=grad)
    launches.pgd_step_(
        x, gradient, x, eps, 0.1, steps, 0.1, True, norm, 0.0, 1.0, model_input, mean, std, count,
        x if momentum else None, 0.9,
    )  # fmt: skip


def start(init: str, norm: str, x: Tensor) -> None:
    ids = empty(x.shape[0], dtype=I64)
    launches.pgd_init(torch.empty_like(x), x, None, 0.1, ids, 0, 0, init, norm, 0.0, 1.0)


def loss(kind: str, with_y: bool, classes: int, dtype: torch.dtype, away: str | None = None) -> None:
    logits, index = empty(16, classes, dtype=dtype), empty(16, dtype=I64)
    targeted = None if away is None else empty(16, dtype=torch.bool)
    clean = logits if "kl" in (kind, away) else None
    launches.logit_loss(logits, index, kind, index if with_y else None, clean, away, targeted)


def targets(*table: int) -> None:
    index = empty(16, dtype=I64)
    launches.sample_targets(index, empty(*table, dtype=I64), None, 0, 0)


def stats(classes: int, full: bool) -> None:
    index = empty(16, dtype=I64)
    buffer = empty(HEADER + classes, classes, dtype=I64)
    launches.class_stats_(buffer, index, index, empty(16) if full else None, index if full else None)


def calls() -> Iterator[tuple[str, Callable[[], None]]]:
    """One call for each form of each kernel."""
    for norm, grad in product(("linf", "l2"), (F32, BF16, F16)):
        yield f"pgd_step {norm} {grad}", partial(step, norm, grad, False)
        yield f"pgd_step {norm} {grad} everything", partial(step, norm, grad, True)
        yield f"pgd_step {norm} {grad} everything with momentum", partial(step, norm, grad, True, momentum=True)
    for norm in ("linf", "l2"):
        yield f"pgd_step {norm} odd", partial(step, norm, F32, True, (3, 3, 33, 31))
        yield f"pgd_step {norm} huge", partial(step, norm, F32, False, (1, 2**31))
    for init, norm in product(("uniform", "normal", "zero"), ("linf", "l2")):
        if (init, norm) != ("zero", "l2"):  # the same launch as for linf
            x = empty(*BATCH)
            yield f"pgd_init {norm} {init}", partial(start, init, norm, x)
            yield f"pgd_init {norm} {init} channels_last", partial(start, init, norm, x.to(memory_format=CHANNELS_LAST))
            shuffled = empty(4, 5, 3, 4, 3).permute(0, 4, 3, 2, 1)
            yield f"pgd_init {norm} {init} shuffled", partial(start, init, norm, shuffled)
            yield f"pgd_init {norm} {init} huge", partial(start, init, norm, empty(1, 2**31))
    kinds = (("ce", False), ("kl", False), ("margin", False), ("dlr", False), ("dlr", True))
    for (kind, with_y), classes, dtype in product(kinds, (10, 1000, 21841), (F32, BF16, F16)):
        if dtype != F16 or kind == "ce":
            yield f"logit_loss {kind} {with_y} {classes} {dtype}", partial(loss, kind, with_y, classes, dtype)
    for classes, dtype in product((10, 1000, 21841), (F32, BF16)):
        yield f"logit_loss ce kl {classes} {dtype}", partial(loss, "ce", False, classes, dtype, "kl")
        yield f"logit_loss dlr dlr {classes} {dtype}", partial(loss, "dlr", True, classes, dtype, "dlr")
    yield "sample_targets one row", partial(targets, 10)
    yield "sample_targets by label", partial(targets, 1000, 1000)
    for classes, full in product((10, 1000), (False, True)):
        yield f"class_stats {classes} {full}", partial(stats, classes, full)
    for op in OPS.keys() - {"pgd_step", "pgd_init", "logit_loss", "sample_targets", "class_stats"}:
        for name, arguments in CALLS[op]().items():
            yield (
                name,
                partial(kernel(op, "triton"), *(a.to("meta") if isinstance(a, Tensor) else a for a in arguments)),
            )


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Launches are noted instead of made."""
    launched: list[Launch] = []

    def run(kernel: JITFunction[Any], *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        given = dict(zip(kernel.arg_names, arguments, strict=False))
        given |= {name: options.pop(name) for name in kernel.arg_names if name in options}
        launched.append((kernel, given, options))

    before = JITFunction.run
    JITFunction.run = run
    yield launched
    JITFunction.run = before


def source(kernel: JITFunction[Any], given: dict[str, Any]) -> ASTSource:
    """What Triton compiles for such a launch: integers of 1 are constants, multiples of 16 are known to be so."""
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        plain = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1 and plain):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[parameter.name], attributes[(i,)] = POINTER[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = parameter.annotation_type or ("i32" if value < 2**31 else "i64")
            if value % 16 == 0 and plain:
                attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def cuda_report(compiled: Any) -> dict[str, Any]:
    """Registers and memory from the binary itself, and the arithmetic from its PTX."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        text = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text))
    ptx = compiled.asm["ptx"]
    return {
        "registers": int(usage["REG"]),
        "spilled": int(usage["STACK"]) + int(usage["LOCAL"]),
        "fused": len(re.findall(r"\bfma\.", ptx)),
        "flushed": len(re.findall(r"\.ftz\b", ptx)),
        "inexact": len(re.findall(r"\.approx\b|\bdiv\.full\b", ptx)),
        "extrema": len(re.findall(r"\b(?:min|max)(?:\.\w+)*\.f32", ptx)),
        "vector_loads": len(re.findall(r"ld\.global\.v4\.b32", ptx)),
    }


def hip_report(compiled: Any) -> dict[str, Any]:
    text = compiled.asm["amdgcn"]

    def number(field: str) -> int:
        found = re.search(rf"\.{field}:\s+(\d+)", text)
        assert found is not None, field
        return int(found[1])

    return {
        "registers": number("vgpr_count"),
        "spilled": number("vgpr_spill_count") + number("sgpr_spill_count") + number("private_segment_fixed_size"),
        "fused": len(re.findall(r"\bv_(?:fma|fmac|mad|mac)_f(?:32|64)", text)),
        "flushed": 0,
        "inexact": 0,
        "vector_loads": len(re.findall(r"(?:global|buffer)_load_dwordx4", text)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--only", default="", help="calls whose name starts so")
    parser.add_argument("--exactly", default="", help="calls of these names, separated by commas")
    parser.add_argument("--cubins", type=Path, help="folder for the machine code of each call on NVIDIA")
    parser.add_argument("--fuse", default="", help="one call more, with the contraction that the launches forbid")
    given = parser.parse_args()
    for name in given.targets:
        backend, _, arch = name.partition(":")
        target = GPUTarget("cuda", int(arch), 32) if backend == "cuda" else GPUTarget("hip", arch, 64)
        launches.WARP = target.warp_size
        for call, launch in calls():
            fused = call == given.fuse
            if not call.startswith(given.only) and not fused:
                continue
            if given.exactly and call not in given.exactly.split(","):
                continue
            with recorded() as launched:
                launch()
            for launched_kernel, arguments, options in launched:
                if fused:
                    options["enable_fp_fusion"] = True
                compiled = triton.compile(source(launched_kernel, arguments), target=target, options=options)
                if given.cubins is not None:
                    (given.cubins / f"{call}.cubin").write_bytes(compiled.asm["cubin"])
                report = cuda_report(compiled) if backend == "cuda" else hip_report(compiled)
                threads = options["num_warps"] * target.warp_size
                about = {"call": call, "threads": threads, "shared": compiled.metadata.shared}
                print(json.dumps({**about, **report}), flush=True)


if __name__ == "__main__":
    main()

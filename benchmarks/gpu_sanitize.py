"""Every kernel of a GPU backend under compute-sanitizer: memcheck for accesses, racecheck for shared memory.

python benchmarks/gpu_sanitize.py                   every backend and tool, side by side; exit code 77 without the tool
python benchmarks/gpu_sanitize.py --drive cuda      what the sanitizer watches: each op on small odd shapes
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jsonfile import write_json
from phases import SKIP
from torch import Tensor

import fairtat
from fairtat import backends, ops
from fairtat.cli.selftest import run_selftest

TOOLS = ("memcheck", "racecheck")
GPU_BACKENDS = ("cuda", "triton")
SHAPES = ((3, 3, 5, 7), (2, 3, 33, 31), (5, 1, 1, 1))  # odd, beyond one block, and a single element
FOUND = 99  # the exit code for what the sanitizer found
LIMIT = 110.0  # seconds for one backend and tool
LINES = 20  # of a report

Call = tuple[str, Callable[[], object]]


def calls(backend: str) -> Iterator[Call]:
    """Each op in the forms that take different paths through its kernels, with a name for each.

    An op that has no such forms here makes its self-test.
    """
    seen = set()
    for name, call in forms(backend):
        seen.add(name.split()[0])
        yield name, call
    for op in backends.OPS.keys() - seen:
        yield f"{op} self-test", partial(selftest, op, backend)


def selftest(op: str, backend: str) -> None:
    (found,) = [check for check in run_selftest([backend]) if check.op == op]
    if not found.passed:
        raise AssertionError(found.detail)


def forms(backend: str) -> Iterator[Call]:
    device = "cpu" if backend in ("cpu", "reference") else "cuda"
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        """Made on the host, so that the sanitizer has few kernels of PyTorch to watch."""
        return torch.rand(shape, generator=generator).to(device)

    def classes_of(n: int, classes: int) -> Tensor:
        return torch.randint(classes, (n,), generator=generator).to(device)

    for shape, norm, layout in product(SHAPES, ("linf", "l2"), (torch.contiguous_format, torch.channels_last)):
        n, channels = shape[:2]
        x, grad = (rand(*shape).contiguous(memory_format=layout) for _ in range(2))
        eps, step = rand(n), rand(n)
        for init in ("uniform", "normal", "zero"):
            start = partial(ops.pgd_init, x, eps, seed=1, init=init, norm=norm, backend=backend)
            yield f"pgd_init {init} {norm} {shape} {layout}", start
        for dtype in (torch.float32, torch.bfloat16):
            moved = partial(ops.pgd_step_, x.clone(), grad.to(dtype), x, norm=norm, backend=backend)
            yield f"pgd_step {norm} {shape} {layout} {dtype}", partial(moved, eps=0.1, step_size=0.01)
            extras = {
                "model_input": torch.empty_like(x, dtype=dtype),
                "mean": rand(channels),
                "std": rand(channels) + 0.5,
                "zero_grad": torch.zeros(n, dtype=torch.int64, device=device),
            }
            yield f"pgd_step {norm} {shape} {layout} {dtype}, all", partial(moved, eps=eps, step_size=step, **extras)
    for n, classes in ((7, 4), (3, 33), (5, 1500)):
        logits, clean, target = rand(n, classes) * 9, rand(n, classes), classes_of(n, classes)
        options: dict[str, dict[str, Tensor]] = {
            "ce": {},
            "margin": {},
            "dlr": {"y": (target + 1) % classes},
            "kl": {"clean_logits": clean},
        }
        for kind, more in options.items():
            loss = partial(ops.logit_loss, logits, target, kind=kind, backend=backend)
            yield f"logit_loss {kind} C={classes}", partial(loss, **more)
    for n, classes in ((301, 7), (301, 300)):  # counted in shared memory, and beyond it
        label, pred, target = (classes_of(n, classes) for _ in range(3))
        for size in ((classes,), (classes, classes)):
            table = ops.target_table(torch.rand(size, generator=generator) + 0.1).to(device)
            yield f"sample_targets {size}", partial(ops.sample_targets, label, table, seed=1, backend=backend)
        stats = fairtat.ClassStats(classes, device=device)
        count = partial(ops.class_stats_, stats, pred, label, backend=backend)
        yield f"class_stats C={classes}", count
        yield f"class_stats C={classes}, losses and targets", partial(count, loss=rand(n), target=target)


def drive(backend: str) -> int:
    """Run every call; whether its numbers are right is for the tests, here they have only to be numbers."""
    wrong, done = [], 0
    for name, call in calls(backend):
        result = call()
        tensors = [t for t in (result if isinstance(result, tuple) else (result,)) if isinstance(t, Tensor)]
        if not all(bool(t.cpu().isfinite().all()) for t in tensors):
            wrong.append(name)
        done += 1
    print(f"not finite: {', '.join(wrong)}" if wrong else f"{done} calls")
    return 1 if wrong else 0


def find_sanitizer() -> str | None:
    """On PATH, or in the folder of CUDA's tools."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [str(Path(home) / "bin") for home in homes if home] + ["/usr/local/cuda/bin"]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def watch(sanitizer: str, tool: str, backend: str) -> dict[str, Any]:
    """One backend under one tool; ``found`` is its report, empty where there was nothing to find."""
    state = backends.status()[backend]
    if not state.available:
        return {"backend": backend, "tool": tool, "outcome": "skipped", "detail": state.reason}
    command = [
        *(sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), "--print-limit", "10"),
        *(sys.executable, __file__, "--drive", backend),
    ]
    # Without PyTorch's memory pool every tensor is an allocation of its own, whose bounds the tool knows.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return {"backend": backend, "tool": tool, "outcome": "failed", "detail": f"not done after {LIMIT:.0f} s"}
    outcome = "passed" if done.returncode == 0 else "failed"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return {"backend": backend, "tool": tool, "outcome": outcome, "detail": "\n".join(lines[-LINES:])}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drive", choices=backends.BACKENDS, help="run every call on this backend, unwatched")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write what was found as JSON")
    arguments = parser.parse_args(argv)
    if arguments.drive:
        return drive(arguments.drive)
    sanitizer = find_sanitizer()
    if sanitizer is None:
        print("compute-sanitizer is neither on PATH nor in CUDA_HOME")
        return SKIP
    pairs = list(product(GPU_BACKENDS, TOOLS))
    with ThreadPoolExecutor(len(pairs)) as pool:
        found = list(pool.map(lambda pair: watch(sanitizer, pair[1], pair[0]), pairs))
    for one in found:
        print(f"{one['backend']}, {one['tool']}: {one['outcome']}\n{one['detail']}\n")
    if arguments.output is not None:
        write_json(arguments.output, {"runs": found})
    failed = [f"{one['backend']} {one['tool']}" for one in found if one["outcome"] == "failed"]
    print(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

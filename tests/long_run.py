"""Does memory stay flat? Thousands of compiled attacks on models that are created and dropped, at changing batch sizes.

Each model is attacked at several of the batch sizes, from which its cache keeps the last few programs, and then dropped
with all of them. What a process keeps beyond that shows as memory that grows from model to model. What calls add when
they build nothing is counted apart, in bytes that are allocated and not freed: resident memory would hide a small leak
in what was freed before.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fairtat
from fairtat.engines.cache import MAX_FAMILIES, MAX_SIZES, record_of

ROOT = Path(__file__).resolve().parents[1]
CALLS, MODELS, SIZES = 20_000, 30, 64
PROGRAMS_PER_MODEL = 5  # so that more are made than are kept; the batch sizes take turns from model to model
WARM_UP = 1 / 3  # of the run: PyTorch's compiler and allocator fill caches of their own
SETTLING = 8  # calls of a batch size, in which its program is built
MAX_GROWTH = 0.05  # of the memory after warm-up, until the end


def tiny_model(kind: int) -> nn.Module:
    """One of three architectures, of a width that no other model of the run has: a program serves one model alone."""
    width = 8 + kind
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(48, width), nn.ReLU()]
    if kind % 3 == 1:
        layers.append(nn.LayerNorm(width))
    if kind % 3 == 2:
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 5))


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class _MallInfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keep",
        )
    ]


def allocated() -> int:
    """Bytes that malloc has given out; with PYTHONMALLOC=malloc, those of every Python object too."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2  # glibc 2.33 or newer
    mallinfo2.restype = _MallInfo2
    gc.collect()
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def commit() -> str | None:
    head = ("git", "rev-parse", "--short=12", "HEAD")
    return subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or None


def programs_of(model: nn.Module) -> int:
    families = record_of(model, "compiled").families
    assert len(families) <= MAX_FAMILIES
    assert all(len(family.programs) <= MAX_SIZES for family in families.values())
    return sum(len(family.programs) for family in families.values())


def attack_one(index: int, calls: int, sizes: list[int]) -> tuple[weakref.ref[nn.Module], int, int, int]:
    """Attack a new model; (what becomes of it, the most programs it had, settled calls, bytes that these added)."""
    model, most, settled, added = tiny_model(index), 0, 0, 0
    images = torch.rand(max(sizes), 3, 4, 4)
    target = torch.arange(max(sizes)) % 5
    for k, n in enumerate(sizes):
        # Each size stays for a while, as in training: one that comes twice in a row gets a program of its own.
        window = calls * (k + 1) // len(sizes) - calls * k // len(sizes)
        before = 0
        for call in range(window):
            if call == SETTLING:
                before = allocated()
            fairtat.fast_targeted_pgd(model, images[:n], target[:n], steps=2, seed=call, engine="compiled", check=False)
            most = max(most, programs_of(model))
        if before:
            added += allocated() - before
            settled += window - SETTLING
    return weakref.ref(model), most, settled, added


def verdict(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """What the memory did after warm-up, by the means of its first and its last third: single samples jump."""
    after = [sample["rss_bytes"] for sample in samples[int(len(samples) * WARM_UP) :]]
    third = max(len(after) // 3, 1)
    begin, end = (sum(part) / len(part) for part in (after[:third], after[-third:]))
    growth = end / begin - 1
    settled = sum(sample["settled_calls"] for sample in samples)
    added = sum(sample["added_bytes"] for sample in samples)
    return {
        "rss_after_warm_up": begin,
        "rss_at_end": end,
        "growth": growth,
        "flat": growth <= MAX_GROWTH,
        "bytes_per_settled_call": added / settled if settled else None,
    }


def run(calls: int, models: int, out: Path) -> dict[str, Any]:
    """The whole run, written to ``out`` after every model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    order = random.Random(0).sample(range(1, SIZES + 1), SIZES)
    began, made = time.perf_counter(), 0
    samples: list[dict[str, Any]] = []
    for index in range(models):
        share = calls * (index + 1) // models - made
        sizes = [order[(index * PROGRAMS_PER_MODEL + k) % SIZES] for k in range(PROGRAMS_PER_MODEL)]
        gone, most, settled, added = attack_one(index, share, sizes)
        made += share
        gc.collect()
        sample = {
            "model": index,
            "calls": made,
            "rss_bytes": resident(),
            "seconds": time.perf_counter() - began,
            "programs": most,
            "settled_calls": settled,
            "added_bytes": added,
            "dropped": gone() is None,
        }
        samples.append(sample)
        result = {
            "question": "long_run",
            "commit": commit(),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
            "calls": calls,
            "models": models,
            "batch_sizes": min(SIZES, models * PROGRAMS_PER_MODEL),
            "complete": made == calls,
            "all_dropped": all(sample["dropped"] for sample in samples),
            "samples": samples,
            **verdict(samples),
        }
        out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(
            f"model {index + 1:3d} of {models}  {made:6d} calls  {sample['rss_bytes'] / 2**20:7.1f} MiB  "
            f"{sample['seconds']:7.0f} s  {most} programs",
            flush=True,
        )
    print(
        f"{result['growth']:+.1%} from warm-up to end: {'flat' if result['flat'] else 'it grows'}; "
        f"{result['bytes_per_settled_call'] or 0:+.1f} bytes for a call that builds nothing; "
        f"models {'all dropped' if result['all_dropped'] else 'kept alive'}"
    )
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=CALLS, help="attacks in all")
    parser.add_argument("--models", type=int, default=MODELS, help="models, one after another")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/long-run-cpu.json")
    options = parser.parse_args(argv)
    if not 1 <= options.models <= options.calls:
        parser.error(f"--models must be from 1 to the number of calls, got {options.models} for {options.calls}")
    result = run(options.calls, options.models, options.out)
    return 0 if result["flat"] and result["all_dropped"] else 1


if __name__ == "__main__":
    if os.environ.get("PYTHONMALLOC") != "malloc":  # small Python objects are counted only if malloc holds them
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONMALLOC": "malloc"})
    sys.exit(main())

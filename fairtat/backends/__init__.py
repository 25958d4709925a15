"""Which kernels are present, which one serves a call, and why.

``reference`` is plain PyTorch and always there; ``cpu`` is the compiled core ``fairtat._C``; ``cuda`` and
``triton`` serve GPU tensors. ``FAIRTAT_BACKEND`` names the backend that ``backend="auto"`` stands for.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fairtat import reference
from fairtat.backends import native

BACKENDS = ("cuda", "triton", "cpu", "reference")
OPS = ("pgd_init", "pgd_step", "logit_loss", "sample_targets", "class_stats")

_NATIVE: dict[str, Callable[..., Any]] = {
    "pgd_init": native.pgd_init,
    "pgd_step": native.pgd_step_,
    "logit_loss": native.logit_loss,
    "sample_targets": native.sample_targets,
    "class_stats": native.class_stats_,
}

_KERNELS: dict[str, dict[str, Callable[..., Any]]] = {
    "reference": {
        "pgd_init": reference.pgd_init,
        "pgd_step": reference.pgd_step_,
        "logit_loss": reference.logit_loss,
        "sample_targets": reference.sample_targets,
        "class_stats": reference.class_stats_,
    },
    "cpu": _NATIVE,
    "cuda": _NATIVE,  # the same arguments; the tensors' device says where they run
}

# What backend="auto" tries, in this order, by type of device. On a GPU that will be the order that a benchmark
# found on one; until there is such a measurement, only the definition is taken unasked.
_AUTO = {"cpu": ("cpu", "reference"), "cuda": ("reference",)}
_TRITON = importlib.util.find_spec("triton") is not None  # imported with the first kernel that is asked for
_SERVES = {"cpu": "cpu", "cuda": "cuda", "triton": "cuda"}  # type of device


@dataclass(frozen=True)
class Status:
    """Whether a backend can be used in this process, and the reason in words."""

    available: bool
    reason: str


def status() -> dict[str, Status]:
    """Backend name -> :class:`Status`, for every backend, fastest first."""
    states = {}
    for name in BACKENDS:
        missing = _missing(name)
        states[name] = Status(False, missing) if missing else Status(True, _about(name))
    return states


def native_info() -> dict[str, Any] | None:
    """What the compiled core reports of itself, or None where it is absent."""
    if native.MISSING is not None:
        return None
    core = native.core()
    return {
        "version": core.__version__,
        "compiler": core.compiler,
        "isa": core.isa(),
        "isas": list(core.isas()),
        "openmp": core.openmp,
        "cuda": core.cuda,
    }


def choose(op: str, device: torch.device, dtype: torch.dtype, backend: str = "auto") -> str:
    """The backend that serves ``op`` for tensors of this device and dtype.

    ``auto`` takes ``FAIRTAT_BACKEND`` where it is set and can serve the tensor, else the fastest backend that can:
    on a CPU the compiled core for everything but float64, which the reference serves.

    Raises:
        ValueError: an unknown backend, one that is not present here, or one that cannot serve this
            device or dtype.
    """
    if backend == "auto":
        preferred = os.environ.get("FAIRTAT_BACKEND") or "auto"
        if preferred != "auto":
            _check_present(preferred, "FAIRTAT_BACKEND")
            if _objection(preferred, device, dtype) is None:
                return preferred
        for name in _AUTO.get(device.type, ("reference",)):
            if _missing(name) is None and _objection(name, device, dtype) is None:
                return name
        raise AssertionError("the reference serves every tensor")
    _check_present(backend, "backend")
    objection = _objection(backend, device, dtype)
    if objection is not None:
        raise ValueError(f"backend={backend!r} cannot run {op} here: {objection}; use backend='auto'")
    return backend


def kernel(op: str, backend: str) -> Callable[..., Any]:
    """The raw kernel below the dispatcher, for hot loops whose arguments are already validated."""
    if backend == "triton" and backend not in _KERNELS:
        _KERNELS[backend] = _triton_kernels()
    return _KERNELS[backend][op]


def _triton_kernels() -> dict[str, Callable[..., Any]]:
    from fairtat.backends import triton  # imports Triton, which takes a second

    return {
        "pgd_init": triton.pgd_init,
        "pgd_step": triton.pgd_step_,
        "logit_loss": triton.logit_loss,
        "sample_targets": triton.sample_targets,
        "class_stats": triton.class_stats_,
    }


def describe() -> str:
    """What is present, what ``auto`` takes for each op, and why, as text for a person."""
    lines = ["backends:"]
    for name, state in status().items():
        lines.append(f"  {name:<10} {'yes' if state.available else 'no ':<4} {state.reason}")
    override = os.environ.get("FAIRTAT_BACKEND")
    if override:
        lines.append(f"  FAIRTAT_BACKEND={override} is what backend='auto' prefers")
    lines.append("backend='auto' takes (device, dtype):")
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for device in devices:
        for dtype in (torch.float32, torch.float64):
            chosen = {choose(op, torch.device(device), dtype) for op in OPS}
            lines.append(f"  {device}, {str(dtype).removeprefix('torch.')}: {', '.join(sorted(chosen))}")
    return "\n".join(lines)


def _check_present(backend: str, source: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"{source} must be 'auto' or one of {', '.join(BACKENDS)}, got {backend!r}")
    missing = _missing(backend)
    if missing:
        raise ValueError(f"{source}={backend!r} is not available: {missing}")


def _missing(backend: str) -> str | None:
    """Why a backend cannot be used in this process, or None. Asks the core nothing: torch.compile traces this."""
    if backend == "cpu":
        return native.MISSING
    if backend == "cuda":
        if native.MISSING is not None:
            return native.MISSING
        if not native.CUDA:
            return "the compiled core was built without CUDA (FAIRTAT_CUDA=1 and a CUDA compiler build it)"
        return None if torch.cuda.is_available() else "PyTorch sees no GPU"
    if backend == "triton":
        if not _TRITON:
            return "Triton is not installed (pip install triton)"
        return None if torch.cuda.is_available() else "PyTorch sees no GPU"
    return None


def _about(backend: str) -> str:
    if backend == "cpu":
        return f"compiled core, {native.core().isa()} instructions"
    if backend == "cuda":
        return "CUDA kernels of the compiled core; on request, not by 'auto'"
    if backend == "triton":
        return "Triton kernels, compiled when first used; on request, not by 'auto'"
    return "plain PyTorch, any device and float64"


def _objection(backend: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a backend that is present cannot serve such a tensor, or None."""
    if backend == "reference":
        return None
    if device.type != _SERVES[backend]:
        return f"it serves {_SERVES[backend].upper()} tensors, got {device}"
    if dtype == torch.float64:
        return "float64 is served by the reference alone"
    return None

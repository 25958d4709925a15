"""Which kernels are present, which one serves a call, and why.

``reference`` is plain PyTorch and always there; ``cpu`` is the compiled core ``fairtat._C``; ``cuda`` and
``triton`` serve GPU tensors. ``backend="auto"`` takes the first of an order that :mod:`fairtat.backends.auto` holds for
each op; ``FAIRTAT_BACKEND`` names a backend that goes before it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from fairtat import reference
from fairtat.backends import auto, native
from fairtat.reference import OPS

BACKENDS = ("cuda", "triton", "cpu", "reference")

Kernels = dict[str, Callable[..., Any]]


def _kernels_of(module: ModuleType) -> Kernels:
    """A backend's kernel of each op."""
    return {op: getattr(module, definition.name) for op, definition in OPS.items()}


_KERNELS: dict[str, Kernels] = {
    "reference": _kernels_of(reference),
    "cpu": _kernels_of(native),
    "cuda": _kernels_of(native),  # the same arguments; the tensors' device says where they run
}

_TRITON = importlib.util.find_spec("triton") is not None  # imported when the first kernel may be asked for
_triton_trouble: str | None = None  # why Triton, which is installed, cannot be used; None also before it was tried
_LACKS = {("pgd_step", "l1"): ("cuda", "triton")}  # (op, form of it): backends without a kernel for it
_cuda_trouble: dict[int, str | None] = {}  # GPU -> why the CUDA kernels cannot run on it; empty before they were tried
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


def choose(op: str, device: torch.device, dtype: torch.dtype, backend: str = "auto", *, form: str | None = None) -> str:
    """The backend that serves ``op``, or a form of it that not all have, for tensors of this device and dtype.

    ``auto`` takes ``FAIRTAT_BACKEND`` where it is set and can serve the tensor, else the first of the op's order that
    is present and can: on a CPU the compiled core, on a GPU the CUDA or the Triton kernels, and for float64 the
    reference.

    Raises:
        ValueError: an unknown backend, one that is not present here, or one that cannot serve this
            device, dtype or form.
    """
    if backend == "auto":
        preferred = os.environ.get("FAIRTAT_BACKEND") or "auto"
        if preferred != "auto":
            _check_present(preferred, "FAIRTAT_BACKEND", device.index)
            if _objection(preferred, device, dtype, op, form) is None:
                return preferred
        order = auto.ORDER.get(device.type)
        for name in ("reference",) if order is None else order[op]:
            if _missing(name, device.index) is None and _objection(name, device, dtype, op, form) is None:
                return name
        raise AssertionError("the reference serves every tensor")
    _check_present(backend, "backend", device.index)
    objection = _objection(backend, device, dtype, op, form)
    if objection is not None:
        raise ValueError(f"backend={backend!r} cannot run {op} here: {objection}; use backend='auto'")
    return backend


def kernel(op: str, backend: str) -> Callable[..., Any]:
    """The raw kernel below the dispatcher, for hot loops whose arguments are already validated."""
    if backend == "triton" and backend not in _KERNELS:
        _load_triton()
    return _KERNELS[backend][op]


def plan(op: str, backend: str, *arguments: Any) -> Callable[..., Any]:
    """The raw kernel with its arguments bound; each call passes, in order, those that stand as ``...`` here.

    For a loop in which most arguments stay the same: ``plan("pgd_step", backend, x_adv, ..., x, ...)`` is a step along
    the gradient that it is called with, the only argument that `pgd_step` can leave open. A plan keeps its tensors
    alive, and a call reads what they contain then.
    """
    return planner(op, backend)(*arguments)


def planner(op: str, backend: str) -> Callable[..., Callable[..., Any]]:
    """What makes a plan of arguments; see :func:`plan`."""
    if op in native.PLANS and backend in ("cpu", "cuda"):
        return native.PLANS[op]
    run = kernel(op, backend)

    def bind(*arguments: Any) -> Callable[..., Any]:
        varying = [i for i, argument in enumerate(arguments) if argument is ...]

        def call(*values: Any) -> Any:
            given = list(arguments)
            for i, value in zip(varying, values, strict=True):
                given[i] = value
            return run(*given)

        return call

    return bind


def _load_triton() -> None:
    # Imports Triton, which takes a second.
    _KERNELS["triton"] = _kernels_of(importlib.import_module("fairtat.backends.triton"))


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
            chosen = {op: choose(op, torch.device(device), dtype) for op in OPS}
            lines.append(f"  {device}, {str(dtype).removeprefix('torch.')}: {_by_op(chosen)}")
    orders = {op: " > ".join(names) for op, names in auto.GPU_ORDER.items()}
    lines.append(f"order on a GPU ({auto.MEASURED or auto.UNMEASURED}): {_by_op(orders)}")
    return "\n".join(lines)


def _by_op(values: dict[str, str]) -> str:
    """One value where all ops share it, else the ops behind each value."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    shared = {value: [op for op in values if values[op] == value] for value in values.values()}
    return "; ".join(f"{value} ({', '.join(ops)})" for value, ops in shared.items())


def _check_present(backend: str, source: str, gpu: int | None) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"{source} must be 'auto' or one of {', '.join(BACKENDS)}, got {backend!r}")
    missing = _missing(backend, gpu)
    if missing:
        raise ValueError(f"{source}={backend!r} is not available: {missing}")


def _missing(backend: str, gpu: int | None = None) -> str | None:
    """Why a backend cannot be used in this process and on this GPU (None: the current one), or None.

    While torch.compile traces this, it asks the core nothing.
    """
    if backend == "cpu":
        return native.MISSING
    if backend == "cuda":
        if native.MISSING is not None:
            return native.MISSING
        if not native.CUDA:
            return "the compiled core was built without CUDA (FAIRTAT_CUDA=1 and a CUDA compiler build it)"
        if torch.version.hip is not None:
            return "PyTorch is built for AMD GPUs, which Triton serves"
        return _trouble_with_cuda(gpu) if torch.cuda.is_available() else "PyTorch sees no GPU"
    if backend == "triton":
        if not _TRITON:
            return "Triton is not installed (pip install triton)"
        return _trouble_with_triton() if torch.cuda.is_available() else "PyTorch sees no GPU"
    return None


def _trouble_with_cuda(gpu: int | None) -> str | None:
    """Why the CUDA kernels cannot run on a GPU, or None. Asks each GPU once."""
    if torch.compiler.is_compiling():
        return None if gpu is None else _cuda_trouble.get(gpu)
    if gpu is None:
        gpu = torch.cuda.current_device()
    if gpu not in _cuda_trouble:
        _cuda_trouble[gpu] = native.cuda_trouble(gpu)
    return _cuda_trouble[gpu]


def _trouble_with_triton() -> str | None:
    """Why the Triton kernels cannot be used on this machine's GPU, or None. Tries once."""
    global _triton_trouble
    # A caller that traces for a GPU has Triton running already, and an import does not trace.
    if torch.compiler.is_compiling() or "triton" in _KERNELS or _triton_trouble is not None:
        return _triton_trouble
    try:
        _load_triton()
        # Triton builds its launcher with the machine's C compiler: better now than in the middle of an attack.
        importlib.import_module("triton").runtime.driver.active.get_current_target()
    except Exception as error:  # a broken installation may raise anything, and other backends can serve
        _KERNELS.pop("triton", None)
        reason = str(error).strip().partition("\n")[0]
        _triton_trouble = f"Triton does not work here ({type(error).__name__}: {reason})"
    return _triton_trouble


def _about(backend: str) -> str:
    if backend == "cpu":
        return f"compiled core, {native.core().isa()} instructions"
    if backend == "cuda":
        return "CUDA kernels of the compiled core"
    if backend == "triton":
        return "Triton kernels, compiled when first used"
    return "plain PyTorch, any device and float64"


def _objection(backend: str, device: torch.device, dtype: torch.dtype, op: str, form: str | None) -> str | None:
    """Why a backend that is present cannot serve such a tensor, or None."""
    if form is not None and backend in _LACKS.get((op, form), ()):
        return f"it has no kernel for {form}"
    if backend == "reference":
        return None
    if device.type != _SERVES[backend]:
        return f"it serves {_SERVES[backend].upper()} tensors, got {device}"
    if dtype == torch.float64:
        return "float64 is served by the reference alone"
    return None

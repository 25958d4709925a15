"""The compiled core on CPU and CUDA tensors: unpacks tensors into pointers and sizes, and nothing else.

The core knows no PyTorch. Callers have validated shapes, dtypes, devices and memory formats.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import EllipsisType, ModuleType
from typing import Any

import torch  # first: the core shares the OpenMP runtime that PyTorch has loaded
from torch import Tensor

from fairtat._version import __version__
from fairtat.reference.class_stats import ClassStatsArgs
from fairtat.reference.definition import taking
from fairtat.reference.logit_loss import LogitLossArgs, Result, empty_result
from fairtat.reference.logit_stats import LogitStatsArgs
from fairtat.reference.pgd_init import PgdInitArgs
from fairtat.reference.pgd_step import PgdStepArgs
from fairtat.reference.sample_targets import SampleTargetsArgs, empty_targets


def _load() -> tuple[ModuleType | None, str | None]:
    """The core, or why it cannot be used."""
    try:
        # By name: `from fairtat import _C` would import the package that imports this module.
        core = importlib.import_module("fairtat._C")
    except ImportError as error:
        return None, f"the compiled core is not installed ({error}); reinstall where a C++ compiler is present"
    if core.__version__ != __version__:
        return None, f"the compiled core is of version {core.__version__}, not {__version__}: reinstall fairtat"
    return core, None


_core, MISSING = _load()  # MISSING: why the core cannot be used, or None
CUDA = bool(_core is not None and _core.cuda)  # whether the core was built with its CUDA kernels

_DTYPE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_NORM = {"linf": 0, "l2": 1, "l1": 2}
_INIT = {"uniform": 0, "normal": 1, "zero": 2}
_KIND = {"ce": 0, "margin": 1, "dlr": 2, "kl": 3}
_LOW64 = (1 << 64) - 1


def core() -> ModuleType:
    """The module ``fairtat._C``; only where :data:`MISSING` is None."""
    assert _core is not None, MISSING
    return _core


def cuda_trouble(device: int) -> str | None:
    """Why the CUDA kernels of the core cannot run on a GPU, or None: its driver, or the architectures of the build."""
    try:
        return core().cuda_trouble(device) or None
    except RuntimeError as error:  # what CUDA refuses
        return f"the kernels cannot run on GPU {device} ({error})"


def _place(t: Tensor) -> tuple[int, int]:
    """Where a call runs: device -1 for the CPU, else the tensor's device and PyTorch's current stream on it."""
    if not t.is_cuda:
        return -1, 0
    return t.get_device(), torch.cuda.current_stream(t.device).cuda_stream


def _pointer(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def _dtype(t: Tensor | None) -> int:
    return 0 if t is None else _DTYPE[t.dtype]


@taking(PgdInitArgs)
def pgd_init(a: PgdInitArgs) -> None:
    core().pgd_init(
        a.out.data_ptr(), a.x.data_ptr(), a.x.shape[0], inner_layout(a.x), _pointer(a.eps_n), a.eps,
        _pointer(a.sample_ids), a.seed & _LOW64, a.stream, _INIT[a.init], _NORM[a.norm], a.lo, a.hi,
        _pointer(a.pixels), _pointer(a.model_input), _dtype(a.model_input), _pointer(a.mean), _pointer(a.std),
        *channels_of(a.x, a.mean), torch.get_num_threads(), *_place(a.x),
    )  # fmt: skip


def _room_for_sums(a: PgdStepArgs) -> Tensor | None:
    """What blocks that share a large step in l2 leave for each other; None: this step is not one."""
    if a.norm != "l2" or a.velocity is not None or _place(a.x_adv)[0] < 0 or a.x.numel() == 0:
        return None
    numbers = core().l2_sums(a.x[0].numel())
    return torch.empty(len(a.x) * numbers, dtype=torch.float64, device=a.x.device) if numbers else None


def _step_fields(a: PgdStepArgs, grad: Tensor, sums: Tensor | None) -> tuple[Any, ...]:
    n = a.x.shape[0]
    return (
        a.x_adv.data_ptr(), grad.data_ptr(), _DTYPE[grad.dtype], a.x.data_ptr(), n, a.x.numel() // n if n else 0,
        _pointer(a.eps_n), a.eps, _pointer(a.step_n), a.step, a.targeted, _NORM[a.norm], a.lo, a.hi,
        _pointer(a.model_input), _dtype(a.model_input), _pointer(a.mean), _pointer(a.std), *channels_of(a.x, a.mean),
        _pointer(a.zero_grad), _pointer(a.velocity), a.momentum, a.kept, _pointer(sums),
        torch.get_num_threads(), *_place(a.x_adv),
    )  # fmt: skip


_GRAD_FIELDS = (1, 2)  # its address and dtype, of the fields above


@taking(PgdStepArgs)
def pgd_step_(a: PgdStepArgs) -> None:
    sums = _room_for_sums(a)
    core().pgd_step(*_step_fields(a, a.grad, sums))


@taking(PgdStepArgs)
def plan_pgd_step_(a: PgdStepArgs) -> Callable[[Tensor], None]:
    """A function of the gradient alone; see :func:`fairtat.backends.plan`."""
    assert isinstance(a.grad, EllipsisType)
    sums = _room_for_sums(a)
    # Another tensor stands in for the gradient.
    run = core().pgd_step_plan(_step_fields(a, a.x_adv, sums), _GRAD_FIELDS)

    def step_along(grad: Tensor, kept: object = (a, sums)) -> None:  # the tensors that the plan points to
        run(grad.data_ptr(), _DTYPE[grad.dtype], *_place(a.x_adv))

    return step_along


PLANS: dict[str, Callable[..., Callable[..., Any]]] = {"pgd_step": plan_pgd_step_}


@taking(LogitLossArgs)
def logit_loss(a: LogitLossArgs) -> Result:
    n, classes = a.logits.shape
    loss, dlogits, pred, reached = result = empty_result(a.logits, a.target)
    core().logit_loss(
        a.logits.data_ptr(), _DTYPE[a.logits.dtype], a.target.data_ptr(), n, classes, _KIND[a.kind],
        _KIND[a.kind_away or a.kind], _pointer(a.targeted), _pointer(a.y), _pointer(a.clean_logits),
        _dtype(a.clean_logits), loss.data_ptr(), dlogits.data_ptr(), pred.data_ptr(), reached.data_ptr(),
        torch.get_num_threads(), *_place(a.logits),
    )  # fmt: skip
    return result


@taking(SampleTargetsArgs)
def sample_targets(a: SampleTargetsArgs) -> Tensor:
    target = empty_targets(a.label)
    core().sample_targets(
        a.label.data_ptr(), a.table.data_ptr(), a.label.shape[0], a.table.shape[-1], a.table.ndim == 2,
        _pointer(a.sample_ids), a.seed & _LOW64, a.stream, target.data_ptr(), *_place(a.label),
    )  # fmt: skip
    return target


@taking(ClassStatsArgs)
def class_stats_(a: ClassStatsArgs) -> None:
    core().class_stats(
        a.buffer.data_ptr(), a.buffer.shape[1], a.label.shape[0], a.pred.data_ptr(), a.label.data_ptr(),
        _pointer(a.loss), _pointer(a.target), *_place(a.buffer),
    )  # fmt: skip


@taking(LogitStatsArgs)
def logit_stats_(a: LogitStatsArgs) -> None:
    core().logit_stats(
        a.buffer.data_ptr(), a.buffer.shape[1], a.label.shape[0], a.logits.data_ptr(), _DTYPE[a.logits.dtype],
        a.label.data_ptr(), _pointer(a.target), torch.get_num_threads(), *_place(a.buffer),
    )  # fmt: skip


def winograd_tiles(
    image: Tensor,  # (N, C, H, W) float32, dense in channels_last
    rows: int,
    columns: int,
    pad_top: int,
    pad_left: int,
) -> Tensor:
    """The transformed tiles (16, N * rows * columns, C) of an image on the CPU; csrc/cpu/winograd.cpp."""
    n, channels, height, width = image.shape
    tiles = image.new_empty((16, n * rows * columns, channels))
    core().winograd_tiles(
        image.data_ptr(), 0, tiles.data_ptr(), n, height, width, channels, rows, columns, pad_top, pad_left,
        torch.get_num_threads(), -1, 0,
    )  # fmt: skip
    return tiles


def winograd_image(
    tiles: Tensor,  # (16, N * rows * columns, C) float32, contiguous
    n: int,
    height: int,
    width: int,
) -> Tensor:
    """The image (N, C, H, W) in channels_last that tiles of two by two pixels, ceil(H/2) * ceil(W/2) a sample, hold."""
    channels, rows, columns = tiles.shape[2], -(-height // 2), -(-width // 2)
    image = tiles.new_empty((n, height, width, channels))
    core().winograd_image(
        0, image.data_ptr(), tiles.data_ptr(), n, height, width, channels, rows, columns, 0, 0,
        torch.get_num_threads(), -1, 0,
    )  # fmt: skip
    return image.permute(0, 3, 1, 2)


def channels_of(x: Tensor, mean: Tensor | None) -> tuple[int, int]:
    """Channels, and the stride between them: element i of a sample's memory has channel i // stride % channels.

    Without a mean nothing asks for them.
    """
    if mean is None:
        return 1, 1
    channels = x.shape[1]
    # One channel fills the sample, whatever stride PyTorch gives a dimension of size 1.
    return channels, x.stride(1) if channels > 1 else max(x.numel() // max(x.shape[0], 1), 1)


def inner_layout(x: Tensor) -> tuple[list[int], list[int]]:
    """Sizes and strides of a sample's dimensions in logical order, adjacent ones merged where dense."""
    if x.is_contiguous():
        return [x[:1].numel()], [1]
    sizes: list[int] = []
    strides: list[int] = []
    for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True):
        if size == 1:
            continue
        if sizes and strides[-1] == size * stride:
            sizes[-1] *= size
            strides[-1] = stride
        else:
            sizes.append(size)
            strides.append(stride)
    return (sizes, strides) if sizes else ([1], [1])

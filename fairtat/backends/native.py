"""The compiled core on CPU and CUDA tensors: unpacks tensors into pointers and sizes, and nothing else.

The core knows no PyTorch. Callers have validated shapes, dtypes, devices and memory formats.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from types import EllipsisType, ModuleType
from typing import Any

import torch  # first: the core shares the OpenMP runtime that PyTorch has loaded
from torch import Tensor

from fairtat._version import __version__


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


def pgd_init(
    out: Tensor,
    x: Tensor,
    eps_n: Tensor | None,
    eps: float,
    sample_ids: Tensor | None,
    seed: int,
    stream: int,
    init: str,
    norm: str,
    lo: float,
    hi: float,
    pixels: Tensor | None = None,
    model_input: Tensor | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> None:
    channels, channel_stride = channels_of(x) if mean is not None else (1, 1)
    core().pgd_init(
        out.data_ptr(), x.data_ptr(), x.shape[0], inner_layout(x), _pointer(eps_n), eps, _pointer(sample_ids),
        seed & _LOW64, stream, _INIT[init], _NORM[norm], lo, hi, _pointer(pixels), _pointer(model_input),
        0 if model_input is None else _DTYPE[model_input.dtype], _pointer(mean), _pointer(std), channels,
        channel_stride, torch.get_num_threads(), *_place(x),
    )  # fmt: skip


def _step_fields(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps_n: Tensor | None,
    eps: float,
    step_n: Tensor | None,
    step: float,
    targeted: bool,
    norm: str,
    lo: float,
    hi: float,
    model_input: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
    zero_grad: Tensor | None,
    velocity: Tensor | None = None,
    momentum: float = 0.0,
    kept: int = 0,
) -> tuple[Any, ...]:
    n = x.shape[0]
    input_dtype, channels, channel_stride = 0, 1, 1
    if model_input is not None:
        input_dtype = _DTYPE[model_input.dtype]
        if mean is not None:
            channels = x.shape[1]
            # One channel fills the sample, whatever stride PyTorch gives a dimension of size 1.
            channel_stride = x.stride(1) if channels > 1 else max(x.numel() // max(n, 1), 1)
    return (
        x_adv.data_ptr(), grad.data_ptr(), _DTYPE[grad.dtype], x.data_ptr(), n, x.numel() // n if n else 0,
        _pointer(eps_n), eps, _pointer(step_n), step, targeted, _NORM[norm], lo, hi,
        _pointer(model_input), input_dtype, _pointer(mean), _pointer(std), channels, channel_stride,
        _pointer(zero_grad), _pointer(velocity), momentum, kept, torch.get_num_threads(),
    )  # fmt: skip


_GRAD_FIELDS = (1, 2)  # its address and dtype, of the fields above


def pgd_step_(x_adv: Tensor, *arguments: Any) -> None:
    core().pgd_step(*_step_fields(x_adv, *arguments), *_place(x_adv))


def plan_pgd_step_(x_adv: Tensor, grad: EllipsisType, *arguments: Any) -> Callable[[Tensor], None]:
    """A function of the gradient alone; see :func:`fairtat.backends.plan`."""
    # Another tensor stands in for the gradient, and the tensors are bound too, which keeps their memory.
    run = core().pgd_step_plan((*_step_fields(x_adv, x_adv, *arguments), *_place(x_adv)), _GRAD_FIELDS)
    return partial(_step_along, run, x_adv, arguments)


PLANS: dict[str, Callable[..., Callable[..., Any]]] = {"pgd_step": plan_pgd_step_}


def _step_along(run: Callable[..., None], x_adv: Tensor, arguments: tuple[Any, ...], grad: Tensor) -> None:
    run(grad.data_ptr(), _DTYPE[grad.dtype], *_place(x_adv))


def logit_loss(
    logits: Tensor,
    target: Tensor,
    kind: str,
    y: Tensor | None,
    clean_logits: Tensor | None,
    kind_away: str | None = None,
    targeted: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, classes = logits.shape
    loss = logits.new_empty(n, dtype=torch.float32)  # named, for the default dtype is the user's to set
    dlogits, pred = torch.empty_like(logits), torch.empty_like(target)
    reached = torch.empty_like(target, dtype=torch.bool)
    core().logit_loss(
        logits.data_ptr(), _DTYPE[logits.dtype], target.data_ptr(), n, classes, _KIND[kind],
        _KIND[kind_away or kind], _pointer(targeted), _pointer(y),
        _pointer(clean_logits), 0 if clean_logits is None else _DTYPE[clean_logits.dtype],
        loss.data_ptr(), dlogits.data_ptr(), pred.data_ptr(), reached.data_ptr(),
        torch.get_num_threads(), *_place(logits),
    )  # fmt: skip
    return loss, dlogits, pred, reached


def sample_targets(label: Tensor, table: Tensor, sample_ids: Tensor | None, seed: int, stream: int) -> Tensor:
    target = torch.empty_like(label)
    core().sample_targets(
        label.data_ptr(), table.data_ptr(), label.shape[0], table.shape[-1], table.ndim == 2,
        _pointer(sample_ids), seed & _LOW64, stream, target.data_ptr(), *_place(label),
    )  # fmt: skip
    return target


def class_stats_(buffer: Tensor, pred: Tensor, label: Tensor, loss: Tensor | None, target: Tensor | None) -> None:
    core().class_stats(
        buffer.data_ptr(), buffer.shape[1], label.shape[0], pred.data_ptr(), label.data_ptr(),
        _pointer(loss), _pointer(target), *_place(buffer),
    )  # fmt: skip


def logit_stats_(buffer: Tensor, logits: Tensor, label: Tensor, target: Tensor | None) -> None:
    core().logit_stats(
        buffer.data_ptr(), buffer.shape[1], label.shape[0], logits.data_ptr(), _DTYPE[logits.dtype], label.data_ptr(),
        _pointer(target), torch.get_num_threads(), *_place(buffer),
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


def channels_of(x: Tensor) -> tuple[int, int]:
    """Channels, and the stride between them: element i of a sample's memory has channel i // stride % channels."""
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

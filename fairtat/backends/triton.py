"""The Triton kernels on GPU tensors: turns tensors into launches, and nothing else.

A launch goes to the current stream of the tensors' device, synchronises nothing, allocates nothing but results, and
can be captured in a CUDA graph once the kernel is compiled. Callers have validated shapes, dtypes, devices and memory
formats. With ``TRITON_INTERPRET=1`` set before Triton is imported, the same launches run on CPU tensors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fairtat.backends.native import channels_of, inner_layout
from fairtat.kernels import class_stats, logit_stats
from fairtat.kernels import logit_loss as losses
from fairtat.kernels import pgd_init as starts
from fairtat.kernels import pgd_step as steps
from fairtat.kernels import sample_targets as targets

# Elements of images, samples or classes to a program, and its threads. Four float32 a thread are one 16-byte access;
# eight would suit a bfloat16 gradient better, but then threads would exchange elements to bring two layouts together.
ELEMENTS, ELEMENT_THREADS = 1024, 256
SAMPLES, SAMPLE_THREADS = 256, 128
MAX_CLASSES, CLASSES_PER_THREAD = 2048, 8
WARP = 64 if torch.version.hip else 32
MAX_DIMS = 4  # of a sample's layout, as the kernels walk it


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
    if x.numel() == 0:
        return
    n, d = x.shape[0], x.numel() // x.shape[0]
    sizes, strides = inner_layout(x)
    channels, channel_stride = channels_of(x) if mean is not None else (1, 1)
    if init == "zero":
        n, d, sizes, strides = 1, x.numel(), [x.numel()], [1]  # memory order serves as well as logical order
    elif len(sizes) > MAX_DIMS:  # six dimensions or more, shuffled: never an image, so one more pass may serve it
        dense = x.contiguous()
        written = [None if t is None else torch.empty_like(dense, dtype=t.dtype) for t in (out, pixels, model_input)]
        start, more_pixels, more_input = written
        assert start is not None
        pgd_init(
            start, dense, eps_n, eps, sample_ids, seed, stream, init, norm, lo, hi, more_pixels, more_input, mean, std
        )
        for to, made in zip((out, pixels, model_input), written, strict=True):
            if to is not None and made is not None:
                to.copy_(made)
        return
    dims = len(sizes)
    sizes, strides = sizes + [1] * (MAX_DIMS - dims), strides + [0] * (MAX_DIMS - dims)
    arguments = (
        out, x, eps_n, eps, sample_ids, signed(seed), stream, lo, hi, pixels, model_input, mean, std,
        channels, channel_stride, d, *sizes[1:], *strides,
    )  # fmt: skip
    with on_device(x):
        if norm == "linf" or init == "zero":
            starts.linf_kernel[(n * blocks(d, ELEMENTS),)](
                *arguments, INIT=init, DIMS=dims, BLOCK=ELEMENTS, WIDE=is_wide(d), **options(ELEMENT_THREADS)
            )
        else:
            starts.l2_kernel[(n,)](*arguments, INIT=init, DIMS=dims, BLOCK=ELEMENTS, **options(ELEMENT_THREADS))


def pgd_step_(
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
    kept: int = 0,  # of a step in l1, which these kernels do not make
) -> None:
    assert norm in ("linf", "l2")
    if x.numel() == 0:
        return
    n, d = x.shape[0], x.numel() // x.shape[0]
    if velocity is not None:  # a launch of its own, whose result is the step's gradient
        with on_device(x):
            steps.velocity_kernel[(n,)](
                velocity, grad, momentum, zero_grad, d, BLOCK=ELEMENTS, **options(ELEMENT_THREADS)
            )
        grad, zero_grad = velocity, None
    channels, channel_stride = 1, 1
    if mean is not None:
        channels = x.shape[1]
        # One channel fills the sample, whatever stride PyTorch gives a dimension of size 1.
        channel_stride = x.stride(1) if channels > 1 else d
    if norm == "linf" and eps_n is None and step_n is None and mean is None and zero_grad is None:
        n, d = 1, n * d  # nothing depends on the sample: the batch is one long sample
    direction = 1.0 if targeted else -1.0
    arguments = (
        x_adv, grad, x, eps_n, eps, step_n, step, direction, lo, hi, model_input, mean, std, zero_grad,
        d, channels, channel_stride,
    )  # fmt: skip
    with on_device(x):
        if norm == "linf":
            steps.linf_kernel[(n * blocks(d, ELEMENTS),)](
                *arguments, BLOCK=ELEMENTS, WIDE=is_wide(d), **options(ELEMENT_THREADS)
            )
        else:
            steps.l2_kernel[(n,)](*arguments, BLOCK=ELEMENTS, **options(ELEMENT_THREADS))


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
    # Everything is named: the default dtype and device are the user's to set.
    loss = logits.new_empty(n, dtype=torch.float32)
    dlogits = logits.new_empty((n, classes))
    pred = target.new_empty(n)
    reached = target.new_empty(n, dtype=torch.bool)
    if n > 0:
        block, threads = row_shape(classes)
        with on_device(logits):
            losses.logit_loss_kernel[(n,)](
                logits, target, y, clean_logits, targeted, loss, dlogits, pred, reached, classes,
                KIND=kind, KIND_AWAY=kind_away or kind, BLOCK=block, **options(threads),
            )  # fmt: skip
    return loss, dlogits, pred, reached


def sample_targets(label: Tensor, table: Tensor, sample_ids: Tensor | None, seed: int, stream: int) -> Tensor:
    target = torch.empty_like(label)
    n = label.shape[0]
    if n > 0:
        with on_device(label):
            targets.sample_targets_kernel[(blocks(n, SAMPLES),)](
                label, table, sample_ids, signed(seed), stream, target, n, table.shape[-1],
                BY_LABEL=table.ndim == 2, BLOCK=SAMPLES, **options(SAMPLE_THREADS),
            )  # fmt: skip
    return target


def class_stats_(buffer: Tensor, pred: Tensor, label: Tensor, loss: Tensor | None, target: Tensor | None) -> None:
    n = label.shape[0]
    if n == 0:
        return
    with on_device(buffer):
        class_stats.class_stats_kernel[(blocks(n, SAMPLES),)](
            buffer, pred, label, loss, target, n, buffer.shape[1], BLOCK=SAMPLES, **options(SAMPLE_THREADS)
        )


def logit_stats_(buffer: Tensor, logits: Tensor, label: Tensor, target: Tensor | None) -> None:
    n, classes = logits.shape
    if n == 0:
        return
    block, threads = row_shape(classes)
    with on_device(buffer):
        logit_stats.logit_stats_kernel[(n,)](buffer, logits, label, target, classes, BLOCK=block, **options(threads))


def blocks(elements: int, block: int) -> int:
    return -(-elements // block)


def is_wide(elements: int) -> bool:
    """Whether the index of an element, the last block's padding included, needs 64 bits."""
    return elements > 2**31 - ELEMENTS


def row_shape(classes: int) -> tuple[int, int]:
    """Classes to a block, a power of two, and the threads for it."""
    block = min(max(1 << (classes - 1).bit_length(), 16), MAX_CLASSES)
    return block, block // CLASSES_PER_THREAD


def options(threads: int) -> dict[str, Any]:
    """How a kernel is compiled: contraction into fused multiply-adds would change bits."""
    return {"num_warps": max(threads // WARP, 1), "enable_fp_fusion": False}


def signed(seed: int) -> int:
    """The same 64 bits as a signed integer."""
    return (seed + 2**63) % 2**64 - 2**63


def on_device(t: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device: make it the tensor's where it is another."""
    if t.device.type != "cuda" or t.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(t.device)

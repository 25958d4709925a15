"""The Triton kernels on GPU tensors: turns tensors into launches, and nothing else.

A launch goes to the current stream of the tensors' device, synchronizes nothing, allocates nothing but results, and
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
from fairtat.reference.class_stats import ClassStatsArgs
from fairtat.reference.definition import taking
from fairtat.reference.logit_loss import LogitLossArgs, Result, empty_result
from fairtat.reference.logit_stats import LogitStatsArgs
from fairtat.reference.pgd_init import PgdInitArgs
from fairtat.reference.pgd_step import PgdStepArgs
from fairtat.reference.sample_targets import SampleTargetsArgs, empty_targets

# Elements of images, samples or classes to a program, and its threads. Four float32 a thread are one 16-byte access;
# eight would suit a bfloat16 gradient better, but then threads would exchange elements to bring two layouts together.
ELEMENTS, ELEMENT_THREADS = 1024, 256
DRAWN = 2 * ELEMENTS  # of a block that draws them: its threads have two vectors each, and share what precedes the first
SAMPLES, SAMPLE_THREADS = 256, 128
MAX_CLASSES, CLASSES_PER_THREAD = 2048, 8
WARP = 64 if torch.version.hip else 32
MAX_ROWS = 65535  # of a grid, in y and z
MAX_DIMS = 4  # of a sample's layout, as the kernels walk it


@taking(PgdInitArgs)
def pgd_init(a: PgdInitArgs) -> None:
    x = a.x
    if x.numel() == 0:
        return
    n, d = x.shape[0], x.numel() // x.shape[0]
    sizes, strides = inner_layout(x)
    if a.init == "zero":
        n, d, sizes, strides = 1, x.numel(), [x.numel()], [1]  # memory order serves as well as logical order
    elif len(sizes) > MAX_DIMS:  # six dimensions or more, shuffled: never an image, so one more pass may serve it
        dense = a._replace(
            x=x.contiguous(),
            out=torch.empty_like(a.out, memory_format=torch.contiguous_format),
            pixels=_dense_room(a.pixels),
            model_input=_dense_room(a.model_input),
        )
        pgd_init(*dense)
        for to, made in ((a.out, dense.out), (a.pixels, dense.pixels), (a.model_input, dense.model_input)):
            if to is not None and made is not None:
                to.copy_(made)
        return
    dims = len(sizes)
    sizes, strides = sizes + [1] * (MAX_DIMS - dims), strides + [0] * (MAX_DIMS - dims)
    arguments = (
        a.out, x, a.eps_n, a.eps, a.sample_ids, signed(a.seed), a.stream, a.lo, a.hi, a.pixels, a.model_input, a.mean,
        a.std, *channels_of(x, a.mean), d, *sizes[1:], *strides,
    )  # fmt: skip
    with on_device(x):
        if a.norm == "linf" or a.init == "zero":
            rows = min(n, MAX_ROWS)
            starts.linf_kernel[(blocks(d, DRAWN), rows, blocks(n, rows))](
                *arguments, n, INIT=a.init, DIMS=dims, BLOCK=DRAWN, WIDE=is_wide(d), **options(ELEMENT_THREADS)
            )
        else:
            starts.l2_kernel[(n,)](*arguments, INIT=a.init, DIMS=dims, BLOCK=ELEMENTS, **options(ELEMENT_THREADS))


def _dense_room(t: Tensor | None) -> Tensor | None:
    return None if t is None else torch.empty_like(t, memory_format=torch.contiguous_format)


@taking(PgdStepArgs)
def pgd_step_(a: PgdStepArgs) -> None:
    assert a.norm in ("linf", "l2")
    x, grad, zero_grad = a.x, a.grad, a.zero_grad
    if x.numel() == 0:
        return
    n, d = x.shape[0], x.numel() // x.shape[0]
    if a.velocity is not None:  # a launch of its own, whose result is the step's gradient
        with on_device(x):
            steps.velocity_kernel[(n,)](
                a.velocity, grad, a.momentum, zero_grad, d, BLOCK=ELEMENTS, **options(ELEMENT_THREADS)
            )
        grad, zero_grad = a.velocity, None
    channels, channel_stride = channels_of(x, a.mean)
    if a.norm == "linf" and a.eps_n is None and a.step_n is None and a.mean is None and zero_grad is None:
        n, d = 1, n * d  # nothing depends on the sample: the batch is one long sample
    direction = 1.0 if a.targeted else -1.0
    arguments = (
        a.x_adv, grad, x, a.eps_n, a.eps, a.step_n, a.step, direction, a.lo, a.hi, a.model_input, a.mean, a.std,
        zero_grad, d, channels, channel_stride,
    )  # fmt: skip
    with on_device(x):
        if a.norm == "linf":
            steps.linf_kernel[(n * blocks(d, ELEMENTS),)](
                *arguments, BLOCK=ELEMENTS, WIDE=is_wide(d), **options(ELEMENT_THREADS)
            )
        else:
            steps.l2_kernel[(n,)](*arguments, BLOCK=ELEMENTS, **options(ELEMENT_THREADS))


@taking(LogitLossArgs)
def logit_loss(a: LogitLossArgs) -> Result:
    n, classes = a.logits.shape
    result = empty_result(a.logits, a.target)
    if n > 0:
        block, threads = row_shape(classes)
        with on_device(a.logits):
            losses.logit_loss_kernel[(n,)](
                a.logits, a.target, a.y, a.clean_logits, a.targeted, *result, classes,
                KIND=a.kind, KIND_AWAY=a.kind_away or a.kind, BLOCK=block, **options(threads),
            )  # fmt: skip
    return result


@taking(SampleTargetsArgs)
def sample_targets(a: SampleTargetsArgs) -> Tensor:
    target = empty_targets(a.label)
    n = a.label.shape[0]
    if n > 0:
        with on_device(a.label):
            targets.sample_targets_kernel[(blocks(n, SAMPLES),)](
                a.label, a.table, a.sample_ids, signed(a.seed), a.stream, target, n, a.table.shape[-1],
                BY_LABEL=a.table.ndim == 2, BLOCK=SAMPLES, **options(SAMPLE_THREADS),
            )  # fmt: skip
    return target


@taking(ClassStatsArgs)
def class_stats_(a: ClassStatsArgs) -> None:
    n = a.label.shape[0]
    if n == 0:
        return
    with on_device(a.buffer):
        class_stats.class_stats_kernel[(blocks(n, SAMPLES),)](
            *a, n, a.buffer.shape[1], BLOCK=SAMPLES, **options(SAMPLE_THREADS)
        )


@taking(LogitStatsArgs)
def logit_stats_(a: LogitStatsArgs) -> None:
    n, classes = a.logits.shape
    if n == 0:
        return
    block, threads = row_shape(classes)
    with on_device(a.buffer):
        logit_stats.logit_stats_kernel[(n,)](*a, classes, BLOCK=block, **options(threads))


def blocks(elements: int, block: int) -> int:
    return -(-elements // block)


def is_wide(elements: int) -> bool:
    """Whether the index of an element, the last block's padding included, needs 64 bits."""
    return elements > 2**31 - DRAWN


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

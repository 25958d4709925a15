"""The kernels whose machine code is judged: what each must move, and how it is launched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

THREADS = 256  # of a block, in csrc/cuda/launch.h
IMAGES = 64 * 3 * 224 * 224
SMALL_IMAGES = 4096 * 3 * 32 * 32
ROWS, CLASSES = 4096, 1000


@dataclass(frozen=True)
class Variant:
    """One way through one kernel, for one call."""

    label: str
    kernel: str  # its name as `machine_code.sass` gives it
    accesses: Mapping[str, int]  # on the way of a thread: LDG.128 and so on -> how often
    elements: float  # that a thread makes on the way
    moved: float  # bytes read and written for each element
    total: int = IMAGES  # elements of the call
    goal: float | None = None  # share of a copy's bandwidth to reach; None: no goal
    threads: int = THREADS
    phases: int = 1  # times that a thread waits for memory

    @property
    def names_loads(self) -> bool:
        """Whether `accesses` has the loads of what is as large as the images, and so leaves out those of parameters."""
        return any(kind.startswith("LDG") for kind in self.accesses)


def _step(label: str, grad: str, model_input: str, accesses: Mapping[str, int], moved: float) -> Variant:
    return Variant(
        f"pgd_step Linf, {label}", f"pgd_step_linf::linf_kernel<{grad}, {model_input}>", accesses, 4, moved, goal=0.95
    )


def _step_l2(label: str, grad: str, accesses: Mapping[str, int], moved: float) -> Variant:
    name = f"pgd_step_l2::l2_held_kernel<{grad}, 3, 256>"
    return Variant(f"pgd_step L2, {label}", name, accesses, 12, moved, total=SMALL_IMAGES, goal=0.85)


def _large_l2(label: str, kernel: str, accesses: Mapping[str, int], elements: float, moved: float) -> Variant:
    """One of the two launches of a step whose samples no block holds."""
    name = f"pgd_step_l2::{kernel}"
    return Variant(f"pgd_step L2, large images, {label}", name, accesses, elements, moved, goal=0.85)


def _cross_entropy(label: str, dtype: str, vectors: int, moved: float) -> Variant:
    threads = 64  # a row's, and a block
    accesses = {"LDG.128": vectors, "STG.128": vectors}
    name = f"logit_loss::cross_entropy_kernel<{dtype}, 2>"
    total = ROWS * CLASSES
    elements = CLASSES / threads
    return Variant(f"logit_loss ce, {label}", name, accesses, elements, moved, total, goal=0.85, threads=threads)


def _init(
    label: str, init: int, *, model_input: str = "NoInput, false", planes: int = 1, moved: float = 8, **accesses: int
) -> Variant:
    kernel = f"pgd_init::linf_vector_kernel<Init({init}), float, {model_input}, {planes}>"
    others = {kind.replace("_", "."): count for kind, count in accesses.items()}
    vectors = planes if planes > 1 else 2  # of a thread
    given = {"LDG.128": vectors, "STG.128": vectors, **others}
    return Variant(f"pgd_init Linf {label}", kernel, given, 4 * vectors, moved, goal=0.95)


FP32_LOADS = {"LDG.128": 3}
BF16_LOADS = {"LDG.128": 2, "LDG.64": 1}

CUDA = (
    _step("float32 gradient", "float", "NoInput, false", {**FP32_LOADS, "STG.128": 1}, 16),
    _step("bfloat16 gradient", "BFloat16", "NoInput, false", {**BF16_LOADS, "STG.128": 1}, 14),
    _step("and bfloat16 input", "BFloat16", "BFloat16, false", {**BF16_LOADS, "STG.128": 1, "STG.64": 1}, 16),
    _step(
        "and normalized bfloat16 input", "BFloat16", "BFloat16, true",
        {**BF16_LOADS, "LDS.128": 1, "STG.128": 1, "STG.64": 1}, 16,
    ),
    _step(
        "the same in channels_last", "BFloat16", "BFloat16, true",
        {**BF16_LOADS, "LDS.128": 4, "STG.128": 1, "STG.64": 1}, 16,
    ),
    _step("and normalized float32 input", "float", "float, true", {**FP32_LOADS, "LDS.128": 1, "STG.128": 2}, 20),
    _step_l2("float32 gradient", "float", {"LDG.128": 9, "STG.128": 3}, 16),
    _step_l2("bfloat16 gradient", "BFloat16", {"LDG.128": 6, "LDG.64": 3, "STG.128": 3}, 14),
    _large_l2("the sums", "l2_sums_kernel<float, 4>", {"LDG.128": 12}, 16, 12),
    _large_l2("the move", "l2_part_kernel<float, 4>", {"LDG.128": 6, "STG.128": 2}, 8, 16),
    _init("uniform", 0),
    _init("uniform, channels_last", 0, planes=3),
    _init("uniform, and normalized bfloat16 input", 0, model_input="BFloat16, true", moved=10, LDS_128=2, STG_64=2),
    _init("normal", 1),
    _cross_entropy("float32", "float", 4, 8),
    _cross_entropy("bfloat16", "BFloat16", 2, 4),
    Variant("pgd_step Linf, scalar fallback", "pgd_step_linf::linf_scalar_kernel<float>", {"STG.32": 1}, 1, 16),
)  # fmt: skip


def _triton_step(label: str, call: str, accesses: Mapping[str, int], moved: float) -> Variant:
    return Variant(f"pgd_step Linf, {label}", f"pgd_step linf torch.{call}", accesses, 4, moved, goal=0.95)


# `kernel` is the call's name in tests/kernels/compile_ahead.py.
TRITON = (
    _triton_step("float32 gradient", "float32", {**FP32_LOADS, "STG.128": 1}, 16),
    _triton_step("bfloat16 gradient", "bfloat16", {**BF16_LOADS, "STG.128": 1}, 14),
    _triton_step(
        "and normalized bfloat16 input", "bfloat16 everything", {**BF16_LOADS, "STG.128": 1, "STG.64": 1}, 16
    ),
    Variant(
        "pgd_init Linf uniform", "pgd_init linf uniform", {"LDG.128": 2, "STG.128": 2}, 8, 8, goal=0.95
    ),
)  # fmt: skip

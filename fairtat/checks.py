"""Checks of arguments: each error names the argument, what was expected and what was given.

The `check_*` functions take tensors and what goes with them; `real`, `integer`, `boolean`, `interval` and `state_keys`
take plain Python settings.
"""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fairtat.errors import nearest

LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)
LARGEST = {torch.float32: torch.finfo(torch.float32).max, torch.float64: sys.float_info.max}  # finite number


def check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {value.layout}; call {name}.to_dense()")


def in_memory(name: str, t: Tensor) -> Tensor:
    """``t`` as :func:`fairtat.backends.kernel` wants it: a tensor whose memory holds its values; a copy where it must.

    Raises:
        TypeError: a tensor without its own memory (a FakeTensor, a DTensor, a functional or a sparse tensor).
    """
    check_tensor(name, t)
    if type(t).__torch_dispatch__ is Tensor.__torch_dispatch__:
        t = t.resolve_neg()
        if t.data_ptr() != 0 or t.numel() == 0:
            return t
    raise TypeError(f"{name} must be a plain tensor with memory of its own, got {type(t).__name__} without")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        near = nearest(str(value), choices)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"{name} must be one of {listed}, got {value!r}{hint}")


def check_dtype(name: str, value: Tensor, allowed: Collection[torch.dtype]) -> None:
    if value.dtype not in allowed:
        expected = " or ".join(map(name_of, allowed))
        raise TypeError(f"{name} must be {expected}, got {name_of(value.dtype)}")


def check_device(name: str, value: Tensor, like_name: str, like: Tensor) -> None:
    if value.device != like.device:
        raise ValueError(f"{name} must be on the device of {like_name} ({like.device}), got {value.device}")


def check_shape(name: str, value: Tensor, expected: Sequence[int]) -> None:
    if tuple(value.shape) != tuple(expected):
        raise ValueError(f"{name} must have shape {tuple(expected)}, got {tuple(value.shape)}")


def check_images(name: str, x: Tensor) -> None:
    """A batch (N, ...) of float32 or float64 images, dense and with the batch outermost in memory."""
    check_tensor(name, x)
    check_dtype(name, x, (torch.float32, torch.float64))
    if x.ndim < 2:
        raise ValueError(f"{name} must have a batch and at least one more dimension, got shape {tuple(x.shape)}")
    if not is_dense_by_sample(x):
        raise ValueError(
            f"{name} must be dense with the batch outermost, got shape {tuple(x.shape)} with strides "
            f"{x.stride()}; call {name}.contiguous() or {name}.contiguous(memory_format=torch.channels_last)"
        )


def is_dense_by_sample(x: Tensor) -> bool:
    """Whether the samples lie one after another and each fills its memory, in any order of its dimensions."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return True
    if x.shape[0] > 1 and x.stride(0) != x[0].numel():
        return False
    expected = 1
    for stride, size in sorted((st, s) for s, st in zip(x.shape[1:], x.stride()[1:], strict=True) if s > 1):
        if stride != expected:
            return False
        expected *= size
    return True


def check_like(like_name: str, like: Tensor, name: str, value: object) -> None:
    """A tensor of the shape, device and memory format of ``like``."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.shape == like.shape and value.stride() == like.stride() and value.device == like.device:
        return  # the usual case in one look
    check_device(name, value, like_name, like)
    check_shape(name, value, like.shape)
    for size, ours, theirs in zip(value.shape, value.stride(), like.stride(), strict=True):
        # The stride of a dimension of one element means nothing, nor do those of no elements at all.
        if size > 1 and ours != theirs and value.numel() > 0:
            raise ValueError(
                f"{name} must have the memory format of {like_name} (strides {like.stride()}), got strides "
                f"{value.stride()}; call .contiguous(memory_format=...) on one of them"
            )


def check_labels(name: str, value: object, n: int, like_name: str, like: Tensor) -> None:
    """Class indices (N,) int64 on the device of ``like``; contiguous, for the kernels take plain pointers."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.dtype is torch.int64 and value.ndim == 1 and value.shape[0] == n and value.device == like.device:
        return  # the usual case in one look: five labels or so are checked in every call of an op
    check_dtype(name, value, (torch.int64,))
    check_shape(name, value, (n,))
    check_device(name, value, like_name, like)


def check_mask(name: str, value: object, n: int, like_name: str, like: Tensor) -> None:
    """A choice for each sample, (N,) bool on the device of ``like``."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    check_dtype(name, value, (torch.bool,))
    check_shape(name, value, (n,))
    check_device(name, value, like_name, like)


def per_sample(name: str, value: float | Tensor, x: Tensor) -> tuple[Tensor | None, float]:
    """A radius or step as the kernels take it: (tensor (N,), unused) or (None, number)."""
    if not isinstance(value, Tensor):
        return None, amount(name, value, x.dtype)
    check_tensor(name, value)
    if value.ndim == 0:
        value = value.expand(x.shape[0])
    check_shape(name, value, (x.shape[0],))
    check_device(name, value, "x", x)
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {value.dtype}")
    return value.to(x.dtype).contiguous(), 0.0


def amount(
    name: str, value: object, dtype: torch.dtype = torch.float64, *, expected: str = "a number or a tensor (N,)"
) -> float:
    """A radius or step for all samples: a number of at least 0 that is finite in ``dtype``."""
    if not isinstance(value, (int, float)) and isinstance(value, numbers.Real):
        value = float(value)  # NumPy's, or a fraction
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be {expected}, got {type(value).__name__}")
    if not 0.0 <= value <= LARGEST[dtype]:
        raise ValueError(f"{name} must be finite and at least 0{_in(dtype, value)}, got {shown(value)}")
    return float(value)


def check_bounds(bounds: tuple[float, float], dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    """The bounds of a pixel as two numbers that ``dtype`` can hold; an infinite one bounds nothing."""
    try:
        lo, hi = bounds
        low, high = float(lo), float(hi)
    except OverflowError:
        raise ValueError(f"bounds must be {name_of(dtype)} numbers, got ({shown(lo)}, {shown(hi)})") from None
    except (TypeError, ValueError):
        raise TypeError(f"bounds must be two numbers (low, high), got {bounds!r}") from None
    if not low < high:
        raise ValueError(f"bounds must be (low, high) with low < high, got {bounds!r}")
    if any(LARGEST[dtype] < abs(bound) < math.inf for bound in (low, high)):
        raise ValueError(f"bounds must be {name_of(dtype)} numbers, or infinite for none, got {bounds!r}")
    return low, high


def channel_numbers(name: str, value: object, dtype: torch.dtype = torch.float64) -> list[float]:
    """Means or standard deviations that are not a tensor: finite numbers of ``dtype``."""
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise TypeError(f"{name} must be numbers or a tensor (C,), got {value!r}")
    values = list(value)
    try:
        numbers = list(map(float, values))
    except OverflowError:
        raise ValueError(f"{name} must be finite, got {', '.join(map(shown, values))}") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be numbers or a tensor (C,), got {values!r}") from None
    largest = LARGEST[dtype]
    for number, v in zip(numbers, values, strict=True):
        if not -largest <= number <= largest:
            raise ValueError(f"{name} must be finite{_in(dtype, number)}, got {shown(v)}")
    return numbers


def check_count(name: str, value: object, least: int) -> None:
    """An int, or what serves as one, of at least ``least``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if operator.index(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_seed(seed: int, stream: int) -> int:
    """The seed as the signed 64-bit integer that an op schema can hold."""
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"seed must be an int, got {type(seed).__name__}")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must lie in [-2**63, 2**64), got {shown(seed)}")
    if isinstance(stream, bool) or not isinstance(stream, int):
        raise TypeError(f"stream must be an int, got {type(stream).__name__}")
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream must lie in [0, 2**32), got {shown(stream)}")
    return int(seed) - 2**64 if seed >= 2**63 else int(seed)


def check_apart(names: Sequence[str], tensors: Sequence[Tensor | None], written: Collection[str]) -> None:
    """Raise ValueError where a tensor that is written, which come first, shares memory with another; all are dense.

    Asks for addresses, so it belongs below the dispatcher. A tensor without memory has the address 0.
    """
    spans = [(n, at := t.data_ptr(), at + t.nbytes) for n, t in zip(names, tensors, strict=True) if t is not None]
    for i, (output, begin, end) in enumerate(spans):
        if output not in written or begin == 0:
            return
        for name, first, last in spans[i + 1 :]:
            if begin < last and first < end:
                raise ValueError(f"{name} must not share memory with {output}, which is overwritten; pass a clone")


def shown(value: object) -> str:
    """A value in a message; an int of hundreds of digits by its size."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"{'a negative' if value < 0 else 'an'} int of {value.bit_length()} bits"
    return str(value)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _in(dtype: torch.dtype, value: float) -> str:
    """Which dtype cannot hold a finite number."""
    return f" in {name_of(dtype)}" if LARGEST[dtype] < abs(value) < math.inf else ""


def check_sample_ids(sample_ids: Tensor | None, n: int, like_name: str, like: Tensor) -> Tensor | None:
    if sample_ids is None:
        return None
    check_labels("sample_ids", sample_ids, n, like_name, like)
    return sample_ids.contiguous()


def real(argument: str, value: object, *, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a finite float within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument} must be a real number, got {value!r}")
    number = float(value)
    if not math.isfinite(number) or not low <= number <= high:
        raise ValueError(f"{argument} must be finite{_interval(low, high)}, got {value!r}")
    return number


def integer(argument: str, value: object, *, low: float = -math.inf, high: float = math.inf) -> int:
    """`value` as an int within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument} must be an int, got {value!r}")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{argument} must be an int{_interval(low, high)}, got {value!r}")
    return number


def boolean(argument: str, value: object) -> bool:
    """`value` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be true or false, got {value!r}")
    return value


def interval(
    argument: str, value: object, *, low: float = -math.inf, expected: str = "a pair (low, high)"
) -> tuple[float, float]:
    """`value` as a pair of finite floats, low <= first <= second."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{argument} must be {expected}, got {value!r}")
    first, second = (real(argument, bound, low=low) for bound in value)
    if first > second:
        raise ValueError(f"{argument} must be (low, high) with low <= high, got {value!r}")
    return first, second


def positive_interval(argument: str, value: object) -> tuple[float, float]:
    """`value` as a pair of finite floats, 0 < first <= second."""
    first, second = interval(argument, value)
    if first <= 0:
        raise ValueError(f"{argument} must be (low, high) with low > 0, got {value!r}")
    return first, second


def state_keys(owner: str, state: object, expected: Collection[str]) -> Mapping[str, object]:
    """`state` as a mapping with exactly the `expected` keys."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{owner} state must be a mapping made by state_dict(), got {type(state).__name__}")
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(map(str, set(state) - set(expected)))
    if missing or unexpected:
        raise ValueError(
            f"{owner} state must have the keys {sorted(expected)}; missing {missing}, unexpected {unexpected}"
        )
    return state


def _interval(low: float, high: float) -> str:
    bounds = [f">= {low}"] * math.isfinite(low) + [f"<= {high}"] * math.isfinite(high)
    return f" and {' and '.join(bounds)}" if bounds else ""

"""Devices: by name, and what they do well."""

from __future__ import annotations

import re

import torch

from fairtat.errors import UserError

__all__ = ["has_native_bf16", "resolve_device", "slow_bf16", "widest_float"]

# Of torch.cpu.get_capabilities(), on x86 and on Arm: what multiplies bfloat16 numbers.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def resolve_device(name: str) -> torch.device:
    """The device called ``name``: auto (a CUDA device if there is one), cpu, cuda, cuda:N, xpu or xpu:N.

    Raises:
        UserError: another name, or a device that this machine or this build of PyTorch does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "mps":
        raise UserError("device is 'mps', which has no float64, as the statistics of the classes are; expected cpu")
    if re.fullmatch(r"cpu|(cuda|xpu)(:\d+)?", name) is None:
        raise UserError(f"device is {name!r}; expected auto, cpu, cuda, cuda:N, xpu or xpu:N")
    device = torch.device(name)
    if device.type != "cpu":
        count = getattr(torch, device.type).device_count()
        if (device.index or 0) >= count:
            kind = device.type.upper()
            raise UserError(f"device is {name!r}, but PyTorch sees {count} {kind} devices here; expected auto or cpu")
    return device


def widest_float(device: torch.device) -> torch.dtype:
    """The widest floating-point type that the device has: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 numbers itself; elsewhere PyTorch computes in float32 and converts."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True  # nothing is known against it
    if not hasattr(torch.cpu, "get_capabilities"):  # PyTorch 2.11
        return bool(torch.cpu._is_avx512_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _CPU_BF16)


def slow_bf16(device: torch.device) -> str | None:
    """A warning for a device that only emulates bfloat16, else None."""
    if has_native_bf16(device):
        return None
    what = "this CPU" if device.type == "cpu" else str(device)
    return f"{what} has no instructions for bfloat16 and emulates it, which may be many times slower than float32"

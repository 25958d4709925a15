"""Devices: by name, and what they do well."""

from __future__ import annotations

import re

import torch

from fairtat.errors import UserError

__all__ = ["has_native_bf16", "resolve_device", "slow_bf16"]

# Of torch.cpu.get_capabilities(), on x86 and on Arm: what multiplies bfloat16 numbers.
_CPU_BF16 = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def resolve_device(name: str) -> torch.device:
    """The device called ``name``: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        UserError: another name, or a device that this machine or this build of PyTorch does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise UserError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"device is {name!r}, but PyTorch sees {count} CUDA devices here; expected auto or cpu")
    return device


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

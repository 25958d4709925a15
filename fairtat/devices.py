"""One place that turns a device's name into a device that can be used."""

from __future__ import annotations

import re

import torch

from fairtat.errors import UserError

__all__ = ["resolve_device"]


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

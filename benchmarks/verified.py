"""Reads verified.npz: networks of the verification competitions, with images of which the robustness is known.

make_verified.py makes the file and says where its networks come from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROVED, KNOWN, OPEN = 1, -1, 0


@dataclass(frozen=True)
class Instance:
    """A network and its questions: can an image in the ball, cut to [0, 1], get the target (-1: any other class)?"""

    model: nn.Module  # (N, C, H, W) in [0, 1] -> (N, K)
    x: Tensor  # (N, C, H, W) float32, multiples of 1/255
    y: Tensor  # (N,)
    target: Tensor  # (N,)
    eps: Tensor  # (N,) Linf
    verdict: Tensor  # (N,) PROVED, KNOWN (an example exists) or OPEN


def names(file: Path) -> list[str]:
    """The networks of a file.

    Raises:
        SystemExit: it is not there, or is no such file.
    """
    return list(_meta(file))


def load(file: Path, name: str) -> Instance:
    """A network of a file.

    Raises:
        SystemExit: as :func:`names`, or the file has no network of this name.
    """
    meta = _meta(file)
    if name not in meta:
        raise SystemExit(f"{file} has no network {name!r}: one of {', '.join(meta)}")
    with np.load(file) as z:
        arrays = {key.removeprefix(f"{name}/"): z[key] for key in z.files if key.startswith(f"{name}/")}
    image, eps = (torch.from_numpy(arrays[key]).float() for key in ("image", "eps"))
    y, target, verdict = (torch.from_numpy(arrays[key]).long() for key in ("label", "target", "verdict"))
    return Instance(model_of(arrays, meta[name]), image / 255, y, target, eps, verdict)


def model_of(arrays: Mapping[str, Any], about: Mapping[str, Any]) -> nn.Module:
    """The network that these arrays describe, in eval mode."""
    if "graph" in arrays:
        weights = {key: array for key, array in arrays.items() if key[0] == "w"}
        return Chain(json.loads(str(arrays["graph"])), weights, about).eval()
    return Transformer({k.removeprefix("vit/"): a for k, a in arrays.items() if k.startswith("vit/")}, about).eval()


def _meta(file: Path) -> dict[str, dict[str, Any]]:
    if not file.is_file():
        raise SystemExit(f"there is no {file}; make_verified.py makes one")
    try:
        with np.load(file) as z:
            meta: dict[str, dict[str, Any]] = json.loads(str(z["meta"]))
    except (ValueError, KeyError, OSError) as error:
        raise SystemExit(f"{file} is not a file of make_verified.py: {error}") from error
    return meta


class _Scaled(nn.Module):
    """A network whose input is ``(x * scale - mean) / std``."""

    mean: Tensor
    std: Tensor

    def __init__(self, about: Mapping[str, Any]) -> None:
        super().__init__()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(about[name]).view(-1, 1, 1))
        self.times = float(about["scale"])

    def scaled(self, x: Tensor) -> Tensor:
        return (x * self.times - self.mean) / self.std


class Chain(_Scaled):
    """The operations of an ONNX graph, in its order."""

    def __init__(self, steps: list[list[Any]], weights: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        super().__init__(about)
        self.steps, self.channels_last = steps, about["layout"] == "HWC"
        if unknown := {step[0] for step in steps} - OPERATIONS.keys():
            raise SystemExit(f"there is no operation {', '.join(sorted(unknown))}")
        for name, array in weights.items():
            if array.dtype.kind == "f":  # the others are the shapes of a Reshape
                self.register_buffer(name, torch.from_numpy(array.copy()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.scaled(x)
        values = {"x": x.permute(0, 2, 3, 1) if self.channels_last else x}
        output = "x"
        for operation, inputs, output, settings in self.steps:
            given = [values[name] if name in values else getattr(self, name, None) for name in inputs]
            values[output] = OPERATIONS[operation](settings, *given)
        return values[output]


def _convolution(at: dict[str, Any], x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(x, w, b, at["strides"], (top, left), at["dilations"], at.get("group", 1))


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "Conv": _convolution,
    "Gemm": lambda at, x, w, b: F.linear(x, w if at.get("transB") else w.t(), b),
    "MatMul": lambda at, a, b: a @ b,
    "Add": lambda at, a, b: a + b,
    "Sub": lambda at, a, b: a - b,
    "Mul": lambda at, a, b: a * b,
    "Div": lambda at, a, b: a / b,
    "Relu": lambda at, x: x.relu(),
    "Sigmoid": lambda at, x: x.sigmoid(),
    "Sign": lambda at, x: x.sign(),
    "Flatten": lambda at, x: x.flatten(1),
    "Reshape": lambda at, x, shape: x.flatten(1),  # no network reshapes to anything else
    "Transpose": lambda at, x: x.permute(at["perm"]),
    "MaxPool": lambda at, x: F.max_pool2d(x, at["kernel_shape"], at["strides"]),
    "BatchNormalization": lambda at, x, g, b, m, v: F.batch_norm(x, m, v, g, b, eps=at["epsilon"]),
    "Softmax": lambda at, x: x,  # the last operation of some networks: logits serve better
}


class Transformer(_Scaled):
    """A vision transformer with BatchNorm in place of LayerNorm, 3 heads of 16."""

    def __init__(self, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        super().__init__(about)
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array.copy()))
        self.layers = [name for name in sorted(arrays) if name[0] == "s" and name[1:4].isdigit()]

    def _norm(self, x: Tensor, p: Tensor) -> Tensor:
        return (x - p[2]) / torch.sqrt(p[3] + 1e-5) * p[0] + p[1]

    def forward(self, x: Tensor) -> Tensor:
        own = self.get_buffer
        patches = F.conv2d(self.scaled(x), own("patch_w"), own("patch_b"), own("patch_w").shape[-1])
        x = torch.cat([own("cls").expand(len(x), 1, -1), patches.flatten(2).transpose(1, 2)], 1) + own("pos")
        *parts, last = (own(name) for name in self.layers)
        for k in range(0, len(parts), 14):
            norm, *attention, out, out_b, norm2, up, up_b, down, down_b = parts[k : k + 14]
            h = self._norm(x, norm)
            q, key, v = (
                (h @ attention[j] + attention[j + 1]).unflatten(-1, (3, 16)).transpose(1, 2) for j in (0, 2, 4)
            )
            mixed = ((q @ key.transpose(-1, -2)) * own("scale")).softmax(-1) @ v
            x = mixed.transpose(1, 2).flatten(2) @ out + out_b + x
            x = (self._norm(x, norm2) @ up + up_b).relu() @ down + down_b + x
        return F.linear(self._norm(x.mean(1), last), own("head_w"), own("head_b"))

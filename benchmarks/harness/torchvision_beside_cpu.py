"""torchvision's wheel beside a CPU build of PyTorch, for the libraries here that import it: torchmetrics and timm."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec

import torch

_libraries: list[torch.library.Library] = []  # operators are there for as long as these live


def make_importable() -> None:
    """Import torchvision if it is installed, whatever build of PyTorch it was made for.

    Its wheels are built for CUDA: beside a CPU build their compiled part does not load, and the import ends at two
    operators that nobody has defined. Their schemas are all that it asks for; detection does not work then.
    """
    if find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
        importlib.import_module("torchvision")

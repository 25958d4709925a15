"""Weights of a model that was trained elsewhere."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from fairtat.errors import UserError
from fairtat.files import read_checked

__all__ = ["load_weights", "weights_file"]

# Keys under which training scripts store the weights, and prefixes that wrappers add to their names.
_HOLDERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def weights_file(path: str | Path) -> Path:
    """The file of weights that a setting names: of a run folder, its model.safetensors."""
    return Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)


def load_weights(
    model: nn.Module, path: str | Path, *, num_classes: int | None = None, new_head: bool = False
) -> list[str]:
    """Load a .safetensors file or a PyTorch checkpoint into ``model``; no code in the file is run.

    Prefixes that DataParallel, torch.compile and Lightning add to names are removed.

    Args:
        model: the network, changed in place.
        path: the file.
        num_classes: of the model, by which its last layer is known.
        new_head: where the file differs from the model in its number of classes alone, leave the last layer as it is
            and load all others, in place of an error.

    Returns:
        Names of the tensors that were left as they are: those of the head, or none.

    Raises:
        UserError: the file is missing or damaged, or holds the weights of another model.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: no such weights file")
    weights = _read(file)
    expected = model.state_dict()
    while weights and not set(weights) & set(expected):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in weights)), None)
        if prefix is None:
            break
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    theirs, head = _head(weights, expected, num_classes)
    if head and not new_head:
        raise UserError(
            f"{file}: its weights have {theirs} classes, but the model has {num_classes} ({head[0]}): the last layer "
            "would be random; expected weights of these classes, or for training model.new_head true"
        )
    weights |= {name: expected[name] for name in head}
    for name, tensor in weights.items():
        if name in expected and expected[name].shape != tensor.shape:
            raise UserError(
                f"{file}: {name} has shape {tuple(tensor.shape)}, but the model expects "
                f"{tuple(expected[name].shape)}; is it a model of another size, or for another number of classes?"
            )
    missing, unexpected = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or unexpected:
        both = (f"lacks {len(missing)} ({missing[0]}, ...)" if missing else "") + (
            f"{' and ' if missing else ''}has {len(unexpected)} others ({unexpected[0]}, ...)" if unexpected else ""
        )
        raise UserError(f"{file}: holds the weights of another model: of {len(expected)} tensors it {both}")
    model.load_state_dict(weights)
    return head


def _head(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], num_classes: int | None
) -> tuple[int, list[str]]:
    """The number of classes in the file and the tensors whose first size it is, if all that differs is that.

    The width of a hidden layer is never taken for it: it is also a size of the next layer, and not the first one.
    """
    differing = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    sizes = {(tuple(weights[name].shape[:1]), tuple(expected[name].shape[:1])) for name in differing}
    fits = all(weights[name].shape[1:] == expected[name].shape[1:] for name in differing)
    if len(sizes) != 1 or not fits or not any(weights[name].ndim > 1 for name in differing):
        return 0, []
    ((theirs, ours),) = sizes
    return (theirs[0], differing) if theirs and ours == (num_classes,) else (0, [])


def _read(file: Path) -> dict[str, Tensor]:
    content = read_checked(file)
    found: Any
    if file.suffix == ".safetensors":
        try:
            found = load(content)
        except SafetensorError as error:
            raise UserError(f"{file}: cannot be read as a .safetensors file ({error})") from error
    else:
        try:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{file}: holds more than tensors, and loading it could run its code; save model.state_dict() instead"
            ) from error
        except (RuntimeError, EOFError, BadZipFile, ValueError) as error:
            raise UserError(f"{file}: cannot be read as a PyTorch checkpoint ({error})") from error
    for holder in _HOLDERS:
        if isinstance(found, Mapping) and isinstance(found.get(holder), Mapping):
            found = found[holder]
    if not isinstance(found, Mapping) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise UserError(f"{file}: expected a state_dict (names to tensors), found {type(found).__name__}")
    return {str(name): tensor for name, tensor in found.items()}

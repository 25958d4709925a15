"""Checkpoints: plain tensors and numbers in one file that is replaced in one step."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairtat.errors import UserError
from fairtat.files import write_atomic

__all__ = ["BEST_KEYS", "FORMAT", "RESUME_KEYS", "load_checkpoint", "save_checkpoint", "save_weights"]

FORMAT = 2  # 2: averaging and loss scale; random numbers are derived from (seed, epoch), so no generator's state

_DESCRIPTION = frozenset({"format", "epoch", "model", "config", "class_names", "image_shape"})
BEST_KEYS = _DESCRIPTION | {"score"}
RESUME_KEYS = _DESCRIPTION | {"optimizer", "fair", "averaging", "scaler"}


def save_checkpoint(path: Path, state: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Write ``state`` with the format number; a crash at any moment leaves the previous file whole.

    With ``keep`` the previous file stays under that name (see `write_atomic`).
    """
    buffer = io.BytesIO()  # torch.save over a file that cannot grow reports neither the error nor its cause
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomic(path, lambda stream: stream.write(buffer.getbuffer()), keep=keep)


def load_checkpoint(
    path: Path, *, map_location: torch.device | str = "cpu", keys: frozenset[str] = RESUME_KEYS
) -> dict[str, Any]:
    """Read a checkpoint that must hold ``keys``. ``weights_only``: a file from elsewhere cannot run code.

    Raises:
        UserError: missing, truncated or damaged, not a checkpoint of fairtat, or of another format.
    """
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read; the file is truncated, damaged or not a checkpoint") from error
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path}: not a fairtat checkpoint")
    if content["format"] != FORMAT:
        age = "an older" if content["format"] == 1 else "another"
        raise UserError(
            f"{path}: checkpoint format {content['format']}, of {age} version of fairtat; this one reads format "
            f"{FORMAT}: use that version, or train again from the run's config.yaml"
        )
    missing = sorted(keys - content.keys())
    if missing:
        raise UserError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return content


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a model's state dict as safetensors, which any program reads without fairtat or pickle."""
    from safetensors.torch import save  # here: `import fairtat` stays light

    # Copies, also on a CPU, because the format refuses tensors that share memory, as tied layers do.
    plain = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    content = save(plain, metadata={"format": "pt"})
    write_atomic(path, lambda stream: stream.write(content))

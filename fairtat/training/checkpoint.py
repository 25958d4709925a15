"""Checkpoints: plain tensors and numbers in one file that is replaced in one step."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from fairtat.errors import UserError
from fairtat.training.files import write_atomic

__all__ = ["FORMAT", "load_checkpoint", "save_checkpoint"]

FORMAT = 1

_KEYS = frozenset({"format", "epoch", "model", "optimizer", "fair", "rng", "config", "class_names", "image_shape"})


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` with the format number; a crash at any moment leaves the previous file whole."""
    content = {"format": FORMAT, **state}
    write_atomic(path, lambda stream: torch.save(content, stream))


def load_checkpoint(path: Path, *, map_location: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint. ``weights_only``: a file from elsewhere cannot run code.

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
        raise UserError(f"{path}: checkpoint format {content['format']}; this version of fairtat reads format {FORMAT}")
    missing = sorted(_KEYS - content.keys())
    if missing:
        raise UserError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return content

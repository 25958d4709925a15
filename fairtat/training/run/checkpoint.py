"""Checkpoints: plain tensors and numbers in one file that is replaced in one step."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairtat.data.labels import clean_class_names
from fairtat.errors import UserError
from fairtat.files import BLANK_DIGEST, DIGEST_KEY, DamagedFile, check_digest, sealed, sealed_zip, write_atomic

__all__ = ["BEST_KEYS", "FORMAT", "RESUME_KEYS", "load_checkpoint", "save_checkpoint", "save_weights"]

FORMAT = 2  # 2: averaging and loss scale; random numbers are derived from (seed, epoch), so no generator's state

_DESCRIPTION = frozenset({"format", "epoch", "model", "config", "class_names", "image_shape"})
BEST_KEYS = _DESCRIPTION | {"score"}
RESUME_KEYS = _DESCRIPTION | {"optimizer", "fair", "averaging", "scaler"}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_weights(value: Any) -> bool:
    return _is_state(value) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(name, str) for name in value)


def _is_optimizer(value: Any) -> bool:
    """Of SGD, or of AdamW and Lion."""
    groups = value.get("param_groups") if isinstance(value, dict) else None
    return isinstance(groups, list) and all(
        isinstance(group, dict) and any(group.keys() >= _GROUP_KEYS | own for own in _OPTIMIZER_KEYS)
        for group in groups
    )


_GROUP_KEYS = {"params", "lr", "weight_decay"}
_OPTIMIZER_KEYS = ({"momentum", "dampening"}, {"betas"})

# What a key must hold: files from elsewhere are read, so a mistake in one is reported here and not where it is used.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epoch": (_is_count, "number of epochs"),
    "class_names": (_is_names, "list of names"),
    "image_shape": (lambda v: isinstance(v, list) and len(v) == 3 and all(map(_is_count, v)), "list (C, H, W)"),
    "config": (_is_state, "configuration"),
    "model": (_is_weights, "mapping of names to tensors"),
    "score": (lambda v: isinstance(v, float) and math.isfinite(v), "finite number"),
    "optimizer": (_is_optimizer, "state of an optimizer"),
    "fair": (_is_state, "state of fairness rules"),
    "scaler": (_is_state, "state of a loss scale"),
    "objective": (lambda v: v is None or _is_state(v), "state of an objective"),
    "averaging": (lambda v: v is None or (_is_state(v) and _is_weights(v.get("model"))), "state of averaged weights"),
}


def save_checkpoint(path: Path, state: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Write ``state`` with the format number; a crash at any moment leaves the previous file whole.

    With ``keep`` the previous file stays under that name (see `write_atomic`).
    """
    buffer = io.BytesIO()  # torch.save over a file that cannot grow reports neither the error nor its cause
    torch.save({"format": FORMAT, **state}, buffer)
    content = sealed_zip(buffer.getvalue())
    write_atomic(path, lambda stream: stream.write(content), keep=keep)


def load_checkpoint(
    path: Path, *, map_location: torch.device | str = "cpu", keys: frozenset[str] = RESUME_KEYS
) -> dict[str, Any]:
    """Read a checkpoint that must hold ``keys``. ``weights_only``: a file from elsewhere cannot run code.

    Its digest is checked, and in a file without one, as older versions and `torch.save` write it, the CRC-32 of every
    entry. Class names lose their control characters, as those of a data set do.

    Raises:
        UserError: missing, truncated or damaged (`DamagedFile`), not a checkpoint of fairtat, or of another format.
    """
    if not path.is_file():  # missing, or a pipe that is never filled
        raise UserError(f"{path}: no such checkpoint")
    try:
        data = path.read_bytes()
        if not check_digest(data, path) and zipfile.ZipFile(io.BytesIO(data)).testzip() is not None:
            raise zipfile.BadZipFile("a CRC-32 differs")
        content = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except DamagedFile:
        raise
    # A damaged file without a digest can fail anywhere in the readers of zip and pickle.
    except Exception as error:
        raise DamagedFile(f"{path}: cannot be read; the file is truncated, damaged or not a checkpoint") from error
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
    for key, (is_right, expected) in _KINDS.items():
        if key in content and not is_right(content[key]):
            raise UserError(f"{path}: its {key} is not a {expected}; is it a checkpoint of another program?")
    if "class_names" in content:
        content["class_names"] = list(clean_class_names(content["class_names"]))
    return content


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a model's state dict as safetensors, which any program reads without fairtat or pickle."""
    from safetensors.torch import save  # here: `import fairtat` stays light

    # Copies, also on a CPU, because the format refuses tensors that share memory, as tied layers do.
    plain = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    content = _sealed_safetensors(save(plain, metadata={"format": "pt"}))
    write_atomic(path, lambda stream: stream.write(content))


def _sealed_safetensors(content: bytes) -> bytes:
    """With a digest among the metadata, which stand at the beginning: the format allows nothing after the tensors."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"][DIGEST_KEY] = BLANK_DIGEST
    text = json.dumps({"__metadata__": header.pop("__metadata__"), **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return sealed(b"".join((len(text).to_bytes(8, "little"), text, content[8 + size :])))

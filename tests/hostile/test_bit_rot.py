"""Files that a disk has changed: none is read with other contents, and none breaks more than itself."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from fairtat import models
from fairtat.errors import UserError
from fairtat.training import TrainConfig, load_run, resume, train
from fairtat.training.api import stored_config
from fairtat.training.run import RunFolder
from fairtat.training.run.checkpoint import load_checkpoint
from fairtat.weights import load_weights

CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt", "best.pt")


def corrupted(content: bytes, random: Random) -> bytes:
    """Flipped bits, a block of zeros or of noise, a lost end, a lost middle, or a block of another place."""
    found = bytearray(content)
    size, start = len(found), random.randrange(len(found))
    length = random.choice((1, 8, 64, 512, 4096))
    kind = random.randrange(7)
    if kind == 0:
        found[start] ^= 1 << random.randrange(8)
    elif kind == 1:
        for _ in range(random.choice((2, 8, 64))):
            found[random.randrange(size)] ^= 1 << random.randrange(8)
    elif kind == 2:
        found[start : start + length] = bytes(len(found[start : start + length]))
    elif kind == 3:
        found[start : start + length] = random.randbytes(len(found[start : start + length]))
    elif kind == 4:
        del found[start:]
    elif kind == 5:
        del found[start : start + length]
    else:
        source = random.randrange(size)
        block = found[source : source + length][: size - start]
        found[start : start + len(block)] = block
    return bytes(found)


def refusal(read: Callable[[], Any]) -> Any:
    """What ``read`` returns, or the one line of its `UserError`; any other exception goes on."""
    try:
        return read()
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    return message


def digest(value: Any) -> str:
    """Of tensors, numbers and names, however nested."""
    if isinstance(value, Tensor):
        return hashlib.sha256(f"{value.dtype}{tuple(value.shape)}".encode() + value.numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return hashlib.sha256("".join(f"{key!r}{digest(item)}" for key, item in value.items()).encode()).hexdigest()
    if isinstance(value, (list, tuple)):
        return hashlib.sha256(f"{type(value)}{[digest(item) for item in value]}".encode()).hexdigest()
    return repr(value)


def without_digest(content: bytes) -> bytes:
    """As an older version wrote it: a zip archive without a comment."""
    end = content.rindex(b"PK\5\6") + 22
    return content[: end - 2] + b"\0\0"


@pytest.mark.fault(
    "bits of a checkpoint change, or it is cut off",
    "1,500 random corruptions: each is refused in one line, or reads exactly as it was written",
)
@pytest.mark.parametrize("old", [False, True], ids=["digest", "no digest"])
@pytest.mark.parametrize("count", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_refused_or_read_as_it_was(
    finished: Path, tmp_path: Path, count: int, old: bool
) -> None:
    random = Random(count)
    contents = {name: (finished / name).read_bytes() for name in CHECKPOINTS}
    if old:
        contents = {name: without_digest(content) for name, content in contents.items()}
    folder = RunFolder(tmp_path)
    whole = {}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        whole[name] = digest(load_checkpoint(tmp_path / name, keys=frozenset()))
    refused = 0
    for _ in range(count):
        damaged = random.sample(CHECKPOINTS, random.choice((1, 1, 2, 3)))
        for name, content in contents.items():
            (tmp_path / name).write_bytes(corrupted(content, random) if name in damaged else content)
        last = refusal(folder.load_last)
        if isinstance(last, str):
            assert {"checkpoint.pt", "checkpoint.previous.pt"} <= set(damaged), last
        else:
            assert digest(last[1]) == whole[last[0].name]
            assert last[0].name == "checkpoint.pt" or "checkpoint.pt" in damaged
        best = refusal(folder.load_best)
        assert "best.pt" in damaged if isinstance(best, str) else digest(best) == whole["best.pt"]
        refused += isinstance(last, str) + isinstance(best, str)
    assert refused > count // 4


def test_damaged_weights_are_refused_or_read_as_they_were(finished: Path, tmp_path: Path) -> None:
    count = 1500
    random = Random(count)
    content = (finished / "model.safetensors").read_bytes()
    model = models.build("mlp", num_classes=10, in_channels=1, image_size=(8, 8), width=8)
    load_weights(model, finished / "model.safetensors")
    whole = digest(model.state_dict())
    file = tmp_path / "model.safetensors"
    for _ in range(count):
        file.write_bytes(corrupted(content, random))
        refusal(lambda: load_weights(model, file))
        assert digest(model.state_dict()) == whole


@pytest.mark.parametrize("count", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_damaged_settings_and_metrics_are_made_good_or_told(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    random = Random(count)
    for name in CHECKPOINTS:
        shutil.copy(finished / name, tmp_path / name)
    config, folder = stored_config(finished), RunFolder(tmp_path)
    lines = (finished / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    told = 0
    for _ in range(count):
        caplog.clear()
        folder.config.write_bytes(corrupted((finished / "config.yaml").read_bytes(), random))
        assert stored_config(tmp_path) == config
        told += any("going on with the settings in checkpoint.pt" in text for text in caplog.messages)
        caplog.clear()
        folder.metrics.write_bytes(corrupted(b"".join(lines), random))
        folder.drop_metrics_after(3)
        kept = folder.metrics.read_bytes().splitlines(keepends=True)
        assert set(kept) <= set(lines)
        assert any("damaged or missing" in text for text in caplog.messages) == (len(kept) < len(lines))
    assert told > 0.9 * count


@pytest.mark.fault(
    "the last checkpoint is damaged",
    "resuming and evaluating go back to the epoch before, and say so",
)
def test_evaluation_and_resumption_go_back_to_the_epoch_before_and_say_so(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    content = bytearray((folder / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "checkpoint.pt").write_bytes(content)
    with caplog.at_level(logging.WARNING, "fairtat"):
        assert load_run(folder).epoch == 2
    (message,) = caplog.messages
    assert message.startswith(f"warning: {folder}/checkpoint.pt: damaged: its contents are not what was written")
    assert message.endswith("; going back to epoch 2 in checkpoint.previous.pt")
    assert resume(folder).epoch == 3
    assert digest(load_run(folder).model.state_dict()) == digest(load_run(finished).model.state_dict())
    (folder / "best.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"best.pt: damaged"):
        load_run(folder, weights="best")


def test_a_damaged_best_epoch_is_told_and_chosen_anew(
    tiny: Callable[..., TrainConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(epochs=3, optim={"schedule": "constant"})
    folder = train(replace(config, epochs=2)).path
    (folder / "best.pt").write_bytes((folder / "best.pt").read_bytes()[:-200])
    with caplog.at_level(logging.WARNING, "fairtat"):
        resume(folder, config=config)
    assert [text for text in caplog.messages if "the best epoch is chosen anew among those to come" in text]
    assert load_run(folder, weights="best").epoch == 3


def test_a_checkpoint_that_was_saved_again_with_torch_still_loads(finished: Path, tmp_path: Path) -> None:
    state = torch.load(finished / "checkpoint.pt", weights_only=True)
    torch.save(state, tmp_path / "checkpoint.pt")
    assert digest(load_checkpoint(tmp_path / "checkpoint.pt")) == digest(load_checkpoint(finished / "checkpoint.pt"))

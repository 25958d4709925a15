"""What `fairtat evaluate` judges: a run on its own images or others, or a model that fairtat did not train."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonargparse
import torch

from fairtat import models
from fairtat.cli.jobs.runs import Job, job_of_run, job_on_data
from fairtat.cli.parser import comma_separated, number
from fairtat.data import Data, Exif, Layout, check_images, load, load_splits, load_test
from fairtat.errors import UserError
from fairtat.models.published import TIMM, is_published
from fairtat.training import Number, load_run
from fairtat.training.build import build_model
from fairtat.training.config import ModelConfig
from fairtat.weights import load_weights


@dataclass
class ModelArguments:
    """a model instead of a run; names as in `fairtat train`"""

    name: str | None = None
    """digits_cnn, preact_resnet18, wrn28_10, ..., timm:NAME, hf:ORG/MODEL (a model of timm on the Hugging Face Hub),
    robustbench:DATASET/THREAT/NAME, or module:function. With a run: the module:function that
    it was trained with, which is run only if it is named here (or with --trust_model)."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for that model, for example {width: 64}."""

    mean: list[Number] | str | None = None
    """For a model that takes (x - mean) / std: one number per channel, or one for all, such as 0.491,0.482,0.447."""

    std: list[Number] | str | None = None
    """See mean."""

    download: bool = False
    """Fetch hf:, robustbench: and timm's weights from the network where they are not on this machine: below the folder
    models, or in the Hub's cache."""


@dataclass
class DataArguments:
    """the images to judge it on; names as in `fairtat train`"""

    name: str | None = None
    """A name that `fairtat train` knows, a folder of images, or a .npz or .parquet file. With a run: other images of
    the same classes and shape than its own."""

    root: str | None = None
    """The folder with the files of that data set."""

    image_size: int | None = None
    """Scale the images of folders and Hugging Face sets until they cover a square with sides of this many pixels, and
    crop its center. By default as the run was trained; for a model that comes with --model.name, all images must have
    one size."""

    layout: Layout = "auto"
    """Which axis of the images in a .npz file holds the channels, where auto cannot tell: nchw or nhwc."""

    exif: Exif | None = None
    """Images of folders and Hugging Face sets: apply turns them as their EXIF orientation says, ignore does not. By
    default as the run was trained, and apply for a model that comes with --model.name."""


def job_of(options: jsonargparse.Namespace, device: torch.device) -> Job:
    """What the options of `fairtat evaluate` ask about.

    Raises:
        UserError: they contradict each other, or lack something.
    """
    model, data = options.model, options.data
    if options.run is not None:
        given = {"weights": options.weights, "model.mean": model.mean, "model.std": model.std}
        for name, value in given.items():
            if value is not None:
                raise UserError(f"--{name} goes with --model.name, not with a run folder ({options.run})")
        trust = options.trust_model or model.name or False
        trained = load_run(options.run, device=device, weights=options.checkpoint, trust_model=trust)
        if data.name is None:
            return job_of_run(trained, options.split, options.checkpoint)
        as_trained = trained.config.data
        image_size = as_trained.image_size if _scaled(data.name) else None
        found, split = _data(options, as_trained.exif, image_size)
        return job_on_data(trained, data.name, found, split, options.checkpoint)
    if model.name is None:
        raise UserError("expected a run folder, or --model.name with --weights and --data.name")
    if data.name is None:
        raise UserError("--model.name needs --data.name, the images to judge it on")
    return _foreign(options, device)


def _scaled(name: str) -> bool:
    """Whether these are image files, which may have any size."""
    return name.startswith("hf:") or name.endswith(".parquet") or Path(name).is_dir()


def _foreign(options: jsonargparse.Namespace, device: torch.device) -> Job:
    """A model that fairtat did not train, with its data."""
    chosen = options.model
    models.check_options(chosen.options, "--model.options")
    data, split = _data(options, "apply", None)
    described = ModelConfig(name=chosen.name, options=chosen.options, weights=options.weights)
    from_file = options.weights not in (None, TIMM)
    model = build_model(described, data.num_classes, data.image_shape, fetch=not from_file, new_head=False).eval()
    if from_file:
        load_weights(model, models.find_weights(options.weights), num_classes=data.num_classes)
    name = f"{re.sub('[:/]', '-', chosen.name)}-{Path(options.data.name).stem}"
    return Job(
        name=chosen.name,
        model=model.to(device),
        data=data,
        split=split,
        folder=Path("evaluations") / name,
        source={"model": chosen.name, "weights": _weights(options), "data": options.data.name, "split": split},
        normalize=_normalize(chosen.mean, chosen.std, data.image_shape[0]),
        data_root=options.data.root,
    )


def _data(options: jsonargparse.Namespace, exif: Exif, image_size: int | None) -> tuple[Data, str]:
    """The images that --data.name names, and which split of them; ``exif`` and ``image_size`` are the defaults."""
    data = options.data
    if options.split in (None, "test") and (test := load_test(data.name, layout=data.layout)) is not None:
        check_images(test)
        return test, "test"
    # A file without a test set is a test set.
    split: str = options.split or ("all" if data.name.endswith((".npz", ".parquet")) else "test")
    reading: dict[str, Any] = {
        "image_size": image_size if data.image_size is None else data.image_size,
        "layout": data.layout,
        "exif": data.exif or exif,
    }
    if split == "all":
        found = load(data.name, **reading)
    else:
        found = getattr(load_splits(data.name, root=data.root, **reading), split)
    check_images(found)
    return found, split


def _weights(options: jsonargparse.Namespace) -> str:
    """Where the weights of a model from elsewhere come from."""
    if options.weights is not None:
        return str(options.weights)
    if is_published(options.model.name):
        return "published"
    if options.model.name.startswith("timm:"):
        return "timm's" if options.model.options.get("pretrained") else "random"
    return "its own" if ":" in options.model.name else "random"


def _normalize(
    mean: list[Number] | str | None, std: list[Number] | str | None, channels: int
) -> tuple[list[float], list[float]] | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UserError("--model.mean and --model.std go together")
    values, spread = _numbers("model.mean", mean, channels), _numbers("model.std", std, channels)
    return values, spread


def _numbers(option: str, given: list[Number] | str, channels: int) -> list[float]:
    numbers = [number(option, text) for text in comma_separated(given)] if isinstance(given, str) else given
    if len(numbers) not in (1, channels):
        raise UserError(f"--{option} has {len(numbers)} numbers, but the images have {channels} channels")
    return [float(number) for number in numbers]

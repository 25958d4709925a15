"""Models by name, the user's own among them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from fairtat.errors import UserError, did_you_mean
from fairtat.models.cnn import digits_cnn, mnist_cnn
from fairtat.models.mlp import mlp
from fairtat.models.preact_resnet import preact_resnet18
from fairtat.models.timm import build_timm
from fairtat.models.wide_resnet import wrn28_10, wrn34_10

__all__ = ["MODELS", "build"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits_cnn": digits_cnn,
    "mnist_cnn": mnist_cnn,
    "mlp": mlp,
    "preact_resnet18": preact_resnet18,
    "wrn28_10": wrn28_10,
    "wrn34_10": wrn34_10,
}


def build(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: tuple[int, int] = (32, 32),
    *,
    fetch: bool = True,
    **options: Any,
) -> nn.Module:
    """Build a model that maps x (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).

    Args:
        name: a key of `MODELS`; ``timm:NAME`` for a model of timm, whose ``create_model`` gets the options, for
            example ``pretrained``; or ``module:function`` of your own, called with
            ``(num_classes=, in_channels=, image_size=, **options)``. The module is looked up on the import path
            and in the working directory.
        num_classes, in_channels, image_size: what the data need; image_size is (H, W).
        fetch: whether ``pretrained`` weights of timm are fetched; False where others are loaded next.
        options: further keyword arguments of that function, for example ``width``.

    Raises:
        UserError: no such model, module or function, options that it does not take, or a result that is no module.
    """
    if name.startswith("timm:"):
        return build_timm(name.removeprefix("timm:"), num_classes, in_channels, image_size, fetch=fetch, **options)
    builder = _imported(name) if ":" in name else MODELS.get(name)
    if builder is None:
        valid = [*MODELS, "timm:NAME", "module:function"]
        raise UserError(f"no model is called {name!r}{did_you_mean(name, valid)}")
    try:
        model = builder(num_classes=num_classes, in_channels=in_channels, image_size=image_size, **options)
    except TypeError as error:
        raise UserError(f"model {name!r} cannot be built with options {options}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model {name!r} returned a {type(model).__name__}; expected a torch.nn.Module")
    return model


def _imported(name: str) -> Callable[..., nn.Module]:
    module_name, _, attribute = name.partition(":")
    try:
        with _working_directory_importable():
            module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"model {name!r}: cannot import module {module_name!r} ({error})") from error
    builder = getattr(module, attribute, None)
    if not callable(builder):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(
            f"model {name!r}: module {module_name!r} has no function {attribute!r}" + did_you_mean(attribute, functions)
        )
    return builder  # type: ignore[no-any-return]


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    # An installed command does not have the working directory on its path, where users keep their models.
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)

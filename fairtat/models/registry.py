"""Models by name, including the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from fairtat.errors import UserError, did_you_mean
from fairtat.extension import import_code, names_code
from fairtat.models.cnn import digits_cnn, mnist_cnn
from fairtat.models.mlp import mlp
from fairtat.models.normalized import Normalized
from fairtat.models.preact_resnet import preact_resnet8, preact_resnet18
from fairtat.models.published import build_published, is_published
from fairtat.models.timm import build_timm
from fairtat.models.wide_resnet import wrn28_10, wrn34_10

__all__ = ["MODELS", "build", "check_options", "code_of"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits_cnn": digits_cnn,
    "mnist_cnn": mnist_cnn,
    "mlp": mlp,
    "preact_resnet8": preact_resnet8,
    "preact_resnet18": preact_resnet18,
    "wrn28_10": wrn28_10,
    "wrn34_10": wrn34_10,
}

_BY_DATA = "the data decide"
_GIVEN = {
    **dict.fromkeys(("num_classes", "in_channels", "in_chans", "image_size"), _BY_DATA),
    **dict.fromkeys(("mean", "std"), "is a setting of its own beside options"),
    **dict.fromkeys(("name", "fetch", "new_head"), "fairtat sets itself"),
}
"""Arguments that no option may be, and why."""

# Options of timm.create_model that say which file or place weights are read from.
_TIMM_FILES = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def build(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: tuple[int, int] = (32, 32),
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    fetch: bool = True,
    new_head: bool = True,
    **options: Any,
) -> nn.Module:
    """Build a model that maps x (N, in_channels, H, W) in [0, 1] to logits (N, num_classes).

    Args:
        name: a key of `MODELS`; ``timm:NAME`` for a model of timm, whose ``create_model`` gets the options, for
            example ``pretrained``; ``hf:ORG/MODEL`` (a model of timm on the Hugging Face Hub) or
            ``robustbench:DATASET/THREAT/NAME``, with their published weights (see `fairtat.models.fetch`); or
            ``module:function`` of your own, called with ``(num_classes=, in_channels=, image_size=, **options)``, with
            those of the three that its signature takes. The module is looked up on the import path and in the working
            directory.
        num_classes, in_channels, image_size: what the data need; image_size is (H, W).
        mean, std: one number for each channel, or one for all: the model then computes with (x - mean) / std.
        fetch: whether ``pretrained`` weights of timm are fetched, and published ones are read; False where others are
            loaded next.
        new_head: what pretrained weights with other classes than num_classes mean: a random last layer to be
            trained, which a line of the log says, or (False) an error.
        options: further keyword arguments of that function, for example ``width``.

    Raises:
        UserError: no such model, module or function, options that it does not take, a result that is not a module, a
            mean or std that does not fit, or pretrained weights of other classes without ``new_head``.
    """
    model = _built(name, num_classes, in_channels, image_size, fetch=fetch, new_head=new_head, **options)
    if mean is None and std is None:
        return model
    if isinstance(model, Normalized):
        raise UserError(f"model {name!r} normalizes its images itself; leave out mean and std")
    return Normalized(model, _per_channel("mean", mean, in_channels), _per_channel("std", std, in_channels))


def check_options(options: Mapping[str, Any], name: str = "options") -> None:
    """Refuse options that `build` passes itself.

    Raises:
        UserError: one of them is among ``options``; the message begins with ``name``.
    """
    for key in options:
        if not isinstance(key, str):
            raise UserError(f"{name} has the key {key!r}; expected the name of a keyword argument")
        if key in _GIVEN:
            raise UserError(f"{name} has {key!r}, which {_GIVEN[key]}; leave it out")


def code_of(name: str, options: Mapping[str, Any]) -> str | None:
    """The code outside fairtat and timm that a model of this name and options would run, in words, or None.

    A name from a file must not choose what is imported, nor may an option of timm choose a file to unpickle.
    """
    if name.startswith("timm:") or is_published(name):
        loads = next((key for key in _TIMM_FILES if key in options), None)
        return None if loads is None else f"model {name} would load a file that its option {loads} names"
    return f"model {name} would be imported and run" if names_code(name) else None


def _per_channel(name: str, values: Sequence[float] | None, channels: int) -> list[float]:
    given = [] if values is None else [float(value) for value in values]
    if len(given) not in (1, channels) or (name == "std" and not min(given) > 0):
        expected = f"{channels} numbers, one per channel, or one for all" + ", above 0" * (name == "std")
        raise UserError(f"{name} is {given or None}; expected {expected} (mean and std go together)")
    return given * (channels // len(given))


def _built(
    name: str,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    fetch: bool,
    new_head: bool,
    **options: Any,
) -> nn.Module:
    if name.startswith("timm:"):
        timm_name = name.removeprefix("timm:")
        return build_timm(timm_name, num_classes, in_channels, image_size, fetch=fetch, new_head=new_head, **options)
    if is_published(name):
        return build_published(name, num_classes, in_channels, image_size, load=fetch, new_head=new_head, **options)
    builder = import_code("model", name) if names_code(name) else MODELS.get(name)
    if builder is None:
        valid = [*MODELS, "timm:NAME", "hf:ORG/MODEL", "robustbench:NAME", "module:function"]
        raise UserError(f"no model is called {name!r}{did_you_mean(name, valid)}")
    given = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    try:
        model = builder(**_taken(builder, given), **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"model {name!r} cannot be built with options {options}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model {name!r} returned a {type(model).__name__}; expected a torch.nn.Module")
    return model


def _taken(builder: Callable[..., object], given: dict[str, Any]) -> dict[str, Any]:
    """What the builder's signature takes of ``given``: a user's model may leave any of them out."""
    try:
        parameters = inspect.signature(builder).parameters
    except (TypeError, ValueError):  # a builtin, which does not say
        return given
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return given
    return {key: value for key, value in given.items() if key in parameters}

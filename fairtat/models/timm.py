"""Any model of timm, the collection of PyTorch image models: https://github.com/huggingface/pytorch-image-models."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

from torch import nn

from fairtat.errors import UserError, nearest
from fairtat.models.normalized import Normalized
from fairtat.optional import optional_import

__all__ = ["build_timm", "refuse_other_classes"]

_LOG = logging.getLogger("fairtat")


def build_timm(
    name: str,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    pretrained: bool = False,
    fetch: bool = True,
    new_head: bool = True,
    shown: str | None = None,
    **options: Any,
) -> nn.Module:
    """``timm.create_model`` for these data; models that are made for one image size are made for this one.

    With ``pretrained`` the weights are timm's, from the network or its cache, and the images are normalized as those
    weights expect; otherwise the model sees images in [0, 1] as they are. ``fetch=False`` builds the same modules
    with random weights, for others to be loaded into.

    Where the weights have other classes than the data, timm leaves the last layer random without a word:
    ``new_head`` allows that, and it is logged. ``shown`` is what messages call the model; ``name`` may be timm's
    ``local-dir:FOLDER``.

    Raises:
        UserError: timm is not installed, knows no such model, cannot make it with these options, the weights cannot
            be had, or they have other classes and ``new_head`` is false.
    """
    shown = shown or f"timm:{name}"
    timm = optional_import("timm", purpose=f"model {shown!r}", extra="vision")
    if not name.startswith("local-dir:") and not timm.is_model(name):
        found = nearest(name, timm.list_models())
        hint = f"did you mean {found!r}?" if found else "timm.list_models() has the names"
        raise UserError(f"timm {timm.__version__} has no model {name!r}; {hint}")
    arguments = {"pretrained": pretrained and fetch, "num_classes": num_classes, "in_chans": in_channels, **options}
    try:
        model: nn.Module = _create(timm, name, image_size, arguments)
    except Exception as error:  # options reach constructors of a thousand models; weights come over the network
        reason = str(error).partition("\n")[0] or type(error).__name__
        shape = f"{in_channels}x{image_size[0]}x{image_size[1]}"
        raise UserError(
            f"model {shown!r} cannot be built for {shape} images with options {options}: {reason}"
        ) from error
    if not pretrained:
        return model
    published: Any = model.pretrained_cfg
    if fetch and published.get("num_classes") != num_classes:
        if not new_head:
            refuse_other_classes(shown, published.get("num_classes"), num_classes)
        _LOG.info(
            "%s: the last layer starts from random weights", _classes(shown, published.get("num_classes"), num_classes)
        )
    mean, std = published["mean"], published["std"]
    if in_channels != len(mean):  # timm folds the color weights; the average color is what gray means
        mean, std = [sum(mean) / len(mean)] * in_channels, [sum(std) / len(std)] * in_channels
    return Normalized(model, mean, std)


def refuse_other_classes(model: str, published: int | None, num_classes: int) -> NoReturn:
    """Raise the error that a model's pretrained weights do not have the data's classes."""
    raise UserError(
        f"{_classes(model, published, num_classes)}: the last layer would be random; expected data with the classes of "
        "the weights, weights that were trained on these classes, or for training model.new_head true"
    )


def _classes(model: str, published: int | None, num_classes: int) -> str:
    head = f"{published} classes" if published else "no head (0 classes)"
    return f"model {model!r}: its pretrained weights have {head}, but the data have {num_classes}"


def _create(timm: Any, name: str, image_size: tuple[int, int], arguments: dict[str, Any]) -> Any:
    if "img_size" in arguments:
        return timm.create_model(name, **arguments)
    try:
        return timm.create_model(name, img_size=image_size, **arguments)
    except TypeError as error:
        # Only models with position embeddings or windows take a size, and nothing but the attempt says which.
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **arguments)

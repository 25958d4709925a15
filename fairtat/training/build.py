"""The data and the model that a configuration names, and whether it may name code to run."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from fairtat import data, models
from fairtat.data import Splits, load_splits
from fairtat.errors import UserError
from fairtat.extension import names_code
from fairtat.models.published import TIMM, find_timm_weights
from fairtat.training.config import DataConfig, ModelConfig, TrainConfig

__all__ = ["Trust", "build_model", "code_named", "load_data", "require_trust"]

Trust = bool | str | Collection[str]
"""True, the name of the model, or all names of code, as a person has given it beside the file."""


def load_data(config: DataConfig) -> Splits:
    """The data set that the configuration names, split as it says.

    Raises:
        UserError: no such data set, or data that cannot be used.
    """
    # What it does to batches of these images, and what it adds to them.
    of_training = ("augment", "pad", "balance", "extra", "extra_share", "pseudo_labels")
    return load_splits(**{key: value for key, value in vars(config).items() if key not in of_training})


def build_model(
    config: ModelConfig,
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    fetch: bool = True,
    new_head: bool = True,
) -> nn.Module:
    """The network that the configuration names, with random weights, or (``fetch``) those that it asks for.

    ``new_head``: of pretrained weights with other classes, all but the last layer are taken, instead of none.
    ``weights: timm`` is part of the network, which normalizes images as those weights expect.

    Raises:
        UserError: as `fairtat.models.build`.
    """
    channels, height, width = image_shape
    options = dict(config.options)
    if config.weights == TIMM:
        options["pretrained"] = True
        if fetch:
            options["pretrained_cfg_overlay"] = {"file": str(find_timm_weights(config.name))}
    return models.build(
        config.name,
        num_classes=num_classes,
        in_channels=channels,
        image_size=(height, width),
        mean=config.mean,
        std=config.std,
        fetch=fetch,
        new_head=new_head,
        **options,
    )


def code_named(config: TrainConfig, *, training: bool = True) -> dict[str, str]:
    """The code of other people's that the configuration names: its name, and in words what would run.

    Args:
        config: the experiment.
        training: with the objective and the weight rule, which only training runs.
    """
    found = [
        (config.model.name, models.code_of(config.model.name, config.model.options)),
        (config.data.name, data.code_of(config.data.name)),
    ]
    if training:
        teacher = config.distill.teacher
        if teacher is not None:
            found.append((teacher, models.code_of(teacher, config.distill.options)))
        for what, name in (
            ("attack loss", config.attack.loss),
            ("objective", config.objective.name),
            ("weight rule", config.fairness.weights),
        ):
            found.append((name, f"{what} {name} would be imported and run" if names_code(name) else None))
    return {name: code for name, code in found if code is not None}


def require_trust(config: TrainConfig, source: object, trust: Trust, *, training: bool = True) -> None:
    """Refuse to run code that only the file ``source`` names.

    Args:
        config: the experiment, as that file has it.
        source: named in the message.
        trust: what a person has allowed.
        training: as for `code_named`.

    Raises:
        UserError: the file names code that the user has not allowed, or ``trust`` names another model.
    """
    if isinstance(trust, str) and trust != config.model.name:
        raise UserError(f"{source}: its model is {config.model.name!r}, not {trust!r}")
    if trust is True:
        return
    allowed = {trust} if isinstance(trust, str) else set(trust or ())
    for name, code in code_named(config, training=training).items():
        if name not in allowed:
            raise UserError(f"{source}: {code}; if you trust it, add --trust-model (in Python: trust_model=True)")

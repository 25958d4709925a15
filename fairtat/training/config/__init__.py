"""What an experiment is: nested dataclasses, their ranges, and YAML."""

from fairtat.training.config import optimizing, sections
from fairtat.training.config.experiment import TrainConfig, leaves, make_fairness
from fairtat.training.config.io import (
    from_dict,
    from_run,
    load_yaml,
    parse_yaml,
    stacked,
    to_dict,
    to_yaml,
    unknown_key,
)
from fairtat.training.config.optimizing import *  # noqa: F403 - the sections, listed where they are
from fairtat.training.config.sections import *  # noqa: F403
from fairtat.training.config.values import Number

__all__ = [
    "Number",
    "TrainConfig",
    "from_dict",
    "from_run",
    "leaves",
    "load_yaml",
    "make_fairness",
    "parse_yaml",
    "stacked",
    "to_dict",
    "to_yaml",
    "unknown_key",
]
__all__ += optimizing.__all__
__all__ += sections.__all__

"""Networks for the experiments, built by name."""

from fairtat.models.cnn import SmallCNN, digits_cnn, mnist_cnn
from fairtat.models.mlp import MLP, mlp
from fairtat.models.preact_resnet import PreActResNet, preact_resnet8, preact_resnet18
from fairtat.models.published import fetch, find_weights
from fairtat.models.registry import MODELS, build, check_options, code_of
from fairtat.models.wide_resnet import WideResNet, wrn28_10, wrn34_10

__all__ = [
    "MLP",
    "MODELS",
    "PreActResNet",
    "SmallCNN",
    "WideResNet",
    "build",
    "check_options",
    "code_of",
    "digits_cnn",
    "fetch",
    "find_weights",
    "mlp",
    "mnist_cnn",
    "preact_resnet8",
    "preact_resnet18",
    "wrn28_10",
    "wrn34_10",
]

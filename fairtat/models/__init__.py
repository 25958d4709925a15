"""Networks for the experiments, built by name."""

from fairtat.models.cnn import SmallCNN, digits_cnn, mnist_cnn
from fairtat.models.mlp import MLP, mlp
from fairtat.models.preact_resnet import PreActResNet, preact_resnet18
from fairtat.models.registry import MODELS, build

__all__ = [
    "MLP",
    "MODELS",
    "PreActResNet",
    "SmallCNN",
    "build",
    "digits_cnn",
    "mlp",
    "mnist_cnn",
    "preact_resnet18",
]

"""Evaluate a model of timm class by class.

    pip install 'fairtat[vision,train]'
    python examples/evaluate_timm.py                                # a tiny network on digits: nothing is downloaded
    python examples/evaluate_timm.py resnet18 --data photos --weights resnet18.safetensors --size 224

``--data`` is anything that ``fairtat train --data.name`` takes, such as a folder with one subfolder per class.
Without weights, the model is first trained for a few epochs, undefended, so that there is something to see.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fairtat
from fairtat.data import load_splits
from fairtat.models import build


class Resized(nn.Module):
    """Attacks act on the images as they are; the network sees them at the size that it was made for."""

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, x: Tensor) -> Tensor:
        return self.model(F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="test_resnet", help="a name of timm.list_models()")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--weights", help="a .safetensors file or a PyTorch checkpoint of tensors")
    parser.add_argument("--size", type=int, default=32, help="pixels of an edge, as the network takes them")
    parser.add_argument("--eps", type=float, default=8 / 255)
    parser.add_argument("--images", type=int, default=200, help="test images to judge it on")
    options = parser.parse_args()

    torch.manual_seed(0)
    splits = load_splits(options.data)
    channels = splits.train.image_shape[0]
    size = (options.size, options.size)
    network = build(
        f"timm:{options.model}",
        num_classes=splits.train.num_classes,
        in_channels=channels,
        image_size=size,
        **({} if options.weights is None else {"checkpoint_path": options.weights}),
    )
    model = Resized(network, options.size)
    if options.weights is None:
        train_briefly(model, splits.train.floats(splits.train.images), splits.train.labels)

    test = splits.test.take(torch.arange(min(options.images, len(splits.test))))
    evaluation = fairtat.evaluate(model.eval(), test, attacks=["pgd-10"], eps=options.eps)
    print(f"{options.model} on {len(test)} images of {options.data}, {evaluation.attack}")
    for k, name in enumerate(evaluation.class_names):
        if evaluation.clean.n[k]:
            print(f"{name:>12}: clean {evaluation.clean.accuracy[k]:6.1%}  robust {evaluation.robust.accuracy[k]:6.1%}")
    for finding in evaluation.findings:
        print(f"{finding.severity}: {finding.text}")


def train_briefly(model: nn.Module, x: Tensor, y: Tensor, epochs: int = 3) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


if __name__ == "__main__":
    main()

"""Attack a model of your own, and see which classes pay.

    python examples/attack_your_model.py

Any `torch.nn.Module` that turns images in [0, 1] into logits will do; give ``normalize=(mean, std)`` if yours takes
normalized images. Here it is a small network, trained for a few seconds on scikit-learn's digits, without any defense.
"""

import torch
from torch import nn
from torch.nn import functional as F

import fairtat
from fairtat.data import load_splits

EPS = 0.1  # in pixel units, where images lie in [0, 1]


def your_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 4 * 4, 10),
    )  # fmt: skip


def train_plainly(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int = 10) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    splits = load_splits("digits")
    model = train_plainly(your_model(), splits.train.floats(splits.train.images), splits.train.labels)
    x, y = splits.test.floats(splits.test.images), splits.test.labels

    # Away from the label: the usual PGD.
    attacked = fairtat.fast_pgd(model, x, y, eps=EPS, step_size=EPS / 4, steps=10, seed=0, return_info=True)
    clean = (model(x).argmax(1) == y).float().mean()
    print(f"clean {clean:.1%}, under PGD-10 {(attacked.pred == y).float().mean():.1%}")

    # Towards a class of your choice: can every digit be made to look like the next one?
    target = (y + 1) % 10
    moved = fairtat.fast_targeted_pgd(
        model, x, target, y=y, eps=EPS, step_size=EPS / 4, steps=10, seed=0, return_info=True
    )
    print(f"turned into the next digit: {moved.reached.float().mean():.1%}")

    # Class by class, with intervals and with warnings where a figure would mislead.
    evaluation = fairtat.evaluate(model, splits.test, attacks=["pgd-10", "cw-10"], eps=EPS)
    for k, name in enumerate(evaluation.class_names):
        low, high = evaluation.robust.interval[k]
        print(f"digit {name}: robust {evaluation.robust.accuracy[k]:6.1%}  95% interval {low:.1%} to {high:.1%}")
    for finding in evaluation.findings:
        print(f"{finding.severity}: {finding.text}")


if __name__ == "__main__":
    main()

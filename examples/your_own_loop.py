"""FAIR-TAT in a training loop of your own: the ten lines that end in a number.

    python examples/your_own_loop.py

Everything else is what a PyTorch loop looks like anyway. Targets and radii follow, epoch by epoch, how each class fared
under attack (Medi, Jung, Keuper 2025, arXiv:2410.23142).
"""

import torch
from torch.nn import functional as F

import fairtat
from fairtat.data import batches, load_splits
from fairtat.models import build

EPS, EPOCHS = 0.1, 6


def main() -> None:
    torch.manual_seed(0)
    splits = load_splits("digits")
    model = build("digits_cnn", num_classes=10, in_channels=1, image_size=(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    fair = fairtat.FairTAT(num_classes=10, eps=EPS, targets="cfps", margins="G-rob")  # 1

    for epoch in range(EPOCHS):
        model.train()
        for x, y, ids in batches(splits.train, 128, seed=epoch):
            target = fair.sample_targets(y, ids)  # 2
            x_adv = fairtat.fast_targeted_pgd(  # 3
                model,  # 4
                x, target, y=y,  # 5
                eps=fair.eps_for(y), step_size=EPS / 4,  # 6
                steps=7, seed=epoch, sample_ids=ids,  # 7
            )  # fmt: skip  # 8
            logits = model(x_adv)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            fair.update(logits.detach(), y, target)  # 9

        fair.end_epoch()  # 10
        worst, accuracy = fair.last.worst()
        print(
            f"epoch {epoch + 1}: worst class of the training examples {worst} ({accuracy:.1%}), "
            f"radii from {fair.class_eps.min():.3f} to {fair.class_eps.max():.3f}"
        )

    evaluation = fairtat.evaluate(model.eval(), splits.test, attacks=["pgd-20"], eps=EPS)
    worst, accuracy = evaluation.robust.worst
    print(
        f"test: clean {evaluation.clean.average:.1%}, robust {evaluation.robust.average:.1%}, worst class {worst} "
        f"at {accuracy:.1%}"
    )


if __name__ == "__main__":
    main()

"""FAIR-TAT in a loop that Accelerate runs: on a CPU, a GPU, or several with `accelerate launch`.

    pip install accelerate
    python examples/accelerate_loop.py

Each process attacks its own part of a batch, and `end_epoch` sums the counts of all of them (Medi, Jung, Keuper 2025,
arXiv:2410.23142).
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import fairtat
from fairtat.data import load_splits
from fairtat.models import build

EPS, EPOCHS = 0.1, 4


def main() -> None:
    accelerator = Accelerator()
    set_seed(0)
    train = load_splits("digits").train
    images = TensorDataset(train.images.float() / train.white, train.labels, torch.arange(len(train)))
    model = build("digits_cnn", num_classes=10, in_channels=1, image_size=(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(images, batch_size=128, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    fair = fairtat.FairTAT(num_classes=10, eps=EPS, device=accelerator.device)

    for epoch in range(EPOCHS):
        model.train()
        for x, y, ids in loader:
            target = fair.sample_targets(y, ids)
            x_adv = fairtat.fast_targeted_pgd(
                model, x, target, y=y, eps=fair.eps_for(y), step_size=EPS / 4, steps=7, seed=epoch, sample_ids=ids
            )
            logits = model(x_adv)
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(logits, y))
            optimizer.step()
            fair.update(logits.detach(), y, target)
        fair.end_epoch()
        worst, accuracy = fair.last.worst()
        accelerator.print(f"epoch {epoch + 1}: worst class of the training examples {worst} ({accuracy:.1%})")


if __name__ == "__main__":
    main()

"""Writes original.npz: what the authors' code finds on a small network, for test_original.py.

    PYTHONPATH=tests/shared python tests/attacks/autoattack/make_original.py CLONE     # of github.com/fra31/auto-attack

The file holds the network's weights, the images, and for each attack and norm the verdicts of the original with two
seeds; and the commit of the clone. Of the original itself it holds nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from noisy_patterns import ORIGINAL_EPS, noisy_patterns, original_network, train_attacked
from torch import nn

NORMS = {"linf": "Linf", "l2": "L2"}
IMAGES, QUERIES = 300, 1000


def images(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(images (n, 1, 8, 8) in steps of 1/255, labels)."""
    x, y = noisy_patterns(n, seed=seed, base=0.3, contrast=0.4)
    return (255 * x).round() / 255, y


def verdicts(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    """(2, N) bool for each attack and norm: still right, with two seeds."""
    from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from autoattack.fab_pt import FABAttack_PT
    from autoattack.square import SquareAttack

    class Silent:
        def log(self, text: str) -> None:
            pass

    found = {}
    for norm, eps in ORIGINAL_EPS.items():
        for seed in (0, 1):
            common = {"norm": NORMS[norm], "eps": eps, "seed": seed, "device": "cpu"}
            attacks = {
                "apgd-ce": APGDAttack(model, n_iter=100, n_restarts=1, loss="ce", logger=Silent(), **common),
                "apgd-dlr": APGDAttack(model, n_iter=100, n_restarts=1, loss="dlr", logger=Silent(), **common),
                "apgd-t": APGDAttack_targeted(
                    model, n_iter=100, n_restarts=1, n_target_classes=5, logger=Silent(), **common
                ),
                "fab-t": FABAttack_PT(model, n_iter=100, targeted=True, n_target_classes=5, **common),
                "square": SquareAttack(model, n_queries=QUERIES, p_init=0.8, resc_schedule=False, **common),
            }
            for name, attack in attacks.items():
                right = (model(attack.perturb(x.clone(), y.clone())).argmax(1) == y).numpy()
                found.setdefault(f"{name}/{norm}", []).append(right)
    return {name: np.stack(both) for name, both in found.items()}


def main() -> None:
    clone = Path(sys.argv[1])
    sys.path.insert(0, str(clone))
    commit = (
        sys.argv[2]
        if len(sys.argv) > 2
        else subprocess.check_output(["git", "-C", str(clone), "rev-parse", "HEAD"], text=True).strip()
    )
    torch.manual_seed(0)
    model = train_attacked(original_network(), *images(1000, seed=0), steps=600).requires_grad_(False)
    x, y = images(IMAGES, seed=1)
    weights = {f"weight/{name}": tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez_compressed(
        Path(__file__).with_name("original.npz"),
        commit=commit,
        images=(255 * x).round().numpy().astype(np.uint8),
        labels=y.numpy(),
        **weights,
        **verdicts(model, x, y),
    )


if __name__ == "__main__":
    main()

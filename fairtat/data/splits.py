"""Stratified, deterministic train / validation / test splits."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat.data.types import ImageData, Splits
from fairtat.errors import UserError

__all__ = ["stratified_split"]


def stratified_split(data: ImageData, *, val: float, test: float, seed: int = 0) -> Splits:
    """Split each class by itself: ``round(share * n_k)`` samples, at least one, to validation and to test.

    Which samples go where depends on ``seed`` and on the class only, so adding a class leaves the others alone.
    Within a part the samples keep the order of ``data``.

    Raises:
        UserError: shares outside (0, 1) or leaving nothing to train on; a class with fewer than three samples.
    """
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise UserError(f"data shares val={val:g} and test={test:g}: expected both above 0 and a sum below 1")
    labels = data.labels.cpu()
    parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for label, class_name in enumerate(data.class_names):
        members = (labels == label).nonzero().flatten()
        count = len(members)
        if count < 3:
            raise UserError(
                f"{data.name}: class {label} ({class_name!r}) has {count} samples; expected at least 3, "
                "one each to train, validate and test"
            )
        n_test = max(1, round(test * count))
        n_val = max(1, round(val * count))
        if n_test + n_val >= count:
            raise UserError(
                f"{data.name}: class {label} ({class_name!r}) has {count} samples, of which val={val:g} and "
                f"test={test:g} leave none to train on"
            )
        generator = torch.Generator().manual_seed((seed * 1_000_003 + label) % 2**63)
        shuffled = members[torch.randperm(count, generator=generator)]
        test_part, val_part, train_part = shuffled.split([n_test, n_val, count - n_test - n_val])
        for part, chosen in zip(parts, (train_part, val_part, test_part), strict=True):
            part.append(chosen)
    train_data, val_data, test_data = (data.take(torch.cat(part).sort().values.to(data.device)) for part in parts)
    return Splits(train=train_data, val=val_data, test=test_data)

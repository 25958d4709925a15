"""Labels that a trained model gives to images that have none."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch

from fairtat.data import ImageData, Splits, batches
from fairtat.errors import UserError
from fairtat.logits import logits_of
from fairtat.training.run.read import load_run

__all__ = ["labeled", "labels_digest"]


def labeled(extra: ImageData, folder: str, splits: Splits, *, batch_size: int = 256) -> ImageData:
    """``extra`` with the class that the model of a run folder predicts in place of each label of -1.

    The prediction is the argmax of the clean logits in float32 and eval mode, as Carmon et al. (2019) label images.

    Raises:
        UserError: no such run, one of other classes or images, or one whose model is code (`load_run`).
    """
    missing = (extra.labels < 0).nonzero().flatten()
    run = load_run(folder, device=splits.train.device)
    if (run.class_names, run.image_shape) != (splits.train.class_names, splits.train.image_shape):
        raise UserError(
            f"data.pseudo_labels: {folder} was trained on {run.num_classes} classes of images {run.image_shape}; "
            f"expected those of {splits.train.name}, {splits.train.num_classes} of {splits.train.image_shape}"
        )
    images = replace(extra.take(missing), labels=torch.zeros(len(missing), dtype=torch.int64))
    labels = extra.labels.clone()
    with torch.no_grad():
        found = [logits_of(run.model(batch.x.to(run.device))).argmax(1) for batch in batches(images, batch_size)]
    if found:
        labels[missing] = torch.cat(found).cpu()
    return replace(extra, labels=labels)


def labels_digest(extra: ImageData) -> str:
    """What tells whether a resumed run sees the same labels: of images that a model has labeled, they may change."""
    return hashlib.sha256(extra.labels.cpu().numpy().tobytes()).hexdigest()

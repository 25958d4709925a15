"""TRIX: which samples of a batch belong to classes that the model finds easy."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat.fairness.weights import dafa_weight


def in_easy_class(clean_logits: Tensor, y: Tensor) -> Tensor:
    """Whether each sample's class is easier than the batch's average sample's: TRIX attacks these towards a target.

    With s_c the mean of softmax(clean_logits) over the batch's samples of class c, and w = `dafa_weight(s)`, which is
    above 1 for classes that look like ones the model is surer of::

        easy_i = w_{y_i} < mean_j w_{y_j}

    In the published code two classes with the same confidence take weight from both; here that moves nothing.

    Args:
        clean_logits: of the clean images, (N, C).
        y: labels, (N,) int64.

    Returns:
        (N,) bool; False for all where the batch has one class only.

    Source: TRIX, Medi et al. 2025, by its code.
    """
    probability = clean_logits.detach().double().softmax(dim=1)
    # A product, not an index_add: on a GPU its sums have an order, so a resumed run repeats them.
    of_class = (y[:, None] == torch.arange(clean_logits.shape[1], device=y.device)).double()
    similarity = (of_class.t() @ probability) / of_class.sum(dim=0)[:, None]  # NaN rows for absent classes
    weight = dafa_weight(similarity).index_select(0, y)
    return weight < weight.mean()

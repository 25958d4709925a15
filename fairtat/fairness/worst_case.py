"""FAAL: the class distribution near the uniform one under which a batch is worst."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fairtat import checks

_POINTS, _ROUNDS = 64, 10  # 64**10 is 2**60: the bracket shrinks to the spacing of float64


def worst_distribution(score: Tensor, radius: float, present: Tensor | None = None) -> Tensor:
    """The distribution with the largest mean score in a Kullback-Leibler ball around the uniform one.

        q = argmax_q sum_c q_c a_c        over distributions with KL(u || q) <= radius

    with u uniform over the classes that are present. Where the scores differ, Lagrange's conditions leave one unknown,
    nu > max(a), of which the divergence is a falling function::

        q_c = lambda u_c / (nu - a_c)        lambda = 1 / sum_c u_c / (nu - a_c)        KL(u || q) = radius

    It is found by sections of its logarithm, in float64, in a fixed number of rounds without waiting for the device.

    Args:
        score: a, (C,).
        radius: of the ball, >= 0; 0 is the uniform distribution.
        present: (C,) bool, which classes may have a share; None for all. At least one must.

    Returns:
        (C,) float64, which sums to 1; NaN where a score of a present class is not finite.

    Raises:
        TypeError, ValueError: the radius is not a finite number >= 0.

    Source: the inner problem of FAAL, Zhang et al., CVPR 2024.
    """
    radius = checks.real("radius", radius, low=0.0)
    a = score.double()
    here = torch.ones_like(a, dtype=torch.bool) if present is None else present
    number = here.sum()
    log_u = torch.where(here, -number.double().log(), -torch.inf)
    uniform = log_u.exp()
    if radius == 0.0:
        return uniform
    best = torch.where(here, a, -torch.inf).amax()
    spread = best - torch.where(here, a, torch.inf).amin()
    # In units of the spread, nu - a_c = b_c + exp(-s) with b in [0, 1], 0 for the best class and 1 for the worst.
    b = torch.where(here, (best - a) / torch.where(spread == 0, 1.0, spread), 1.0)
    log_b = b.log()
    # KL < log(1 + exp(s)), and KL >= u s + log u, of which the worst and the best class alone are enough.
    low = a.new_tensor(math.log(math.expm1(radius)) if radius < 1 else radius + math.log(-math.expm1(-radius)))
    high = number * (radius + number.double().log())
    parts = torch.linspace(0.0, 1.0, _POINTS + 1, dtype=torch.float64, device=a.device)
    for _ in range(_ROUNDS):
        s = torch.lerp(low, high, parts)  # (P + 1,)
        log_x = torch.logaddexp(log_b, -s[:, None])  # (P + 1, C): of nu - a
        divergence = (uniform * log_x).sum(dim=1) + torch.logsumexp(log_u - log_x, dim=1)
        above = (divergence < radius).sum().clamp(1, _POINTS)
        low, high = s.index_select(0, (above - 1).view(1))[0], s.index_select(0, above.view(1))[0]
    q = torch.softmax(log_u - torch.logaddexp(log_b, -(low + high) / 2), dim=0)
    return torch.where(spread == 0, uniform, q)


def worst_class_weight(logits: Tensor, y: Tensor, radius: float) -> Tensor:
    """FAAL's weight of each sample of a batch, ``K q_{y_i}`` with K the number of classes in it.

    q is the `worst_distribution` over these classes for the score

        a_c = sum_{i: y_i = c} max_{k != c} p_ik - p_ic        p = softmax(logits)

    so it leans to classes that many samples of the batch have and few are right about. radius=0 gives 1 for all. In the
    published code a class that the batch lacks keeps a share, with the score 0; as this is more than that of a class
    which is mostly right, it draws weight off the samples. Here it has none.

    Args:
        logits: of the adversarial examples, (N, C); used without their graph.
        y: labels, (N,) int64.
        radius: of the ball, >= 0; 0.5 in the paper.

    Returns:
        (N,) float32.
    """
    probability = logits.detach().double().softmax(dim=1)
    own = probability.gather(1, y[:, None])
    margin = probability.scatter(1, y[:, None], -1.0).amax(dim=1) - own[:, 0]
    # A product, not an index_add: on a GPU its sums have an order, so a resumed run repeats them.
    of_class = (y[:, None] == torch.arange(logits.shape[1], device=y.device)).double()
    present = of_class.any(dim=0)
    q = worst_distribution(margin @ of_class, radius, present)
    return (present.sum() * q.index_select(0, y)).float()

r"""BatchNorm by running statistics, which are constants of an attack, as a scale and a shift per channel.

With weight w, bias b, running mean m and variance v of a channel::

    y = (x - m) / sqrt(v + eps) * w + b = x * s + t,        s = w / sqrt(v + eps),  t = b - m * s,        dx = dy * s

s and t depend on the model alone, so they are computed once per attack. After a convolution of which it is the only
user, the normalization costs nothing: ``conv(x, W) * s + t`` is ``conv(x, W * s) + t`` with s along the output
channels, and the gradient of the convolution's input becomes that of the scaled weight.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from fairtat.engines.compiled.constants import BATCH_NORMS, Constants, aten

# A scaled weight has to stay in its dtype's range, which float16's may not where a channel hardly varies.
_FOLDED = (torch.float32, torch.float64, torch.bfloat16)


def affine(
    x: Tensor,  # (N, C, ...)
    weight: Tensor | None,  # (C,), as all that follow
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *,
    results: int,
) -> Any:
    """aten.native_batch_norm by running statistics as a scale and a shift, else NotImplemented.

    ``results``: how many there are; those beside y are statistics of the batch, which nothing reads.
    """
    if training or mean is None or variance is None:
        return NotImplemented
    scale, shift = scale_and_shift(weight, bias, mean, variance, eps)
    y = x.to(scale.dtype) * _along(scale, x, 1) + _along(shift, x, 1)
    return y.to(x.dtype), *[None] * (results - 1)


def affine_input_gradient(
    grad_output: Tensor,  # (N, C, ...)
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    batch_mean: Tensor | None,
    batch_inverse: Tensor | None,
    training: bool,
    eps: float,
    output_mask: list[bool],
) -> Any:
    """aten.native_batch_norm_backward of :func:`affine` where the input's gradient alone is asked for."""
    if training or mean is None or variance is None or list(output_mask) != [True, False, False]:
        return NotImplemented
    scale, _ = scale_and_shift(weight, None, mean, variance, eps)
    return (grad_output.to(scale.dtype) * _along(scale, x, 1)).to(x.dtype), None, None


def scale_and_shift(
    weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """s and t (C,) in float32 or wider."""
    precise = torch.promote_types(variance.dtype, torch.float32)
    scale = torch.rsqrt(variance.to(precise) + eps)
    if weight is not None:
        scale = weight.to(precise) * scale
    moved = mean.to(precise) * scale
    return scale, -moved if bias is None else bias.to(precise) - moved


REWRITES: dict[Any, Callable[..., Any]] = {
    **{op: partial(affine, results=len(op._schema.returns)) for op in BATCH_NORMS},
    aten.native_batch_norm_backward.default: affine_input_gradient,
}


def fold_into_convolutions(graph_module: fx.GraphModule, inputs: range) -> fx.GraphModule:
    """Fold each normalization into the convolution before it, if that has no other user; the graph is changed.

    ``inputs``: as in :func:`hoist`. What is left of the others is for :func:`affine`.
    """
    graph = graph_module.graph
    constants = Constants(graph, inputs).of_model
    replaced: set[fx.Node] = set()
    for norm in list(graph.nodes):
        if norm.target in BATCH_NORMS:
            replaced.update(_fold(norm, constants))
    for node in reversed(graph.nodes):
        if node in replaced:
            graph.erase_node(node)
    graph_module.recompile()
    return graph_module


def _fold(norm: fx.Node, constants: set[fx.Node]) -> list[fx.Node]:
    """Fold one normalization if that can be; the nodes that nothing uses any more."""
    conv: Any = norm.args[0]
    statistics: Any = norm.args[1:5]  # weight, bias, mean, variance
    training, eps = norm.args[5], norm.args[7]
    if training or conv.target is not aten.convolution.default or conv.args[6]:
        return []
    weight, bias = conv.args[1:3]
    dtype = conv.meta["val"].dtype
    if dtype not in _FOLDED or not all(node is None or node in constants for node in (weight, bias, *statistics)):
        return []
    backward = [user for user in conv.users if user is not norm]
    gradients: list[Any] = [user for node in backward for user in node.users if user.args[1] == 0]
    if not all(_is_backward(node, conv, statistics) for node in backward) or not all(
        _is_input_gradient(user, gradient, weight) for gradient in gradients for user in gradient.users
    ):
        return []

    graph = norm.graph
    with graph.inserting_before(conv):
        given = (_before_cast(weight), _before_cast(bias), *statistics, eps, dtype)
        both = graph.call_function(_scaled, given)
        scaled, shift = (graph.call_function(operator.getitem, (both, i)) for i in range(2))
    conv.args = (conv.args[0], scaled, shift, *conv.args[3:])
    for output in [user for user in norm.users if user.args[1] == 0]:
        output.replace_all_uses_with(conv)
    for gradient in gradients:
        before: Any = gradient.args[0]
        for user in list(gradient.users):
            user.args = (user.args[0], user.args[1], scaled, *user.args[3:])
        gradient.replace_all_uses_with(before.args[0])
    return [node for whole in (norm, *backward) for node in (whole, *whole.users)]


def _is_backward(node: fx.Node, conv: fx.Node, statistics: tuple[Any, ...]) -> bool:
    """Whether this is the backward of a normalization by the same numbers, for its input alone."""
    if node.target is not aten.native_batch_norm_backward.default:
        return False
    _, x, weight, mean, variance, _, _, training, _, mask = node.args
    same = (weight, mean, variance) == (statistics[0], *statistics[2:])
    return x is conv and same and not training and mask == [True, False, False]


def _is_input_gradient(node: fx.Node, grad_output: fx.Node, weight: fx.Node) -> bool:
    """Whether this takes the gradient through the convolution to its input, and nowhere else."""
    return (
        node.target is aten.convolution_backward.default
        and node.args[0] is grad_output
        and node.args[2] is weight
        and node.args[10] == [True, False, False]
    )


def _before_cast(node: Any) -> Any:
    """Autocast's cast of a weight can wait until the weight has been scaled: one rounding, not two."""
    return node.args[0] if node is not None and node.target is aten._to_copy.default else node


def _scaled(
    kernel: Tensor,  # (O, I/groups, ...)
    offset: Tensor | None,  # (O,)
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that normalizes its output."""
    scale, shift = scale_and_shift(weight, bias, mean, variance, eps)
    if offset is not None:
        shift = shift + offset.to(scale.dtype) * scale
    return (kernel.to(scale.dtype) * _along(scale, kernel, 0)).to(dtype), shift.to(dtype)


def _along(vector: Tensor, t: Tensor, dim: int) -> Tensor:
    return vector.view(-1, *[1] * (t.ndim - dim - 1))

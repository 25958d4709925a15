"""A tensor that a compiled program stores, and that costs nothing elsewhere."""

from __future__ import annotations

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fairtat.engines.realized import realized

OP = torch.ops.fairtat_engines.realized.default


def test_eagerly_it_is_the_tensor_itself() -> None:
    t = torch.rand(3, 4)
    assert realized(t) is t


def test_in_a_traced_graph_it_is_an_operation_that_keeps_values_and_layout() -> None:
    t = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    graph = make_fx(lambda t: realized(t * 2) + 1, tracing_mode="fake")(t)
    assert [node.target for node in graph.graph.nodes].count(OP) == 1
    found = graph(t)
    assert torch.equal(found, t * 2 + 1)
    assert found.stride() == t.stride()

"""What is computed once an attack, and how many steps a graph holds."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from fairtat.engines.compiled.constants import hoist
from fairtat.engines.compiled.program import MAX_NODES, MAX_STEPS, steps_in_one


@pytest.mark.parametrize(
    ("steps", "nodes", "together"),
    [
        (10, 30, 5),
        (20, 30, 5),
        (7, 30, 1),  # a divisor: no second graph for a remainder
        (3, 30, 3),
        (22, 30, 2),
        (10, MAX_NODES // 5, 5),
        (10, MAX_NODES // 5 + 1, 2),
        (10, 2 * MAX_NODES, 1),
        (1, 30, 1),
    ],
)
def test_steps_in_one(steps, nodes, together):
    assert steps_in_one(steps, nodes) == together
    assert together <= MAX_STEPS


def targets(graph_module):
    return [node.target for node in graph_module.graph.nodes if node.op == "call_function"]


def test_what_depends_on_parameters_alone_is_hoisted():
    aten = torch.ops.aten

    def step(x, weight, scale, buffer):
        x.copy_((x @ weight.t().flip(0).contiguous()) * scale.exp() + buffer.exp() + torch.arange(3))

    given = torch.rand(4, 3), torch.rand(3, 3), torch.rand(3), torch.rand(3)
    whole = make_fx(step, tracing_mode="fake")(*given)
    hoisted, rest = hoist(whole, range(1, 3))
    assert aten.flip.default in targets(hoisted)
    assert aten.exp.default in targets(hoisted)
    assert aten.flip.default not in targets(rest)
    assert targets(rest).count(aten.exp.default) == 1  # the buffer's
    x, *others = (t.clone() for t in given)
    rest(x, *hoisted(*others[:2]), others[2])
    step(*given)
    assert torch.equal(x, given[0])


def test_constants_go_where_they_are_used():
    aten = torch.ops.aten

    def step(x, weight):
        x.copy_(x @ (torch.eye(3) @ weight) + torch.arange(3))

    given = torch.rand(4, 3), torch.rand(3, 3)
    hoisted, rest = hoist(make_fx(step, tracing_mode="fake")(*given), range(1, 2))
    assert targets(hoisted) == [aten.eye.default, aten.mm.default]
    assert aten.eye.default not in targets(rest)
    assert aten.arange.default in targets(rest)
    x = given[0].clone()
    rest(x, *hoisted(given[1]))
    step(*given)
    assert torch.equal(x, given[0])


def test_a_forward_that_writes_parameters_keeps_them_all():
    def step(x, weight):
        x.mul_(weight.exp())
        weight.add_(1)

    given = torch.rand(3), torch.rand(3)
    hoisted, rest = hoist(make_fx(step, tracing_mode="fake")(*given), range(1, 2))
    assert targets(hoisted) == []
    x, weight = (t.clone() for t in given)
    rest(x, *hoisted(weight))
    step(*given)
    assert torch.equal(x, given[0])
    assert torch.equal(weight, given[1])


def test_random_numbers_are_drawn_in_every_step():
    hoisted, rest = hoist(
        make_fx(lambda x, weight: x.add_(torch.rand_like(weight)), tracing_mode="fake")(torch.rand(3), torch.rand(3)),
        range(1, 2),
    )
    assert targets(hoisted) == []
    assert torch.ops.aten.rand_like.default in targets(rest)

"""What of a step's graph depends on the model alone: found, and split off to be computed once per attack."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
BATCH_NORMS = (aten.native_batch_norm.default, aten.cudnn_batch_norm.default, aten.miopen_batch_norm.default)


class Constants:
    """The values of a graph that are the same in every step, where some of its inputs are."""

    def __init__(self, graph: fx.Graph, inputs: range) -> None:
        """``inputs``: which placeholders hold the model's tensors. One that the graph writes to is not constant."""
        self.given = [node for node in graph.nodes if node.op == "placeholder"][inputs.start : inputs.stop]
        written = _written(graph)
        self.of_model = {node for node in self.given if node not in written}  # and all that follows from them
        self.of_none: set[fx.Node] = set()  # what follows from no input at all
        for node in graph.nodes:
            known = self.of_model | self.of_none
            if node not in written and _is_pure(node) and known.issuperset(node.all_input_nodes):
                (self.of_none if self.of_none.issuperset(node.all_input_nodes) else self.of_model).add(node)


def hoist(graph_module: fx.GraphModule, inputs: range) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Split a graph into what depends on these inputs alone and the rest.

    The first part maps the inputs to a tuple; the second takes that tuple's values in the inputs' place. An input that
    the graph writes to passes through the first part as it is.
    """
    nodes = list(graph_module.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    constants = Constants(graph_module.graph, inputs)
    hoisted = constants.of_model | set(constants.given)
    handed_over = [node for node in nodes if node in hoisted and not constants.of_model.issuperset(node.users)]

    first, second = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node in hoisted or node in constants.of_none:
            copies[node] = first.node_copy(node, copies.__getitem__)
    first.output(tuple(copies[node] for node in handed_over))
    first.eliminate_dead_code()  # constants that only the second part uses
    copies = {}
    for node in [*placeholders[: inputs.start], *handed_over, *placeholders[inputs.stop :]]:
        copies[node] = second.placeholder(node.name)
    idle: set[fx.Node] = set()  # constants that only the first part uses
    for node in reversed(nodes):
        if node in constants.of_none and (constants.of_model | idle).issuperset(node.users):
            idle.add(node)
    for node in nodes:
        if node not in copies and node not in hoisted and node not in idle:
            copies[node] = second.node_copy(node, copies.__getitem__)
    return fx.GraphModule(graph_module, first), fx.GraphModule(graph_module, second)


def _is_pure(node: fx.Node) -> bool:
    if node.op != "call_function" or any(wrote for _, wrote in _touched(node)):
        return False
    return torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


def _written(graph: fx.Graph) -> set[fx.Node]:
    """The values whose memory the graph writes to, under all names that views give it."""
    alike: dict[fx.Node, set[fx.Node]] = {}
    writes: list[fx.Node] = []
    for node in graph.nodes:
        alike[node] = {node}
        for other, wrote in _touched(node):
            together = alike[node] | alike[other]
            alike.update(dict.fromkeys(together, together))
            if wrote:
                writes.append(other)
    return set().union(*(alike[node] for node in writes))


def _touched(node: fx.Node) -> Iterator[tuple[fx.Node, bool]]:
    """The arguments that a node's result may share memory with, or that it writes to; and whether it does."""
    if node.op != "call_function":
        return
    if node.target is operator.getitem:
        yield from ((argument, False) for argument in node.all_input_nodes)
        return
    schema = getattr(node.target, "_schema", None)
    if schema is None:  # a function of functions: nothing is known
        yield from ((argument, True) for argument in node.all_input_nodes)
        return
    for position, argument in enumerate(schema.arguments):
        value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        wrote = _unsaid(node, argument.name)
        if argument.alias_info is not None:
            wrote = argument.alias_info.is_write
        if wrote is not None:
            yield from ((leaf, wrote) for leaf in _nodes(value))


def _unsaid(node: fx.Node, argument: str) -> bool | None:
    """What the schema keeps to itself: whether the argument is written to (False: it shares memory); None: neither."""
    if node.target is aten._unsafe_view.default:
        return False
    if node.target in BATCH_NORMS and argument in ("running_mean", "running_var"):
        return True if node.args[5] else None  # batch statistics move them
    return None


def _nodes(value: Any) -> Iterator[fx.Node]:
    return (leaf for leaf in tree_leaves(value) if isinstance(leaf, fx.Node))

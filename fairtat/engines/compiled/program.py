"""Compiled steps: some steps of an attack on batches of one shape as a compiled graph, without autograd.

One step, [forward, logit gradient, backward to the input, projected step], is traced with the model's parameters and
buffers as inputs, so training may change them between calls; the parameters are frozen meanwhile, so the trace holds no
gradient of a weight. What depends on parameters alone (casts, flipped kernels) is split off and computed once an
attack. Of small graphs several steps are put behind one another, and the result goes to inductor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._inductor
from torch import Tensor, fx, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fairtat.engines.check import Probe, probe
from fairtat.engines.compiled import winograd
from fairtat.engines.compiled.convolution import convolution_input_gradient
from fairtat.engines.compiled.linear import product_and_bias
from fairtat.engines.model.structure import ModelStructure
from fairtat.engines.steps import S, Steps

# Steps in one graph save calls and passes over memory between them, and cost compile time in proportion to their nodes.
MAX_STEPS = 10
MAX_NODES = 1000

_REWRITES: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution.default: winograd.convolution,
    torch.ops.aten.convolution_backward.default: convolution_input_gradient,
    torch.ops.aten.addmm.default: product_and_bias,
}


@dataclass(frozen=True)
class CompiledSteps:
    """``run`` makes ``steps_per_run`` steps of a batch, in place; ``prepare`` comes before the first one."""

    steps_per_run: int
    classes: int
    nodes: int  # of one step
    seconds: float  # that it took to build
    _hoisted: fx.GraphModule
    _run: Callable[..., Sequence[Tensor]]

    def prepare(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """What every step needs of the parameters as they are now."""
        return list(self._hoisted(*parameters))

    def run(self, tensors: Sequence[Tensor], prepared: Sequence[Tensor], buffers: Sequence[Tensor]) -> Probe:
        """Make the steps; what the first of them found, before it moved."""
        return Probe(*self._run(*tensors, *prepared, *buffers))


def compile_graph(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Compile a graph for inputs of these shapes; inductor keeps what it made on disk for the next process."""
    options = {
        # Random layers of the model then draw from PyTorch's generators, as they do in the eager engine.
        "fallback_random": True,
        # Elements for each thread: below that, waiting for the other threads takes longer than the work.
        "cpp.min_chunk_size": 16384,
    }
    # Inductor's cache of whole graphs serves only those that come with an environment of symbolic shapes, even of none.
    mode = FakeTensorMode(shape_env=ShapeEnv())
    examples: list[Any] = [mode.from_tensor(tensor, static_shapes=True) for tensor in inputs]
    with tracing(TracingContext(mode)):
        compiled: Callable[..., Sequence[Tensor]] = torch._inductor.compile(graph, examples, options=options)
    return compiled


def build(model: nn.Module, structure: ModelStructure, steps: Steps[S], samples: S) -> CompiledSteps:
    """Trace and compile the steps of samples like these. Nothing is computed, and no tensor is written.

    Raises:
        Exception: of any type, where the model cannot be traced or the graph not be compiled.
    """
    begin = time.perf_counter()
    given = samples.tensors()
    inputs = {**given, **steps.constants()}
    parameters, buffers = structure.parameters, structure.buffers
    named = [*inputs.values(), *parameters.values(), *buffers.values()]
    classes = 0
    memory_format = torch.channels_last if winograd.suits(parameters) else torch.preserve_format

    def step(*values: Tensor) -> tuple[Tensor, ...]:
        nonlocal classes
        traced = dict(zip(inputs, values, strict=False))
        state = dict(zip([*parameters, *buffers], values[len(inputs) :], strict=True))

        def call(images: Tensor) -> Any:
            return torch.func.functional_call(model, state, (images,))

        # The clone below is the model's to write to; a compiler takes it away where nothing does.
        network = steps.network.calling(call)
        here = steps.rebound(network, traced.get("mean"), traced.get("std"), traceable=True)
        now = samples.with_tensors({name: traced[name] for name in given})
        leaf = now.model_input.detach().requires_grad_()
        logits = network(leaf.clone(memory_format=memory_format))
        classes = logits.shape[1]
        grad = here.input_gradient(logits, here.logit_gradient(logits, now), leaf)
        first = probe(logits, grad)
        here.step(now, grad, None)
        return tuple(first)  # inductor knows no other

    with torch.enable_grad(), structure.restored() as changed:
        one_step = make_fx(step, _REWRITES, tracing_mode="fake")(*named)
    if changed:  # which a graph would not do
        raise RuntimeError(f"its forward sets {', '.join(changed)}")
    hoisted, rest = hoist(one_step, range(len(inputs), len(inputs) + len(parameters)))
    nodes = len(one_step.graph.nodes)
    together = steps_in_one(steps.number, nodes)
    # The casts of autocast are in the graph by now.
    with torch.no_grad(), torch.autocast(steps.x.device.type, enabled=False):
        arguments = [*inputs.values(), *hoisted(*parameters.values()), *buffers.values()]

        def several(*values: Tensor) -> object:
            first, *_ = [rest(*values) for _ in range(together)]
            return first

        run = compile_graph(make_fx(several, tracing_mode="fake")(*arguments) if together > 1 else rest, arguments)
    return CompiledSteps(together, classes, nodes, time.perf_counter() - begin, hoisted, run)


def steps_in_one(steps: int, nodes: int) -> int:
    """How many steps to put into one graph: a divisor of all of them, so that no second graph is needed."""
    fitting = [k for k in range(1, min(steps, MAX_STEPS) + 1) if steps % k == 0 and k * nodes <= MAX_NODES]
    return max(fitting, default=1)


def hoist(graph_module: fx.GraphModule, parameters: range) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Split a graph into what depends on these inputs alone and the rest.

    The first part maps the parameters to a tuple; the second takes that tuple's values in the parameters' place.
    """
    nodes = list(graph_module.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    fixed = {inputs[i] for i in parameters}
    constants: set[fx.Node] = set()
    if not any(_writes(node) and fixed.intersection(node.all_input_nodes) for node in nodes):
        for node in nodes:
            if _is_pure(node) and (fixed | constants).issuperset(node.all_input_nodes):
                (constants if constants.issuperset(node.all_input_nodes) else fixed).add(node)
    handed_over = [node for node in nodes if node in fixed and not fixed.issuperset(node.users)]

    first, second = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node in fixed or node in constants:
            copies[node] = first.node_copy(node, copies.__getitem__)
    first.output(tuple(copies[node] for node in handed_over))
    first.eliminate_dead_code()  # constants that only the second part uses
    copies = {}
    for node in [*inputs[: parameters.start], *handed_over, *inputs[parameters.stop :]]:
        copies[node] = second.placeholder(node.name)
    idle: set[fx.Node] = set()  # constants that only the first part uses
    for node in reversed(nodes):
        if node in constants and (fixed | idle).issuperset(node.users):
            idle.add(node)
    for node in nodes:
        if node not in copies and node not in fixed and node not in idle:
            copies[node] = second.node_copy(node, copies.__getitem__)
    return fx.GraphModule(graph_module, first), fx.GraphModule(graph_module, second)


def _is_pure(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    return not _writes(node) and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable

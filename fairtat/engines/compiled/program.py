"""Compiled steps: some steps of an attack on batches of one shape as a compiled graph, without autograd.

One step, [forward, logit gradient, backward to the input, projected step], is traced with the model's parameters and
buffers as inputs, so training may change them between calls; the parameters are frozen meanwhile, so the trace holds no
gradient of a weight. Normalizations are folded into convolutions, operations are rewritten, and what depends on the
model alone (casts, flipped kernels, scales) is split off and computed once per attack. Several steps of a small
graph are put behind one another, and the result goes to inductor.
"""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
from fairtat.engines.compiled import normalization, winograd
from fairtat.engines.compiled.compiler import knows_instruction_sets
from fairtat.engines.compiled.constants import aten, hoist
from fairtat.engines.compiled.convolution import convolution, convolution_input_gradient
from fairtat.engines.compiled.linear import product_and_bias
from fairtat.engines.model.structure import ModelStructure
from fairtat.engines.steps import S, Steps

_LOG = logging.getLogger("fairtat")

# Steps in one graph save calls between them, up to a tenth of the time of a small MLP, a few percent of a small CNN's,
# and cost compile time with every node: ten steps of a small CNN take 1.7 times as long to build as two.
MAX_STEPS = 5
MAX_NODES = 280

_REWRITES: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_input_gradient,
    aten.addmm.default: product_and_bias,
    **normalization.REWRITES,
}


@dataclass(frozen=True)
class CompiledSteps:
    """``run`` makes ``steps_per_run`` steps of a batch, in place; ``prepare`` comes before the first one.

    Neither needs autograd, and autocast's casts are in the graphs: under autocast they would be made again.
    """

    steps_per_run: int
    classes: int
    seconds: float  # that it took to build
    _device: torch.device
    _hoisted: fx.GraphModule
    _run: Callable[..., Sequence[Tensor]]

    def prepare(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """What every step needs of the model's parameters and buffers as they are now."""
        with _as_traced(self._device):
            return list(self._hoisted(*tensors))

    def run(self, tensors: Sequence[Tensor], prepared: Sequence[Tensor]) -> Probe:
        """Make the steps; what the first of them found, before it moved."""
        with _as_traced(self._device):
            return Probe(*self._run(*tensors, *prepared))


@contextmanager
def _as_traced(device: torch.device) -> Iterator[None]:
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def compile_graph(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """Compile a graph for inputs of these shapes; inductor keeps what it made on disk for the next process."""
    options = {
        # Random layers of the model then draw from PyTorch's generators, as they do in the eager engine.
        "fallback_random": True,
        # Elements for each thread: below that, waiting for the other threads takes longer than the work.
        "cpp.min_chunk_size": 16384,
        "cpp.vec_isa_ok": knows_instruction_sets(),
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
    laid_out = winograd.suits(parameters)  # in channels_last
    memory_format = torch.channels_last if laid_out else torch.preserve_format

    def step(*values: Tensor) -> tuple[Tensor, ...]:
        nonlocal classes
        traced = dict(zip(inputs, values, strict=False))
        state = dict(zip([*parameters, *buffers], values[len(inputs) :], strict=True))

        def call(images: Tensor) -> Any:
            # The clone is the model's to write to; a compiler takes it away where nothing does.
            return torch.func.functional_call(model, state, (images.clone(memory_format=memory_format),))

        network = steps.network.calling(call)
        here = steps.rebound(network, traced.get("mean"), traced.get("std"), traceable=True)
        now = samples.with_tensors({name: traced[name] for name in given})
        leaf = now.model_input.detach().requires_grad_()
        logits = network(leaf)
        classes = logits.shape[1]
        grad = here.input_gradient(logits, here.logit_gradient(logits, now), leaf)
        first = probe(logits, grad)
        if now.moving is not None:
            here.stop(now, here.reached(logits, now))
        here.step(now, grad, now.moving)
        return tuple(first)  # inductor knows no other

    with torch.enable_grad(), structure.restored() as changed:
        one_step = make_fx(step, tracing_mode="fake")(*named)
    if changed:  # which a graph would not do
        raise RuntimeError(f"its forward sets {', '.join(changed)}")
    of_model = range(len(inputs), len(named))
    with _as_traced(steps.x.device):
        folded = normalization.fold_into_convolutions(one_step, of_model)
        rewrites = {**_REWRITES, aten.convolution.default: convolution} if laid_out else _REWRITES
        hoisted, rest = hoist(make_fx(folded, rewrites, tracing_mode="fake")(*named), of_model)
        nodes = sum(node.op == "call_function" and node.target is not operator.getitem for node in rest.graph.nodes)
        together = steps_in_one(steps.number, nodes)
        arguments = [*inputs.values(), *hoisted(*named[len(inputs) :])]
        _LOG.info(
            "engine 'compiled': traced %d operations a step in %.1f s; compiling a graph of %d steps",
            nodes, time.perf_counter() - begin, together,
        )  # fmt: skip

        def several(*values: Tensor) -> object:
            first, *_ = [rest(*values) for _ in range(together)]
            return first

        run = compile_graph(make_fx(several, tracing_mode="fake")(*arguments) if together > 1 else rest, arguments)
    return CompiledSteps(together, classes, time.perf_counter() - begin, steps.x.device, hoisted, run)


def steps_in_one(steps: int, nodes: int) -> int:
    """How many steps to put into one graph: a divisor of all of them, so that no second graph is needed."""
    fitting = [k for k in range(1, min(steps, MAX_STEPS) + 1) if steps % k == 0 and k * nodes <= MAX_NODES]
    return max(fitting, default=1)

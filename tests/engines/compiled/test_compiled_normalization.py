"""Normalization by running statistics: a scale and a shift, computed once an attack, folded into convolutions."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from attack_fixtures import BN_MODES, SIX_STEPS, both
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from fairtat import fast_targeted_pgd
from fairtat.engines.compiled import program
from fairtat.engines.compiled.normalization import REWRITES, fold_into_convolutions

FLOAT64 = torch.float64
aten = torch.ops.aten
pytestmark = pytest.mark.usefixtures("fallbacks_are_errors")


class Block(nn.Module):
    """A pre-activation block whose convolution has another user than the normalization after it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1, bias=False)
        self.bn0, self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv1(F.relu(self.bn0(x)))
        return x + self.bn2(self.conv2(F.relu(self.bn1(x))))


class Twice(nn.Module):
    """One convolution and one normalization, each used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.bn(self.conv(torch.tanh(self.bn(self.conv(x)))))


class Frozen(nn.BatchNorm2d):
    """Normalization written out, as detection libraries do."""

    def forward(self, x):
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


MODELS = {
    "after a convolution": [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)],
    "no weight and bias": [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False, eps=1e-2), nn.ReLU()],
    "momentum None": [nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4, momentum=None), nn.GELU()],
    "groups and stride": [nn.Conv2d(3, 6, 3, stride=2, groups=3), nn.BatchNorm2d(6), nn.ReLU()],
    "batch statistics": [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()],
    "transposed": [nn.ConvTranspose2d(3, 4, 2, stride=2), nn.BatchNorm2d(4), nn.ReLU()],
    "after a linear layer": [nn.Flatten(), nn.Linear(105, 7), nn.BatchNorm1d(7), nn.ReLU()],
    "one dimension": [nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU()],
    "residual": [Block()],
    "shared": [Twice()],
    "instances": [nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.ReLU()],
    "written out": [nn.Conv2d(3, 4, 3), Frozen(4), nn.ReLU()],
    "none": [nn.Conv2d(3, 4, 3), nn.ReLU()],
}


def fitted(layers, dtype=FLOAT64):
    """A network of these layers, whose numbers are off their initial values, in train mode."""
    torch.manual_seed(3)
    model = nn.Sequential(*copy.deepcopy(layers), nn.Flatten(), nn.LazyLinear(5))
    model(torch.rand(2, 3, 7, 5))
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                t.uniform_(0.2, 2.0)
            elif "running" in name or t.ndim == 1:
                t.normal_(0.1, 0.5)
    return model.to(dtype)


def batch(n=5, dtype=FLOAT64):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, 7, 5, generator=generator, dtype=dtype), torch.arange(n) % 5


@pytest.mark.parametrize("kind", MODELS)
def test_an_attack_by_running_statistics_is_the_textbooks(h, compiles, kind):
    model, (x, target) = fitted(MODELS[kind]), batch()
    twin = copy.deepcopy(model).eval()
    expected = h.textbook_pgd(twin, x, x, target, eps=0.1, step_size=0.03, steps=6)
    x_adv = fast_targeted_pgd(model, x, target, engine="compiled", init="zero", **SIX_STEPS)
    assert compiles == [5]
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    assert h.same(list(model.buffers()), list(twin.buffers()))


@pytest.mark.parametrize("bn_mode", ["train", "train_frozen_stats"])
@pytest.mark.parametrize("kind", ["after a convolution", "residual", "shared", "batch statistics", "instances"])
def test_an_attack_by_batch_statistics_is_the_eager_engines(h, compiles, kind, bn_mode):
    model, (x, target) = fitted(MODELS[kind]), batch()
    expected, x_adv, by_eager, by_graph = both(
        "compiled", fast_targeted_pgd, model, x, target, bn_mode=bn_mode, **SIX_STEPS
    )
    assert compiles == [5]
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(list(by_graph.buffers()), list(by_eager.buffers()))


@pytest.mark.parametrize("bn_mode", BN_MODES)
def test_weights_and_statistics_change_between_calls(h, compiles, bn_mode):
    model, (x, target) = fitted(MODELS["residual"]), batch()
    for _ in range(3):
        expected = fast_targeted_pgd(copy.deepcopy(model), x, target, bn_mode=bn_mode, **SIX_STEPS)
        x_adv = fast_targeted_pgd(model, x, target, engine="compiled", bn_mode=bn_mode, **SIX_STEPS)
        torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
        F.cross_entropy(model(x), target).backward()  # moves the statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    assert compiles == [5]


@pytest.fixture
def steps(monkeypatch):
    """The graphs of the programs that are made, each of one step."""
    graphs = []
    monkeypatch.setattr(program, "steps_in_one", lambda *_: 1)
    monkeypatch.setattr(program, "compile_graph", lambda graph, inputs: graphs.append(graph) or graph)
    return graphs


def operations(graph):
    return Counter(
        node.target for node in graph.graph.nodes if node.op == "call_function" and node.target.__name__ != "getitem"
    )


def test_after_a_convolution_it_costs_nothing(steps):
    x, target = batch()
    for kind in ("after a convolution", "no weight and bias", "groups and stride"):
        layers = copy.deepcopy(MODELS[kind])
        for model in (layers, [layers[0], layers[2]]):
            fast_targeted_pgd(fitted(model), x, target, engine="compiled", **SIX_STEPS)
        with_norm, without = map(operations, steps)
        assert with_norm == without
        steps.clear()


def test_elsewhere_it_is_three_operations_of_a_step(steps):
    x, target = batch()
    fast_targeted_pgd(fitted([nn.BatchNorm2d(3)]), x, target, engine="compiled", **SIX_STEPS)
    fast_targeted_pgd(fitted([]), x, target, engine="compiled", **SIX_STEPS)
    with_norm, without = map(operations, steps)
    assert with_norm - without == Counter({aten.mul.Tensor: 2, aten.add.Tensor: 1})  # x*s, + t, dy*s


def convolution_and_norm(x, kernel, offset, weight, bias, mean, variance):
    leaf = x.detach().requires_grad_()
    y = F.batch_norm(F.conv2d(leaf, kernel, offset, padding=1), mean, variance, weight, bias)
    (grad,) = torch.autograd.grad(y.square().sum(), leaf)
    return y, grad


def numbers(dtype, statistics):
    """(x, kernel, offset, weight, bias, mean, variance) of three channels to five."""
    torch.manual_seed(5)
    given = [torch.randn(7, 3, 9, 5), torch.randn(5, 3, 3, 3) / 5, *torch.randn(4, 5), torch.rand(5) + 0.1]
    return [t.to(dtype if i < 3 else statistics) for i, t in enumerate(given)]


@pytest.mark.parametrize("target", [aten.native_batch_norm.default, aten.cudnn_batch_norm.default])
@pytest.mark.parametrize(
    ("dtype", "statistics"),
    [
        (FLOAT64, FLOAT64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32),
    ],
)
@pytest.mark.parametrize("fold", [True, False])
def test_in_every_dtype_the_error_is_that_of_the_normalization(dtype, statistics, target, fold):
    given = numbers(dtype, statistics)
    exact = convolution_and_norm(*(t.double() for t in given))
    usual = convolution_and_norm(*given)
    graph = make_fx(convolution_and_norm)(*given)
    for node in graph.graph.nodes:
        if node.target is aten.native_batch_norm.default:
            node.target = target  # what a GPU's trace has in its place
    if fold:
        graph = fold_into_convolutions(graph, range(1, 7))
    rewritten = make_fx(graph, REWRITES)(*given)
    assert operations(rewritten).keys().isdisjoint(REWRITES)
    for ours, theirs, right in zip(rewritten(*given), usual, exact, strict=True):
        assert ours.dtype == theirs.dtype
        error, allowed = ((t.double() - right).norm() for t in (ours, theirs))
        assert error <= 2 * allowed + 1e-14 * right.norm()


def test_a_channel_without_variance_keeps_float16_finite():
    given = numbers(torch.float16, torch.float32)
    given[0], given[6] = given[0] * 0, given[6] * 0
    graph = fold_into_convolutions(make_fx(convolution_and_norm)(*given), range(1, 7))
    ours, theirs = make_fx(graph, REWRITES)(*given)(*given), convolution_and_norm(*given)
    assert torch.equal(ours[0].isfinite(), theirs[0].isfinite())


def test_what_is_computed_once_is_not_written_in_every_step(compiles):
    class Scaled(nn.Linear):
        def forward(self, x):
            return F.linear(x.flatten(1), self.weight.abs().mul_(2) - 1.5 * self.weight, self.bias)

    class Counts(nn.Linear):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.register_buffer("calls", torch.ones(2, dtype=FLOAT64))

        def forward(self, x):
            self.calls[1:] += 1
            return super().forward(x.flatten(1)) * self.calls.log().sum()

    x, target = batch()
    for model in (Scaled(105, 5).double(), Counts(105, 5).double()):
        options = {**SIX_STEPS, "norm": "l2", "eps": 1.0, "step_size": 0.3}
        expected, x_adv, by_eager, by_graph = both("compiled", fast_targeted_pgd, model, x, target, **options)
        torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(list(by_graph.buffers()), list(by_eager.buffers()))
    assert compiles == [5, 5]

"""Small models and batches, and the textbook attack that fairtat's is measured against."""

from __future__ import annotations

import copy
import threading
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fairtat import fast_targeted_pgd
from fairtat.attacks import EngineFallback
from fairtat.engines.compiled import program
from fairtat.engines.graph import runtime

CLASSES = 5
BN_MODES = ["eval", "train", "train_frozen_stats"]
SIX_STEPS = {"eps": 0.1, "step_size": 0.03, "steps": 6, "seed": 0}
NORMALIZE = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def pairwise(first, second, third):
    """Parameters of which each pair of values appears: every first with every second, while the third alternates."""
    assert len(third) <= min(len(first), len(second))
    return [(a, b, third[(i + j) % len(third)]) for i, a in enumerate(first) for j, b in enumerate(second)]


def both(engine, attack, model, *data, calls=1, **options):
    """The results of the last of some calls by (eager, the engine) on copies of the model, and the two copies."""
    models = copy.deepcopy(model), copy.deepcopy(model)
    for _ in range(calls):
        results = [attack(m, *data, engine=e, **options) for m, e in zip(models, ("eager", engine), strict=True)]
    return *results, *models


def stopping_early(norm):
    """Options under which the samples of a batch stop at different steps."""
    radius = 0.1 if norm == "linf" else 0.7
    step = radius / (10 if norm == "linf" else 100)
    return {"eps": radius, "step_size": step, "steps": 9, "norm": norm, "early_stop": True, "seed": 2}


def train(model, batches, *, engine, momentum=0.0, **options):
    """A step of SGD on each batch (x, y, target) after attacking it; the losses. Dropout draws alike in each call."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=momentum)
    torch.manual_seed(3)
    losses = []
    for x, y, target in batches:
        x_adv = fast_targeted_pgd(model, x, target, engine=engine, **{**SIX_STEPS, **options})
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x_adv), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def cnn(dtype=torch.float32, seed=0):
    """A CNN with BatchNorm (its statistics off their initial values) and dropout, in train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(8 * 9, CLASSES),
        )
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model.to(dtype)


def images(n, dtype=torch.float32, seed=1):
    """(x (n, 3, 6, 6), y (n,), target (n,) != y)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 6, 6, generator=generator, dtype=dtype)
    y = torch.randint(CLASSES, (n,), generator=generator)
    target = (y + torch.randint(1, CLASSES, (n,), generator=generator)) % CLASSES
    return x, y, target


def loss_value(kind, z, goal, y=None, clean_logits=None):
    """(N,) losses written from the papers, for autograd to differentiate."""
    own = z.gather(1, goal[:, None])[:, 0]
    if kind == "ce":
        return F.cross_entropy(z, goal, reduction="none")
    if kind == "kl":
        return F.kl_div(z.log_softmax(1), clean_logits.softmax(1), reduction="none").sum(1)
    best_other = z.masked_fill(F.one_hot(goal, z.shape[1]).bool(), -torch.inf).amax(1)
    if kind == "margin":
        return best_other - own
    top = z.sort(1, descending=True).values
    if y is None:
        return (best_other - own) / (top[:, 0] - top[:, 2] + 1e-12)
    return (z.gather(1, y[:, None])[:, 0] - own) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def textbook_pgd(
    f, start, x, goal, *, eps, step_size, steps, targeted=True, norm="linf", loss="ce", y=None, clean_logits=None
):
    """PGD as papers print it: autograd through the loss, clamp, no kernel of ours. ``f`` maps images to logits."""
    shape = (-1, *[1] * (x.ndim - 1))
    eps, step_size = (torch.as_tensor(v, dtype=x.dtype).reshape(shape) for v in (eps, step_size))
    dims = tuple(range(1, x.ndim))
    x_adv = start.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        total = loss_value(loss, f(x_adv), goal, y, clean_logits).sum()
        (grad,) = torch.autograd.grad(total, x_adv)
        x_adv = x_adv.detach()
        direction = -1 if targeted else 1
        if norm == "linf":
            x_adv = x_adv + direction * step_size * grad.sign()
            x_adv = torch.clamp(x_adv, x - eps, x + eps).clamp(0, 1)
        else:
            length = grad.square().sum(dims, keepdim=True).sqrt() + 1e-12
            delta = x_adv + direction * step_size * grad / length - x
            size = delta.square().sum(dims, keepdim=True).sqrt()
            x_adv = (x + delta * torch.where(size > eps, eps / size, 1.0)).clamp(0, 1)
    return x_adv


def differing(a, b, tolerance=1e-6):
    """The share of elements that differ: where a gradient is near 0, rounding decides its sign."""
    return ((a - b).abs() > tolerance).double().mean().item()


def snapshot(model):
    """All of a model that an attack could disturb, as comparable values."""
    return {
        "training": [m.training for m in model.modules()],
        "tracking": [getattr(m, "track_running_stats", None) for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "buffers": [b.clone() for b in model.buffers()],
        "parameters": [p.detach().clone() for p in model.parameters()],
    }


def counting(model):
    """The model as a function that is not a module, and the list to which it adds the size of each batch."""
    sizes = []

    def call(images):
        sizes.append(len(images))
        return model(images)

    return call, sizes


def counting_module(model):
    """The model in a module, and the list to which that adds the size of each batch."""
    sizes = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            sizes.append(len(images))
            return self.model(images)

    return Counting(), sizes


def same(a, b):
    """Whether two snapshots, or parts of one, agree to the last bit."""
    if isinstance(a, dict):
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    return a is b or a == b


class Modes:
    """What an attack sets in a model, as it is now."""

    def __init__(self, model):
        owners = [(m, name) for m in model.modules() for name in ("training", "track_running_stats") if name in vars(m)]
        owners += [(parameter, "requires_grad") for parameter in model.parameters()]
        self.values = [(owner, name, getattr(owner, name)) for owner, name in owners]

    @contextmanager
    def again(self):
        """As it was."""
        now = [(owner, name, getattr(owner, name)) for owner, name, _ in self.values]
        try:
            for entry in self.values:
                setattr(*entry)
            yield
        finally:
            for entry in now:
                setattr(*entry)


@dataclass
class StubGraphs:
    """Graphs that run the captured function again."""

    captures: int = 0
    replays: int = 0
    log: list = field(default_factory=list)
    current: str = "main"
    fail: Exception | None = None  # raised in the midst of a capture
    lanes: int = 0
    live: dict = field(default_factory=dict)  # lanes that are not retired: how many captures each has had
    capturing: bool = False
    forget: bool = False  # captures are dropped, and a replay does nothing

    def generators(self):
        return [torch.default_generator]

    def stream(self):
        return self.current

    def wait_for(self, stream):
        self.log.append(("wait", self.current, stream))

    def used_here(self, tensors):
        self.log.append(("used", self.current, len(list(tensors))))

    def new_lane(self):
        self.lanes += 1
        lane = self.lanes
        self.live[lane] = 0
        return lane

    def retire(self, lane):
        self.log.append(("retire", lane))
        del self.live[lane]

    def free_memory(self):
        self.log.append("free")

    @contextmanager
    def aside(self, lane):
        assert lane in self.live
        yield

    def capture(self, function, lane):
        self.live[lane] += 1
        self.capturing = True
        try:
            result = function()
        finally:
            self.capturing = False
        if self.fail is not None:
            raise self.fail
        self.captures += 1
        if self.forget:
            return (lambda: None), result
        written = tree_leaves(result)
        # A real replay does not call the model; the preparation of a compiled program has none.
        as_captured = Modes(function.args[0].network.model).again if isinstance(function, partial) else nullcontext

        def replay():
            assert lane in self.live
            self.replays += 1
            with as_captured():
                again = function()
            for tensor, value in zip(written, tree_leaves(again), strict=True):
                if tensor is not None:
                    tensor.copy_(value)

        return replay, result


class Record(TorchDispatchMode):
    """The operations that are run in here, to be run again on the same tensors."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, out in self.calls:
                again = func(*args, **kwargs)
                for tensor, value in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(tensor, torch.Tensor) and tensor.data_ptr() != value.data_ptr():
                        tensor.copy_(value)


class RecordedGraphs(StubGraphs):
    """Graphs that repeat operations whatever has become of the function, as real ones do; for backend="reference"."""

    def capture(self, function, lane):
        with Record() as record:
            result = function()
        self.captures += 1

        def replay():
            self.replays += 1
            record.replay()

        return replay, result


class Helpers:
    classes = CLASSES
    cnn = staticmethod(cnn)
    images = staticmethod(images)
    train = staticmethod(train)
    loss_value = staticmethod(loss_value)
    textbook_pgd = staticmethod(textbook_pgd)
    counting = staticmethod(counting)
    counting_module = staticmethod(counting_module)
    snapshot = staticmethod(snapshot)
    same = staticmethod(same)


@contextmanager
def another_thread():
    """There is a thread that an attack might disturb."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.fixture
def fallbacks_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineFallback)
        yield


@pytest.fixture
def alone(monkeypatch):
    """No thread could be disturbed, whatever earlier tests have left running."""
    monkeypatch.setattr(threading, "active_count", lambda: 1)


@pytest.fixture(params=["alone", "in company"])
def company(request):
    if request.param == "alone":
        request.getfixturevalue("alone")
        yield False
    else:
        with another_thread():
            yield True


@pytest.fixture
def h():
    """The helpers of this folder (files of tests are not importable)."""
    return Helpers


@pytest.fixture
def stub(monkeypatch):
    """CUDA graphs for the CPU."""
    graphs = StubGraphs()
    monkeypatch.setattr(runtime, "runtime_for", lambda device: graphs)
    return graphs


@pytest.fixture
def recorded(monkeypatch):
    """The same with a memory: what was captured stays as it was."""
    graphs = RecordedGraphs()
    monkeypatch.setattr(runtime, "runtime_for", lambda device: graphs)
    return graphs


@pytest.fixture
def compiles(monkeypatch):
    """The batch sizes that were compiled; the graphs run as they were traced, which takes no time to compile."""
    sizes = []

    def as_traced(graph, inputs):
        sizes.append(len(inputs[0]))
        return graph

    monkeypatch.setattr(program, "compile_graph", as_traced)
    return sizes

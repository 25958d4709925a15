"""What is captured, what a replay reads, and that nothing shows of a capture, over the stub of CUDA graphs."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from attack_fixtures import BN_MODES, NORMALIZE, SIX_STEPS
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fairtat import TargetedPGD, fast_targeted_pgd
from fairtat.attacks import EngineFallback

FLOAT64 = torch.float64
pytestmark = pytest.mark.usefixtures("fallbacks_are_errors")


def eagerly(model, *data, **options):
    return fast_targeted_pgd(model, *data, **{**options, "engine": "eager"})


def test_many_steps_are_replays_of_fewer(h, stub):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    for steps, replays in ((20, 1), (40, 2), (50, 5), (23, 23)):
        stub.replays = 0
        options = {**SIX_STEPS, "steps": steps, "bn_mode": "train"}
        twin = copy.deepcopy(model)
        expected = eagerly(twin, x, target, **options)
        assert torch.equal(fast_targeted_pgd(model, x, target, engine="graph", **options), expected)
        assert h.same(list(model.buffers()), list(twin.buffers()))
        assert stub.replays == replays


def test_results_of_earlier_calls_stay(h, stub):
    model, (x, _, target) = h.cnn(), h.images(6)
    attack = TargetedPGD(model, engine="graph", return_info=True, **SIX_STEPS)
    first = attack(x, target)
    kept = {name: value.clone() for name, value in vars(first).items()}
    attack(1 - x, target, seed=5)
    for name, value in kept.items():
        assert torch.equal(getattr(first, name), value), name


# Autocast


class Casts(TorchDispatchMode):
    """Counts casts of a model's parameters."""

    def __init__(self, model):
        super().__init__()
        self.weights = {id(p) for p in model.parameters()}
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and id(args[0]) in self.weights:
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("how", ["amp", "caller"])
def test_weights_are_cast_once_for_all_steps(h, stub, how):
    model, (x, _, target) = h.cnn(), h.images(8)
    options = {**SIX_STEPS, "amp": torch.bfloat16 if how == "amp" else None}
    counts, results = {}, {}
    for engine in ("eager", "graph"):
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "caller"):
            fast_targeted_pgd(model, x, target, engine=engine, **options)
            with Casts(model) as casts:
                results[engine] = fast_targeted_pgd(model, x, target, engine=engine, **options)
        counts[engine] = casts.count
    assert torch.equal(results["graph"], results["eager"])
    cast = 6  # weights and biases of two convolutions and a linear layer
    assert counts == {"eager": 6 * cast, "graph": cast}


def test_where_a_dispatch_mode_is_refused_weights_are_cast_each_time(h, stub):
    class Refusing(nn.Module):  # as higher-order operations are, that know no rule for a mode
        def forward(self, x):
            mode = torch.utils._python_dispatch._get_current_dispatch_mode()
            if mode is not None and not getattr(mode, "supports_higher_order_operators", False):
                raise NotImplementedError("no rule for this mode")
            return x

    model, (x, _, target) = nn.Sequential(Refusing(), h.cnn()), h.images(8)
    options = {**SIX_STEPS, "amp": torch.bfloat16}
    x_adv = fast_targeted_pgd(model, x, target, engine="graph", **options)
    assert torch.equal(x_adv, eagerly(model, x, target, **options))
    assert stub.captures == 1


# Memory


class Peak(TorchDispatchMode):
    """The most bytes that are alive at once of what is allocated in here."""

    def __init__(self):
        super().__init__()
        self.alive, self.bytes = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in given:
                storage = t.untyped_storage()
                self.alive[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {address: entry for address, entry in self.alive.items() if not entry[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self.alive.values()))
        return out


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
@pytest.mark.parametrize("normalize", [None, NORMALIZE])
@pytest.mark.parametrize("more", [{}, {"norm": "l2"}, {"early_stop": True}, {"return_info": True}])
def test_peak_memory_is_the_bare_models_and_four_batches(h, stub, engine, amp, normalize, more):
    model, (x, _, target) = h.cnn().eval().requires_grad_(False), h.images(256)
    with Peak() as bare:
        leaf = x.detach().requires_grad_()
        with torch.autocast("cpu", amp, enabled=amp is not None):
            logits = model(leaf)
        torch.autograd.grad(logits.sum(), leaf)
    del logits
    for _ in range(2):
        with Peak() as peak:
            fast_targeted_pgd(model, x, target, engine=engine, amp=amp, normalize=normalize, steps=3, **more)
        small = 256 * len(x)  # labels, radii, logits, counters
        probes = (
            2 * 4 * (18 + 5) * len(x)
        )  # an entry of each row of the first gradient, and its logits, from either side
        assert peak.bytes <= bare.bytes + 4 * x.nbytes + small + (probes if engine == "graph" else 0)
    assert peak.bytes > bare.bytes  # so that it is not nothing that was measured


# What a replay reads


def test_training_between_replays(h, stub):
    model, (x, y, target) = h.cnn(), h.images(9)
    twin = copy.deepcopy(model)
    options = {"momentum": 0.9, "bn_mode": "train"}
    expected = h.train(twin, [(x, y, target)] * 4, engine="eager", **options)
    assert h.train(model, [(x, y, target)] * 4, engine="graph", **options) == expected
    assert h.same(h.snapshot(model), h.snapshot(twin))
    assert stub.captures == 1


def test_in_a_step_of_distributed_training(h, stub):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, (x, y, target) = h.cnn(), h.images(8)
        twin = copy.deepcopy(model)
        for m, engine in ((nn.parallel.DistributedDataParallel(model), "graph"), (twin, "eager")):
            h.train(m, [(x, y, target)] * 3, engine=engine, bn_mode="train")
    finally:
        dist.destroy_process_group()
    assert h.same(h.snapshot(model), h.snapshot(twin))
    assert (stub.captures, stub.replays) == (1, 3)


def test_streams_are_ordered(h, stub):
    model, (x, _, target) = h.cnn(), h.images(8)
    attack = TargetedPGD(model, engine="graph", **SIX_STEPS)
    attack(x, target)
    attack(x, target)
    assert stub.log == []
    stub.current = "other"
    attack(x, target)
    assert [entry[:2] for entry in stub.log] == [("wait", "other"), ("used", "other")]
    assert stub.log[0][2] == "main"
    stub.log.clear()
    attack(x, target, norm="l2")  # a plan whose memory is the other stream's
    assert stub.log == []
    stub.current = "main"
    attack(x, target, norm="l2")
    assert [entry[:2] for entry in stub.log] == [("wait", "main"), ("used", "main")]


def test_a_model_under_torch_compile(h, stub):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    calls = []

    def counting(graph, inputs):
        def run(*values):
            calls.append(len(values))
            return graph(*values)

        return run

    compiled = torch.compile(model, backend=counting)
    expected = eagerly(model, x, target, **SIX_STEPS)
    for _ in range(2):
        assert torch.equal(fast_targeted_pgd(compiled, x, target, engine="graph", **SIX_STEPS), expected)
    assert stub.captures == 1
    assert calls  # what is captured are the compiled model's own kernels
    calls.clear()
    assert torch.equal(fast_targeted_pgd(model, x, target, engine="graph", **SIX_STEPS), expected)
    assert stub.captures == 2
    assert not calls


# The model is left as it was found


@pytest.mark.parametrize("bn_mode", BN_MODES)
def test_a_capture_that_fails_leaves_no_trace_but_a_warning(h, stub, bn_mode):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    eager, by_graph = copy.deepcopy(model), copy.deepcopy(model)
    options = {**SIX_STEPS, "bn_mode": bn_mode}
    stub.fail = RuntimeError("operation not permitted when stream is capturing\nand more lines")
    random_state = torch.get_rng_state()
    with pytest.warns(EngineFallback, match=r"captured \(RuntimeError: operation .* is capturing\)$") as caught:
        x_adv = fast_targeted_pgd(by_graph, x, target, engine="graph", **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    stub.fail = None
    assert torch.equal(x_adv, fast_targeted_pgd(eager, x, target, engine="eager", **options))
    # No second warning (it would be an error here), and no second attempt.
    again = fast_targeted_pgd(by_graph, x, target, engine="graph", **options)
    assert torch.equal(again, fast_targeted_pgd(eager, x, target, engine="eager", **options))
    assert stub.captures == 0
    assert h.same(h.snapshot(by_graph), h.snapshot(eager))
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_what_the_model_raises_is_raised(h, stub, error):
    class Failing(nn.Module):
        def forward(self, x):
            raise error

    model, (x, _, target) = nn.Sequential(h.cnn(), Failing()), h.images(6)
    before = h.snapshot(model)
    with pytest.raises(error):
        fast_targeted_pgd(model, x, target, engine="graph", bn_mode="train", **SIX_STEPS)
    assert h.same(h.snapshot(model), before)


class FillsACache(nn.Linear):
    table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.ones(5)
        return super().forward(x.flatten(1)) * self.table


def test_what_a_first_forward_makes_is_no_objection(h, stub):
    model, (x, _, target) = FillsACache(108, 5), h.images(6)
    for _ in range(3):
        x_adv = fast_targeted_pgd(model, x, target, engine="graph", **SIX_STEPS)
    assert torch.equal(x_adv, eagerly(model, x, target, **SIX_STEPS))
    assert stub.captures == 1

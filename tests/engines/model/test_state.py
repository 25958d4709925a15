"""The model during and after an attack: which mode its layers run in, and that nothing of it changes."""

from __future__ import annotations

import copy
import os
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from fairtat import TargetedPGD, fast_pgd, fast_targeted_pgd, ops
from fairtat.engines.model.state import frozen, unwrap

FLOAT64 = torch.float64
BN_MODES = ["eval", "train", "train_frozen_stats"]
SIX_STEPS = {"eps": 0.1, "step_size": 0.03, "steps": 6, "seed": 0}


def batch_norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def patchwork(h, dtype=torch.float32):
    """A model whose flags all differ: one layer frozen, one BatchNorm frozen, gradients on some parameters."""
    model = h.cnn(dtype)
    model[4].eval()
    model[0].weight.requires_grad_(False)
    model[8].weight.grad = torch.randn_like(model[8].weight)
    return model


def textbook_mode(model, bn_mode):
    """A copy of the model with the layers set by hand as ``bn_mode`` asks."""
    model = copy.deepcopy(model).eval()
    for norm in batch_norms(model):
        norm.train(bn_mode != "eval")
    return model


@pytest.mark.parametrize("bn_mode", BN_MODES)
@pytest.mark.parametrize("options", [{}, {"early_stop": True}, {"restarts": 2, "chunk_size": 5}, {"return_info": True}])
def test_the_model_is_left_as_it_was_found(h, bn_mode, options):
    model, (x, _, target) = patchwork(h), h.images(6)
    before, random_state = h.snapshot(model), torch.get_rng_state()
    fast_targeted_pgd(model, x, target, bn_mode=bn_mode, steps=3, **options)
    after = h.snapshot(model)
    if bn_mode == "train":
        assert not torch.equal(model[1].running_mean, before["buffers"][0])
        assert torch.equal(model[4].running_mean, before["buffers"][3])  # frozen by hand
        del before["buffers"], after["buffers"]
    assert h.same(after, before)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("bn_mode", BN_MODES)
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_model_is_left_as_it_was_found_after_an_exception(h, bn_mode, error):
    model, (x, _, target) = patchwork(h), h.images(6)
    calls = []

    class Failing(nn.Module):
        def forward(self, images):
            calls.append(torch.is_grad_enabled())
            if len(calls) == 3:
                raise error
            return images

    model.append(Failing())
    before, random_state = h.snapshot(model), torch.get_rng_state()
    with pytest.raises(error), torch.no_grad():
        fast_targeted_pgd(model, x, target, bn_mode=bn_mode)
    after = h.snapshot(model)
    if bn_mode == "train":
        del before["buffers"], after["buffers"]
    assert calls == [True] * 3
    assert h.same(after, before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()


def test_an_error_while_freezing_leaves_nothing_behind(h):
    class Stubborn(nn.Module):
        armed = False

        def __setattr__(self, name, value):
            if name == "training" and self.armed:
                raise RuntimeError("no")
            super().__setattr__(name, value)

    model = h.cnn().append(Stubborn())
    model[9].armed = True
    before = h.snapshot(model)
    with pytest.raises(RuntimeError, match="no"), frozen(model, "eval"):
        pass
    assert h.same(h.snapshot(model), before)


@pytest.mark.parametrize("bn_mode", BN_MODES)
@pytest.mark.parametrize("training", [True, False])
def test_the_modes_are_those_of_a_textbook_loop(h, bn_mode, training):
    model, (x, _, target) = h.cnn(FLOAT64).train(training), h.images(6, FLOAT64)
    by_hand = textbook_mode(model, bn_mode)
    start = ops.pgd_init(x, 0.1, seed=0)
    expected = h.textbook_pgd(by_hand, start, x, target, eps=0.1, step_size=0.03, steps=6)
    buffers = [b.clone() for b in model.buffers()]
    x_adv = fast_targeted_pgd(model, x, target, bn_mode=bn_mode, **SIX_STEPS)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    if bn_mode == "train":
        buffers = list(by_hand.buffers())  # moved by six forward passes
        assert batch_norms(model)[0].num_batches_tracked == 6
    for ours, theirs in zip(model.buffers(), buffers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_whether_a_samples_result_depends_on_the_others(h):
    plain = nn.Sequential(nn.Linear(4, 3), nn.GroupNorm(1, 3))
    for bn_mode, expected in (("eval", False), ("train", True), ("train_frozen_stats", True)):
        with frozen(h.cnn(), bn_mode) as state:
            assert state.mixes_samples == expected
        with frozen(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), bn_mode) as state:
            assert state.mixes_samples  # it has no other statistics
        with frozen(plain, bn_mode) as state:
            assert not state.mixes_samples


def test_train_mode_absorbs_the_steps_alone_and_not_the_report(h):
    model, (x, _, target) = h.cnn(), h.images(6)
    twin = copy.deepcopy(model)
    result = fast_targeted_pgd(model, x, target, bn_mode="train", return_info=True, **SIX_STEPS)
    assert torch.equal(result.x_adv, fast_targeted_pgd(twin, x, target, bn_mode="train", **SIX_STEPS))
    assert h.same(h.snapshot(model), h.snapshot(twin))
    with torch.no_grad():
        torch.testing.assert_close(result.logits, textbook_mode(model, "train")(result.x_adv))


def test_batch_norm_frozen_by_hand_stays_frozen_in_a_training_model(h):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    model[4].eval()
    by_hand = textbook_mode(model, "train")
    by_hand[4].eval()
    start = ops.pgd_init(x, 0.1, seed=0)
    expected = h.textbook_pgd(by_hand, start, x, target, eps=0.1, step_size=0.03, steps=6)
    x_adv = fast_targeted_pgd(model, x, target, bn_mode="train", **SIX_STEPS)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3, momentum=None)])
def test_batch_norm_of_other_kinds(h, norm):
    model, (x, _, target) = nn.Sequential(norm, h.cnn()), h.images(6)
    before = h.snapshot(model)
    for bn_mode in ("eval", "train_frozen_stats"):
        fast_targeted_pgd(model, x, target, bn_mode=bn_mode, return_info=True)
        assert h.same(h.snapshot(model), before)


def test_a_model_with_noise_of_its_own_is_repeatable_and_leaves_the_generator(h):
    inner, (x, _, target) = h.cnn(), h.images(6)

    def noisy(images):
        return inner(images + 0.3 * torch.randn_like(images))

    options = {"eps": 0.1, "step_size": 0.02, "steps": 3}
    state = torch.get_rng_state()
    initial = torch.initial_seed()
    first = fast_targeted_pgd(noisy, x, target, seed=3, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.initial_seed() == initial
    torch.rand(7)
    assert torch.equal(fast_targeted_pgd(noisy, x, target, seed=3, **options), first)
    start = ops.pgd_init(x, 0.1, seed=3)
    again = [fast_targeted_pgd(noisy, x, target, seed=seed, init=start, **options) for seed in (3, 4)]
    assert torch.equal(again[0], first)
    assert not torch.equal(again[1], first)  # the noise follows the seed, not the start alone


class RecordsWeightGradient(torch.autograd.Function):
    """x @ w.T that notes which gradients its backward was asked for."""

    asked: ClassVar[list[tuple[bool, ...]]] = []

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(w)
        return x @ w.T

    @staticmethod
    def backward(ctx, grad):
        RecordsWeightGradient.asked.append(ctx.needs_input_grad)
        return grad @ ctx.saved_tensors[0], None


def test_no_weight_gradient_is_computed(h):
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 6))

        def forward(self, x):
            return RecordsWeightGradient.apply(x, self.weight)

    RecordsWeightGradient.asked.clear()
    fast_targeted_pgd(Linear(), torch.rand(3, 6), torch.tensor([0, 1, 2]), steps=2)
    assert RecordsWeightGradient.asked == [(True, False)] * 2


# Wrappers


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """A gloo group of one."""
    if not dist.is_available():
        pytest.skip("torch is built without distributed")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    path = tmp_path_factory.mktemp("gloo") / "store"
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_inner_module_of_ddp_is_attacked_inside_a_training_step(h, one_process):
    model, (x, y, target) = h.cnn(), h.images(6)
    alone = copy.deepcopy(model)
    wrapped = nn.parallel.DistributedDataParallel(model)
    inner_before = h.snapshot(wrapped)
    for _ in range(2):  # a reducer that waited for the attack's gradients would fail in the second round
        x_adv = fast_targeted_pgd(wrapped, x, target, y=y, bn_mode="train_frozen_stats", seed=0)
        assert torch.equal(x_adv, fast_targeted_pgd(alone, x, target, bn_mode="train_frozen_stats", seed=0))
        assert h.same(h.snapshot(wrapped), inner_before)
    F.cross_entropy(wrapped(x_adv), y).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_unwrap_finds_the_module_that_parallel_wrappers_hold(h):
    model = h.cnn()
    assert unwrap(model) is model
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(torch.compile(nn.DataParallel(model), backend="eager")) is model
    compiled = torch.compile(model, backend="eager")
    assert unwrap(nn.DataParallel(compiled)) is compiled  # stays compiled


# torch.compile


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("bn_mode", BN_MODES)
def test_a_compiled_model_gives_the_same_attack_and_runs_compiled(h, fresh_compiler, bn_mode):
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    model, (x, _, target) = patchwork(h, FLOAT64), h.images(6, FLOAT64)
    model.zero_grad()
    twin = copy.deepcopy(model)
    expected = fast_targeted_pgd(twin, x, target, bn_mode=bn_mode, **SIX_STEPS)
    compiled = torch.compile(model, backend=backend)
    x_adv = fast_targeted_pgd(compiled, x, target, bn_mode=bn_mode, **SIX_STEPS)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    assert h.same(h.snapshot(model), h.snapshot(twin))
    assert len(graphs) == 1  # traced once, with no break and no second version
    F.cross_entropy(compiled(x), target).backward()  # training goes on, with its weight gradients
    fast_targeted_pgd(compiled, x, target, bn_mode=bn_mode, **SIX_STEPS)
    assert len(graphs) == 2
    assert model[8].weight.grad is not None


@pytest.mark.parametrize("bn_mode", BN_MODES)
def test_a_compiled_batch_norm_layer_is_a_batch_norm_layer(h, fresh_compiler, bn_mode):
    norm, (x, _, target) = nn.BatchNorm2d(3, dtype=FLOAT64), h.images(6, FLOAT64)
    plain = nn.Sequential(norm, h.cnn(FLOAT64))
    twin = copy.deepcopy(plain)
    compiled = nn.Sequential(torch.compile(norm, backend="eager"), plain[1])
    expected = fast_targeted_pgd(twin, x, target, bn_mode=bn_mode, **SIX_STEPS)
    x_adv = fast_targeted_pgd(compiled, x, target, bn_mode=bn_mode, **SIX_STEPS)
    torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-12)
    assert h.same(h.snapshot(plain), h.snapshot(twin))


def test_a_compiled_model_computes_no_weight_gradient(h, fresh_compiler):
    """AOTAutograd's backward graph returns a gradient for the images and for nothing else."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    returned = []

    def note_backward(graph, _inputs):
        (output,) = (node for node in graph.graph.nodes if node.op == "output")
        returned.append([value is not None for value in output.args[0]])
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=note_backward)
    model, (x, _, target) = h.cnn(), h.images(6)
    fast_targeted_pgd(torch.compile(model, backend=backend), x, target, steps=2)
    assert [sum(each) for each in returned] == [1]


@pytest.mark.slow
def test_inductor_gives_the_same_attack(h, fresh_compiler):
    model, (x, _, target) = h.cnn(), h.images(16)
    expected = fast_targeted_pgd(model, x, target, **SIX_STEPS)
    x_adv = fast_targeted_pgd(torch.compile(model), x, target, **SIX_STEPS)
    assert ((x_adv - expected).abs() > 1e-6).double().mean() < 0.01


def test_an_attack_inside_a_compiled_function_breaks_the_graph_and_works(h, fresh_compiler):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(6, FLOAT64)
    attack = TargetedPGD(model, **SIX_STEPS)

    def training_step(images):
        a = fast_targeted_pgd(model, images * 1.0, target, y=y, **SIX_STEPS)
        b = fast_pgd(model, images, y, **SIX_STEPS)
        return a + b, attack(images, target) * 2

    before = h.snapshot(model)
    expected = training_step(x)
    actual = torch.compile(training_step, backend="aot_eager")(x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert h.same(h.snapshot(model), before)

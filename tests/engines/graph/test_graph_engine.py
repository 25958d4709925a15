"""The graph engine gives the eager engine's attack and captures once (see also ../test_every_engine.py).

Its logic is tested over a stub of CUDA graphs (in conftest.py): a capture runs the function, a replay runs it again.
test_graph_engine_gpu.py holds the same engine to real ones.
"""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from attack_fixtures import BN_MODES, NORMALIZE, SIX_STEPS, both, pairwise, stopping_early
from torch import nn

from fairtat import TargetedPGD, fast_pgd, fast_targeted_pgd
from fairtat.attacks import EngineFallback
from fairtat.engines.cache import MAX_SIZES, MAX_UNUSED, record_of
from fairtat.engines.graph import engine as graph_engine
from fairtat.engines.model.structure import ModelStructure

FLOAT64 = torch.float64
pytestmark = pytest.mark.usefixtures("fallbacks_are_errors")


def eagerly(model, *data, **options):
    return fast_targeted_pgd(model, *data, **{**options, "engine": "eager"})


def assert_results_equal(result, expected, atol=0.0):
    for name in vars(expected):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), rtol=atol, atol=atol)


def plans_of(model):
    return [plan for family in record_of(model, "graph").families.values() for plan in family.programs.values()]


@pytest.mark.parametrize(("bn_mode", "norm", "normalize"), pairwise(BN_MODES, ["linf", "l2"], [None, NORMALIZE]))
def test_targeted_equals_the_eager_engine(h, stub, bn_mode, norm, normalize):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(12, FLOAT64)
    options = {**SIX_STEPS, "norm": norm, "bn_mode": bn_mode, "normalize": normalize, "return_info": True}
    if normalize is not None:  # also one radius and one step for each sample
        options |= {"eps": torch.linspace(0, 0.2, 12), "step_size": torch.linspace(0, 0.05, 12), "y": y}
        options |= {"sample_ids": torch.arange(12) * 7}
    expected, result, by_eager, by_graph = both("graph", fast_targeted_pgd, model, x, target, calls=2, **options)
    # In L2 a radius for all and one for each sample are multiplied in another order.
    assert_results_equal(result, expected, atol=0.0 if norm == "linf" or normalize is not None else 1e-12)
    torch.testing.assert_close(list(by_graph.buffers()), list(by_eager.buffers()), rtol=0, atol=1e-12)
    assert (stub.captures, stub.replays) == (2, 4)  # the steps and the report


def test_what_changes_from_call_to_call_is_no_part_of_a_graph(h, stub):
    model, (x, y, target) = h.cnn(), h.images(6)
    attack = TargetedPGD(model, engine="graph", **SIX_STEPS)
    start = (x + 0.05).clamp(0, 1)
    for options in (
        {}, {"seed": 1}, {"eps": 0.2}, {"step_size": torch.full((6,), 0.01)}, {"check": False}, {"init": "zero"},
        {"init": start}, {"init": "normal", "sample_ids": torch.arange(6) + 4},
    ):  # fmt: skip
        expected = eagerly(model, x, target, y=y, **{**SIX_STEPS, **options})
        assert torch.equal(attack(x, target, y, **options), expected)
    for mean in (0.3, 0.6):
        normalize = ((mean,) * 3, (0.2,) * 3)
        expected = eagerly(model, x, target, normalize=normalize, **SIX_STEPS)
        assert torch.equal(attack(x, target, normalize=normalize), expected)
    assert stub.captures == 2


def test_what_makes_another_graph(h, stub):
    model, (x, y, target) = h.cnn(), h.images(6)
    attack = TargetedPGD(model, engine="graph", **SIX_STEPS)
    attack(x, target)
    for n, change in enumerate(
        ({"loss": "margin"}, {"normalize": NORMALIZE}, {"bn_mode": "train_frozen_stats"}, {"steps": 3}, {"norm": "l2"}),
        2,
    ):
        attack(x, target, **change)
        assert stub.captures == n
    attack(x.contiguous(memory_format=torch.channels_last), target)
    assert stub.captures == 7
    fast_pgd(model, x, y, engine="graph", **SIX_STEPS)
    assert stub.captures == 8
    with torch.autocast("cpu", torch.bfloat16):
        attack(x, target)
    assert stub.captures == 9


@pytest.mark.parametrize("chunk_size", [None, 4, 5])
def test_restarts_and_chunks(h, stub, chunk_size):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(9, FLOAT64)
    for restarts in (1, 3):
        options = {**SIX_STEPS, "restarts": restarts, "chunk_size": chunk_size, "return_info": True}
        expected, result, *_ = both("graph", fast_targeted_pgd, model, x, target, calls=2, **options)
        torch.testing.assert_close(result.x_adv, expected.x_adv, rtol=0, atol=1e-12)
        torch.testing.assert_close(result.loss, expected.loss)
        assert torch.equal(result.reached, expected.reached)


def test_outputs_with_logits_vectors_and_channels_last(h, stub):
    class Output(nn.Sequential):
        def forward(self, x):
            return {"logits": super().forward(x)}

    x, _, target = h.images(6)
    model = Output(nn.Flatten(), nn.Linear(108, 5))
    for images in (x, x.contiguous(memory_format=torch.channels_last), x[:, 0, 0]):
        if images.ndim == 2:
            model = Output(nn.Linear(6, 5))
        expected, result, *_ = both("graph", fast_targeted_pgd, model, images, target, calls=2, **SIX_STEPS)
        assert torch.equal(result, expected)
        assert result.stride() == expected.stride()


@pytest.mark.parametrize(
    ("extra", "norm", "targeted", "return_info"),
    [  # each pair of values
        ({}, "linf", True, True),
        ({}, "l2", False, False),
        ({"extra_steps": 2}, "linf", False, True),
        ({"extra_steps": 2}, "l2", True, False),
        ({"normalize": NORMALIZE}, "linf", True, False),
        ({"normalize": NORMALIZE}, "l2", False, True),
        ({"restarts": 3, "chunk_size": 7}, "linf", False, False),
        ({"restarts": 3, "chunk_size": 7}, "l2", True, True),
    ],
)
def test_early_stopping_equals_the_eager_engine(h, stub, targeted, norm, extra, return_info):
    model, (x, y, target) = h.cnn(FLOAT64), h.images(40, FLOAT64)
    options = {**stopping_early(norm), "return_info": return_info, **extra}
    attack, goal = (fast_targeted_pgd, target) if targeted else (fast_pgd, y)
    expected, result, *_ = both("graph", attack, model, x, goal, calls=2, **options)
    if not return_info:
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
        return
    assert len(expected.steps.unique()) > 3
    for name in vars(expected):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), rtol=1e-9, atol=1e-12)


def test_the_graphs_shrink_with_the_batch(h, stub):
    model, (x, _, target) = h.cnn().eval(), h.images(64)
    looking, sizes = h.counting_module(model)
    options = {"eps": 0.3, "step_size": 0.01, "steps": 40, "seed": 2, "early_stop": True}
    attack = TargetedPGD(looking, engine="graph", **options)
    attack(x, target)
    sizes.clear()
    result = attack(x, target, return_info=False)
    assert set(sizes) <= {64, 32, 16, 8}
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 2
    steps = eagerly(looking, x, target, return_info=True, **options).steps
    for k, size in enumerate(sizes[: int(steps.max())]):
        moving = int((steps >= k).sum())
        assert size >= moving
        # At most a look too late to be in the smallest size that fits.
        behind = int((steps >= max(k - graph_engine.STEPS_BETWEEN_LOOKS, 0)).sum())
        assert size <= next(bucket for bucket in (8, 16, 32, 64) if bucket >= behind)
    assert torch.equal(result, fast_targeted_pgd(looking, x, target, engine="graph", **options))


def test_an_attack_ends_with_its_last_sample(h, stub):
    model, (x, _, _) = h.cnn().eval(), h.images(16)
    attack = TargetedPGD(model, engine="graph", early_stop=True, init="zero", steps=30)
    reached = model(x).argmax(1)
    attack(x, reached)
    stub.replays = 0
    assert torch.equal(attack(x, reached), x)
    assert stub.replays == 1


@pytest.mark.parametrize("bn_mode", ["train", "train_frozen_stats"])
@pytest.mark.parametrize("extra_steps", [0, 2])
def test_early_stopping_under_batch_statistics(h, stub, bn_mode, extra_steps):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(16, FLOAT64)
    options = {"eps": 0.3, "step_size": 0.05, "steps": 6, "seed": 2, "bn_mode": bn_mode, "return_info": True}
    options |= {"early_stop": True, "extra_steps": extra_steps}
    expected, result, by_eager, by_graph = both("graph", fast_targeted_pgd, model, x, target, calls=2, **options)
    assert len(expected.steps.unique()) > 2
    assert_results_equal(result, expected)
    assert h.same(list(by_graph.buffers()), list(by_eager.buffers()))


def test_weights_at_other_addresses_are_captured_anew(h, stub):
    model, (x, _, target) = h.cnn(), h.images(6)
    attack = TargetedPGD(model, engine="graph", **SIX_STEPS)
    attack(x, target)
    attack(x, target)
    model[0].weight = nn.Parameter(torch.randn_like(model[0].weight))
    assert torch.equal(attack(x, target), eagerly(model, x, target, **SIX_STEPS))
    assert stub.captures == 2
    model[0].weight.data = model[0].weight.data.clone()
    attack(x, target)
    assert stub.captures == 3
    model[1].running_mean = torch.zeros_like(model[1].running_mean)
    assert torch.equal(attack(x, target), eagerly(model, x, target, **SIX_STEPS))
    assert stub.captures == 4


def test_plain_tensors_of_a_module_are_captured_where_they_lie(stub):
    class Scaled(nn.Linear):
        scale = None

        def forward(self, x):
            return super().forward(x) * self.scale

    model, x, target = Scaled(6, 3), torch.rand(4, 6), torch.zeros(4, dtype=torch.int64)
    for scale in (torch.ones(3), torch.tensor([1.0, -1.0, 3.0])):
        model.scale = scale
        expected = eagerly(model, x, target, **SIX_STEPS)
        assert torch.equal(fast_targeted_pgd(model, x, target, engine="graph", **SIX_STEPS), expected)


def test_a_model_whose_weights_move_at_every_call_is_left_alone(h, stub):
    model, (x, _, target) = h.cnn(), h.images(6)

    def attack_elsewhere():
        model[0].weight.data = model[0].weight.data.clone()
        others.append(model[0].weight.data)  # so that no address comes again
        return fast_targeted_pgd(model, x, target, engine="graph", **SIX_STEPS)

    others = []
    for _ in range(MAX_UNUSED):
        attack_elsewhere()
    with pytest.warns(EngineFallback, match="its layers or weights change at every call"):
        attack_elsewhere()
    attack_elsewhere()
    assert stub.captures == MAX_UNUSED


def test_batch_statistics_in_eval_mode_are_not_padded(stub):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3))
    x, target = torch.rand(8, 6, dtype=FLOAT64), torch.zeros(8, dtype=torch.int64)
    model.double().eval()
    attack = TargetedPGD(model, engine="graph", **SIX_STEPS)
    attack(x, target)
    expected = eagerly(model, x[:6], target[:6], **SIX_STEPS)
    assert torch.equal(attack(x[:6], target[:6]), expected)
    assert stub.replays == 1


def test_graphs_are_bounded_and_go_with_their_model(h, stub):
    stub.forget = True  # the stub would hold the model by the function that it runs again
    model, (x, _, target) = h.cnn(), h.images(12)
    gone = []
    for n in (4, 4, 6, 6, 8, 8, 10, 10, 12, 12):
        fast_targeted_pgd(model, x[:n], target[:n], engine="graph", engine_check="off", **SIX_STEPS)
        gone.append(weakref.ref(plans_of(model)[-1]))
    assert [plan.size for plan in plans_of(model)] == [8, 10, 12]
    assert len(plans_of(model)) == MAX_SIZES
    gc.collect()
    assert [plan() is None for plan in gone[::2]] == [True, True, False, False, False]
    gone.append(weakref.ref(model))
    del model
    gc.collect()
    assert {plan() for plan in gone} == {None}


def test_auto_captures_what_comes_twice_and_never_warns(h, stub):
    model, (x, _, target) = h.cnn(FLOAT64), h.images(8, FLOAT64)
    expected = fast_targeted_pgd(model, x, target, **{**SIX_STEPS, "engine": "eager"})
    for captures in (0, 1, 1):
        assert torch.equal(fast_targeted_pgd(model, x, target, **SIX_STEPS), expected)
        assert stub.captures == captures
    fast_targeted_pgd(model, x[:7], target[:7], **SIX_STEPS)
    assert (stub.captures, stub.replays) == (1, 3)
    fast_targeted_pgd(model, x, target, early_stop=True, **SIX_STEPS)
    fast_targeted_pgd(model, x, target, chunk_size=4, **SIX_STEPS)
    fast_targeted_pgd(lambda images: model(images), x, target, **SIX_STEPS)
    hooked = copy.deepcopy(model)
    hooked.register_forward_hook(lambda *_: None)
    for _ in range(2):
        fast_targeted_pgd(hooked, x, target, **SIX_STEPS)
    assert (stub.captures, stub.replays) == (1, 3)


def test_synchronised_batch_norm_in_train_mode_runs_eagerly(h, stub):
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 5), nn.SyncBatchNorm(5))
    x, _, target = h.images(6)
    fast_targeted_pgd(model, x, target, engine="graph", **SIX_STEPS)
    assert stub.captures == 1
    # In train mode it works on a GPU alone, so no attack can be made here; the reason comes first.
    reason = graph_engine.Graph.unsupported_layers(ModelStructure.of(model.train()))
    assert "SyncBatchNorm in train mode waits for other processes" in reason


def test_on_a_cpu_there_are_no_graphs(h):
    model, (x, _, target) = h.cnn(), h.images(6)
    with pytest.warns(EngineFallback, match="CUDA graphs need a GPU, and x is on cpu") as caught:
        x_adv = fast_targeted_pgd(model, x, target, engine="graph", **SIX_STEPS)
    assert len(caught) == 1
    for engine in ("graph", "auto", "eager"):  # no second warning
        assert torch.equal(fast_targeted_pgd(model, x, target, engine=engine, **SIX_STEPS), x_adv)

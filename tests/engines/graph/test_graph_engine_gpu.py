"""The graph engine over real CUDA graphs. Needs a GPU: ``pytest -m gpu``."""

from __future__ import annotations

import copy
import functools
import gc
import warnings

import pytest
import torch
import torch.nn.functional as F
from attack_fixtures import BN_MODES, NORMALIZE, SIX_STEPS, both
from torch import nn

from fairtat import TargetedPGD, fast_pgd, fast_targeted_pgd
from fairtat.attacks import EngineFallback

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def same_kernels_every_time():
    """Fallbacks are errors, and cuDNN takes algorithms that give the same bits each time."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineFallback)
        yield
    torch.backends.cudnn.deterministic = before


twice = functools.partial(both, "graph", calls=2)


def scene(h, n=12):
    """(model, x, y, target) on the GPU."""
    return h.cnn().cuda(), *(t.cuda() for t in h.images(n))


def equal(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


@pytest.mark.parametrize("bn_mode", BN_MODES)
@pytest.mark.parametrize("normalize", [None, NORMALIZE])
@pytest.mark.parametrize("per_sample", [False, True])
def test_targeted_equals_the_eager_engine_to_the_last_bit(h, bn_mode, normalize, per_sample):
    model, x, y, target = scene(h)
    options = {**SIX_STEPS, "bn_mode": bn_mode, "normalize": normalize, "return_info": True, "y": y}
    if per_sample:
        options |= {"eps": torch.linspace(0, 0.2, 12).cuda(), "sample_ids": torch.arange(12).cuda() * 7}
    expected, result, by_eager, by_graph = twice(fast_targeted_pgd, model, x, target, **options)
    assert equal(result, expected)
    assert h.same(list(by_graph.buffers()), list(by_eager.buffers()))
    if bn_mode == "train":
        assert by_graph[1].num_batches_tracked == model[1].num_batches_tracked + 12


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "kl"])
def test_untargeted_equals_the_eager_engine_to_the_last_bit(h, loss):
    model, x, y, _ = scene(h)
    model.eval()
    options = {**SIX_STEPS, "loss": loss}
    if loss == "kl":
        options |= {"clean_logits": model(x).detach(), "init": "normal"}
    expected, result, *_ = twice(fast_pgd, model, x, y, **options)
    assert torch.equal(result, expected)


def test_l2_equals_the_eager_engine(h):
    model, x, _, target = scene(h)
    options = {**SIX_STEPS, "norm": "l2", "eps": 0.7, "step_size": 0.2}
    expected, result, *_ = twice(fast_targeted_pgd, model, x, target, **options)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", [None, NORMALIZE])
def test_mixed_precision_and_channels_last(h, amp, normalize):
    model, x, _, target = scene(h, 32)
    model, x = (t.to(memory_format=torch.channels_last) for t in (model, x))
    expected, result, *_ = twice(fast_targeted_pgd, model, x, target, amp=amp, normalize=normalize, **SIX_STEPS)
    assert torch.equal(result, expected)
    assert result.stride() == x.stride()
    with torch.no_grad(), torch.autocast("cuda", amp):
        caught, graphed, *_ = twice(fast_targeted_pgd, model, x, target, normalize=normalize, **SIX_STEPS)
    assert torch.equal(graphed, caught)


@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_training_between_replays(h, bn_mode):
    model, x, y, target = scene(h, 16)
    models = model, copy.deepcopy(model)
    batches = [(x[:n], y[:n], target[:n]) for n in (16, 16, 16, 11, 16, 16)]
    for m, engine in zip(models, ("eager", "graph"), strict=True):
        h.train(m, batches, engine=engine, momentum=0.9, bn_mode=bn_mode)
    if bn_mode == "train":  # in eval mode the smaller batch is padded: another kernel may serve it
        assert h.same(h.snapshot(models[0]), h.snapshot(models[1]))
    else:
        for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_the_model_and_the_random_numbers_are_left_as_they_were(h):
    model, x, _, target = scene(h)
    before, states = h.snapshot(model), (torch.get_rng_state(), torch.cuda.get_rng_state())
    for _ in range(2):
        fast_targeted_pgd(model, x, target, engine="graph", bn_mode="train_frozen_stats", **SIX_STEPS)
    assert h.same(h.snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(torch.cuda.get_rng_state(), states[1])
    drawn = torch.rand(5, device="cuda")
    torch.cuda.set_rng_state(states[1])
    assert torch.equal(torch.rand(5, device="cuda"), drawn)


def test_ten_thousand_replays_take_no_more_memory():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).cuda()
    x, target = torch.rand(128, 64, device="cuda"), torch.randint(10, (128,), device="cuda")
    attack = TargetedPGD(model, engine="graph", steps=2, check=False)
    taken = []
    for call in range(10_000):
        attack(x, target, seed=call)
        if call in (10, 9_999):
            torch.cuda.synchronize()
            taken.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
    assert taken[1] == taken[0]


def test_graphs_give_back_their_memory_with_the_model(h):
    model, x, _, target = scene(h, 256)
    fast_targeted_pgd(model, x, target, engine="graph", **SIX_STEPS)  # what libraries allocate once is not counted
    del model
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    other = h.cnn().cuda()
    for n in (256, 255, 254, 253, 252):
        fast_targeted_pgd(other, x[:n], target[:n], engine="graph", **SIX_STEPS)
        fast_targeted_pgd(other, x[:n], target[:n], engine="graph", **SIX_STEPS)
    del other
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before[0]
    assert torch.cuda.memory_reserved() <= before[1]


def test_two_streams(h):
    model, x, _, target = scene(h, 64)
    expected = [fast_targeted_pgd(model, x, target, **{**SIX_STEPS, "engine": "eager", "seed": s}) for s in range(20)]
    attack = TargetedPGD(model, engine="graph", **SIX_STEPS)
    attack(x, target)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results = []
    for seed in range(20):
        with torch.cuda.stream(streams[seed % 2]):
            torch.cuda._sleep(1_000_000 * (seed % 3))  # so that one stream lags behind the other
            results.append(attack(x, target, seed=seed))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("restarts", [1, 3])
def test_early_stopping(h, targeted, restarts):
    model, x, y, target = scene(h, 64)
    attack, goal = (fast_targeted_pgd, target) if targeted else (fast_pgd, y)
    options = {**SIX_STEPS, "step_size": 0.01, "steps": 9, "early_stop": True, "extra_steps": 1, "restarts": restarts}
    expected, result, *_ = twice(attack, model, x, goal, return_info=True, **options)
    # Other batch sizes may be served by other kernels, so a sample may stop a step apart.
    assert (result.reached == expected.reached).double().mean() > 0.9
    assert (result.steps == expected.steps).double().mean() > 0.9
    assert ((result.x_adv - expected.x_adv).abs() > 1e-6).double().mean() < 0.1


def test_in_a_step_of_distributed_training(h, tmp_path):
    backend = "nccl" if torch.distributed.is_nccl_available() else "gloo"
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        model, x, y, target = scene(h, 16)
        twin = copy.deepcopy(model)
        for m, engine in ((nn.parallel.DistributedDataParallel(model, [0]), "graph"), (twin, "eager")):
            h.train(m, [(x, y, target)] * 3, engine=engine, bn_mode="train")
        for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("bn_mode", ["eval", "train"])
def test_a_model_under_torch_compile(h, bn_mode):
    model, x, y, target = scene(h, 16)
    compiled = torch.compile(model)
    options = {**SIX_STEPS, "bn_mode": bn_mode}
    before = copy.deepcopy(model.state_dict())
    results = []
    for engine in ("eager", "graph", "graph"):
        model.load_state_dict(before)
        results.append(fast_targeted_pgd(compiled, x, target, engine=engine, **options))
    assert torch.equal(results[1], results[0])
    assert torch.equal(results[2], results[0])
    F.cross_entropy(compiled(results[0]), y).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(("bn_mode", "amp"), [("eval", torch.bfloat16), ("train", None)])
def test_the_compiled_program_is_captured(h, bn_mode, amp):
    """What inductor makes of the steps, on its own and replayed: the same kernels, so the same bits."""
    model, x, _, target = scene(h, 16)
    options = {**SIX_STEPS, "bn_mode": bn_mode, "amp": amp, "normalize": NORMALIZE}
    models = {engine: copy.deepcopy(model) for engine in ("eager", "compiled", "compiled_graph")}
    for _ in range(2):  # the second time with other weights, for which nothing is built
        found = {e: fast_targeted_pgd(m, x, target, engine=e, **options) for e, m in models.items()}
        assert torch.equal(found["compiled_graph"], found["compiled"])
        off = (found["compiled_graph"] - found["eager"]).abs() > 1e-6
        assert off.double().mean() < (0.01 if amp is None else 0.1)
        assert h.same(list(models["compiled_graph"].buffers()), list(models["compiled"].buffers()))
        with torch.no_grad():
            for m in models.values():
                for p in m.parameters():
                    p.mul_(0.9)


class Reads(nn.Linear):
    """Asks the device, which a capture forbids."""

    def forward(self, x):
        z = super().forward(x.flatten(1))
        return z * 2 if z.sum().item() > 0 else z


def test_a_capture_that_fails_leaves_everything_working(h):
    _, x, y, target = scene(h)
    unfit = Reads(108, 5).cuda()
    expected = fast_targeted_pgd(unfit, x, target, **{**SIX_STEPS, "engine": "eager"})
    state, stream = torch.cuda.get_rng_state(), torch.cuda.current_stream()
    with pytest.warns(EngineFallback, match="the model cannot be captured") as caught:
        x_adv = fast_targeted_pgd(unfit, x, target, engine="graph", **SIX_STEPS)
    assert len(caught) == 1
    assert torch.equal(x_adv, expected)
    assert torch.equal(fast_targeted_pgd(unfit, x, target, engine="graph", **SIX_STEPS), expected)
    assert torch.cuda.current_stream() == stream
    assert torch.equal(torch.cuda.get_rng_state(), state)
    # Random numbers, training and other captures go on.
    assert torch.rand(1000, device="cuda").std() > 0.2
    model = h.cnn().cuda().train()
    F.cross_entropy(model(x), y).backward()
    expected, result, *_ = twice(fast_targeted_pgd, model, x, target, **SIX_STEPS)
    assert torch.equal(result, expected)
    # The allocator no longer waits for the capture to end: memory used on another stream comes back.
    other, reserved = torch.cuda.Stream(), []
    for _ in range(2):
        for _ in range(50):
            lent = torch.empty(1 << 20, device="cuda")
            lent.record_stream(other)
            del lent
            torch.cuda.synchronize()
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[1] <= reserved[0]


def test_auto_is_the_graph_engine_from_the_second_call_on(h):
    model, x, _, target = scene(h)
    expected = fast_targeted_pgd(model, x, target, **{**SIX_STEPS, "engine": "eager"})
    for _ in range(3):
        assert torch.equal(fast_targeted_pgd(model, x, target, **SIX_STEPS), expected)
    fast_targeted_pgd(lambda images: model(images), x, target, **SIX_STEPS)
    unfit = Reads(108, 5).cuda()
    for _ in range(3):
        fast_targeted_pgd(unfit, x, target, **SIX_STEPS)


def peak(function):
    """Bytes allocated at the worst moment of a call, beyond those before it."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = function()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize(("amp", "normalize"), [(None, None), (torch.bfloat16, NORMALIZE)])
def test_peak_memory_is_the_bare_models_and_four_batches(engine, amp, normalize):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).cuda().eval()
    model.requires_grad_(False)
    x, target = torch.rand(512, 3, 96, 96, device="cuda"), torch.zeros(512, dtype=torch.int64, device="cuda")

    def bare():
        leaf = x.detach().requires_grad_()
        with torch.autocast("cuda", amp, enabled=amp is not None):
            logits = model(leaf)
        return torch.autograd.grad(logits.float().sum(), leaf)

    attack = TargetedPGD(model, engine=engine, amp=amp, normalize=normalize, check=False, steps=4)
    attack(x[:2], target[:2])  # what libraries allocate once is not counted
    bare()
    limit = peak(bare) + 4 * x.nbytes + 2**23  # labels, logits and workspaces
    assert peak(lambda: attack(x, target)) <= limit
    assert peak(lambda: attack(x, target)) <= limit

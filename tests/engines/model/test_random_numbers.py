"""What a model draws during an attack: from a stream of the attack's own, and the caller's is not even touched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from attack_fixtures import another_thread
from torch import nn
from torch.utils.checkpoint import checkpoint

from fairtat import fast_targeted_pgd
from fairtat.engines.model import random_numbers

QUICK = {"eps": 0.1, "step_size": 0.03, "steps": 3}
CALLERS_SEED = 1234


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_gpus_own_generator_is_among_those_that_are_borrowed(monkeypatch, kind):
    of_gpus = tuple(torch.Generator() for _ in range(2))
    monkeypatch.setattr(getattr(torch, kind), "default_generators", of_gpus)
    images = SimpleNamespace(device=torch.device(kind, 1), get_device=lambda: 1)
    before = of_gpus[1].get_state()
    with random_numbers.borrowed_generators(images, 7):
        assert [generator.initial_seed() == 7 for generator in of_gpus] == [False, True]
    assert torch.equal(of_gpus[1].get_state(), before)


class Layer(nn.Module):
    """Applies a function to the images, and notes the seed of the default generator afterwards."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.seeds = []

    def forward(self, images):
        images = self.function(images)
        self.seeds.append(torch.initial_seed())
        return images


def attention(dropout):
    return lambda x: x + F.scaled_dot_product_attention(x, x, x, dropout_p=dropout)


def own_generator(x):
    return x + torch.rand(x.shape, generator=torch.Generator().manual_seed(0))


def noise(x):
    return x + 0.3 * torch.randn_like(x)


DRAWING = {
    "noise": noise,
    "dropout": lambda x: F.dropout(x, 0.3, training=True),
    "attention with dropout": attention(0.3),
    "fractional pooling": lambda x: x + F.interpolate(F.fractional_max_pool2d(x, 2, output_size=3), 6),
    "a checkpointed block": lambda x: checkpoint(noise, x, use_reentrant=False) + noise(x),
    "gumbel": lambda x: x * F.gumbel_softmax(x, dim=1),
    "a distribution": lambda x: x + torch.distributions.Normal(0.0, 0.1).sample(x.shape),
}
QUIET = {
    "nothing": lambda x: x,
    "dropout of nothing": lambda x: F.dropout(x, 0.3, training=False),
    "attention": attention(0.0),
    "a generator of its own": own_generator,
}


@pytest.mark.parametrize("name", DRAWING)
def test_a_model_that_draws_has_a_stream_of_its_own(h, name, company):
    x, _, target = h.images(6)
    model = nn.Sequential(Layer(DRAWING[name]), h.cnn())
    torch.manual_seed(CALLERS_SEED)
    state = torch.get_rng_state()
    found = []
    for seed in (3, 4, 3, 4):
        found.append(fast_targeted_pgd(model, x, target, seed=seed, **QUICK))
        assert torch.equal(torch.get_rng_state(), state)
        assert set(model[0].seeds) == {seed}  # from the first draw on
        model[0].seeds.clear()
    if company and name == "a checkpointed block":
        found[0] = found[2]  # recomputed from where it began, its first draw ever comes from the caller's stream
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", QUIET)
def test_no_generator_is_touched_for_a_model_that_draws_nothing(h, name):
    x, _, target = h.images(6)
    model = nn.Sequential(Layer(QUIET[name]), h.cnn())
    torch.manual_seed(CALLERS_SEED)
    with another_thread():
        for seed in range(3):
            fast_targeted_pgd(model, x, target, seed=seed, **QUICK)
    assert set(model[0].seeds) == {CALLERS_SEED}


def test_a_model_that_begins_to_draw_when_it_is_set_to_is_seen_at_once(h, company):
    class Noise(nn.Module):
        sigma = 0.0

        def forward(self, images):
            return images + self.sigma * torch.randn_like(images) if self.sigma else images

    x, _, target = h.images(6)
    model = nn.Sequential(Noise(), h.cnn())
    quiet = fast_targeted_pgd(model, x, target, seed=3, **QUICK)
    model[0].sigma = 0.3
    state = torch.get_rng_state()
    first, again = (fast_targeted_pgd(model, x, target, seed=3, **QUICK) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    model[0].sigma = 0.0
    assert torch.equal(fast_targeted_pgd(model, x, target, seed=3, **QUICK), quiet)


def test_a_model_that_begins_to_draw_for_reasons_of_its_own_is_seen_at_the_second_attack(h, company):
    calls = []

    def seldom(images):
        calls.append(images)
        return noise(images) if len(calls) > QUICK["steps"] else images

    x, _, target = h.images(6)
    model = nn.Sequential(Layer(seldom), h.cnn())
    for _ in range(2 if company else 1):
        fast_targeted_pgd(model, x, target, seed=3, **QUICK)
    state = torch.get_rng_state()
    first, again = (fast_targeted_pgd(model, x, target, seed=3, **QUICK) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)


def test_a_callable_may_be_another_one_at_every_attack(h, company):
    x, _, target = h.images(6)
    inner = h.cnn().eval()
    state = torch.get_rng_state()
    fast_targeted_pgd(lambda images: inner(images), x, target, seed=3, **QUICK)
    first, again = (fast_targeted_pgd(lambda images: inner(noise(images)), x, target, seed=3, **QUICK) for _ in "ab")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_model_that_draws_stays_compiled(h, backend, company):
    torch._dynamo.reset()
    x, _, target = h.images(6)
    inner = h.cnn().eval()
    model = torch.compile(nn.Sequential(Layer(noise), inner), backend=backend)
    state = torch.get_rng_state()
    first, again = (fast_targeted_pgd(model, x, target, seed=3, **QUICK) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, fast_targeted_pgd(inner, x, target, seed=3, **QUICK))
    torch._dynamo.reset()


def test_an_operation_of_others_is_believed_to_draw_until_it_has_not(h):
    drawing, seeds = [True], []

    @torch.library.custom_op("fairtat_test::perhaps_noise", mutates_args=())
    def perhaps_noise(images: torch.Tensor) -> torch.Tensor:
        seeds.append(torch.initial_seed())
        return torch.rand_like(images) if drawing[0] else torch.zeros_like(images)

    x, _, target = h.images(6)
    model = nn.Sequential(Layer(lambda images: images + perhaps_noise(images.detach())), h.cnn())
    torch.manual_seed(CALLERS_SEED)
    state = torch.get_rng_state()
    with another_thread():
        first, again = (fast_targeted_pgd(model, x, target, seed=3, **QUICK) for _ in range(2))
        assert torch.equal(first, again)
        drawing[0] = False
        for _ in range(2):  # the first of which finds out
            seeds.clear()
            fast_targeted_pgd(model, x, target, seed=3, **QUICK)
    assert set(seeds) == {CALLERS_SEED}
    assert torch.equal(torch.get_rng_state(), state)


def test_a_branch_that_is_an_operation_of_its_own(h, company):
    """A higher-order operator, of which a dispatch mode has to know."""

    def branch(images):
        return torch.cond(images.sum() > 0, lambda v: v + 0.3 * torch.randn_like(v), lambda v: v.clone(), (images,))

    torch._dynamo.reset()
    x, _, target = h.images(6)
    model = nn.Sequential(Layer(branch), h.cnn())
    state = torch.get_rng_state()
    first, again = (fast_targeted_pgd(model, x, target, seed=3, **QUICK) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)


def test_where_others_draw_all_the_time_looks_become_seldom():
    habit, looks = random_numbers._DrawHistory(), []
    for attack in range(40):
        looked = habit.draws is None
        if looked:
            looks.append(attack)
        habit.learn(looked, borrowed=False, moved=True)
    assert looks == [0, 2, 5, 10, 19, 36]

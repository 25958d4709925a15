"""A function that watches an attack sees every image on its way, and changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairtat import EngineFallback, fast_mixed_pgd, fast_pgd, fast_targeted_pgd

OPTIONS = {"eps": 0.1, "step_size": 0.03, "seed": 3}


class Seen:
    def __init__(self):
        self.way = []

    def __call__(self, step, x_adv, logits):
        assert not logits.requires_grad
        if step == 0:
            self.way.clear()
        assert step == len(self.way)
        self.way.append((x_adv.clone(), logits.clone()))


@pytest.mark.parametrize("more", [{}, {"momentum": 0.9}, {"norm": "l2", "eps": 0.7}, {"return_info": True}], ids=str)
def test_it_sees_the_start_and_what_all_steps_but_the_last_make(h, more):
    model, (x, y, target) = h.cnn().eval(), h.images(7)
    options = {**OPTIONS, **more}
    seen = Seen()
    found = fast_targeted_pgd(model, x, target, y=y, steps=4, watch=seen, **options)
    plain = fast_targeted_pgd(model, x, target, y=y, steps=4, engine="eager", **options)
    both = (found.x_adv, plain.x_adv) if "return_info" in more else (found, plain)
    assert torch.equal(*both)
    assert len(seen.way) == 4
    for steps, (x_adv, logits) in enumerate(seen.way):  # a shorter attack ends where the longer one passes
        shorter = fast_targeted_pgd(model, x, target, steps=steps, **{**options, "return_info": True})
        assert torch.equal(x_adv, shorter.x_adv)
        torch.testing.assert_close(logits, shorter.logits)


def test_every_form_of_the_attack_is_watched(h):
    model, (x, y, target) = h.cnn(), h.images(5)
    targeted = torch.tensor([True, False, True, False, False])
    seen = [Seen(), Seen(), Seen()]
    fast_pgd(model, x, y, watch=seen[0], normalize=((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)), **OPTIONS)
    fast_mixed_pgd(model, x, torch.where(targeted, target, y), targeted, watch=seen[1], eot=2, **OPTIONS)
    fast_pgd(model, x[:0], y[:0], watch=seen[2], **OPTIONS)
    assert [len(one.way) for one in seen] == [10, 10, 0]
    assert all(float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1 for x_adv, _ in seen[0].way)


def test_a_model_that_overwrites_its_input_late_begins_anew(h):
    class Late(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            logits = x.flatten(1)[:, :5] * 3
            if self.calls == 3:
                x.data.zero_()
                x.detach().add_(0)
            return logits

    model, (x, y, _), seen = Late(), h.images(4), Seen()
    fast_pgd(model, x, y, steps=5, watch=seen, **OPTIONS)
    assert model.calls == 3 + 5
    assert len(seen.way) == 5


@pytest.mark.parametrize("engine", ["compiled", "graph"])
def test_other_engines_leave_it_to_the_eager_one(h, stub, compiles, engine):
    model, (x, y, _) = h.cnn(), h.images(4)
    with pytest.warns(EngineFallback, match="its steps are watched"):
        fast_pgd(model, x, y, engine=engine, watch=Seen(), **OPTIONS)
    assert compiles == []
    assert stub.captures == 0


def test_the_model_survives_a_watcher_that_fails(h):
    def fails(step, x_adv, logits):
        raise KeyError("mine")

    model, (x, y, _) = h.cnn(), h.images(3)
    before = h.snapshot(model)
    with pytest.raises(KeyError, match="mine"):
        fast_pgd(model, x, y, watch=fails)
    assert h.same(h.snapshot(model), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"watch": 3}, TypeError, "watch must be a function of step, x_adv and logits, or None, got 3"),
        ({"watch": Seen(), "restarts": 2}, ValueError, "restarts must be 1 where watch is given, got 2"),
        ({"watch": Seen(), "early_stop": True}, ValueError, "early_stop must be False where watch is given, got True"),
        ({"watch": Seen(), "chunk_size": 2}, ValueError, "chunk_size must be None where watch is given, got 2"),
    ],
)
def test_what_cannot_be_watched(h, options, error, message):
    model, (x, y, _) = h.cnn(), h.images(3)
    with pytest.raises(error, match=message):
        fast_pgd(model, x, y, **options)

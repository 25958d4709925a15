"""Options that no attack can have: each refusal names the argument, what came and what was expected."""

from __future__ import annotations

import inspect
from fractions import Fraction

import numpy as np
import pytest
import torch

from fairtat import autoattack, fast_mixed_pgd, fast_pgd, fast_targeted_pgd
from fairtat.attacks import apgd, deepfool, fab, multi_targeted_pgd, square
from fairtat.attacks.autoattack.calls import CallKeywords
from fairtat.attacks.options import OPTIONS, PGDKeywords

BAD = [
    ({"eps": -0.1}, ValueError, r"eps must be finite and at least 0, got -0\.1"),
    ({"eps": float("nan")}, ValueError, "eps must be finite and at least 0, got nan"),
    ({"eps": float("inf")}, ValueError, "eps must be finite and at least 0, got inf"),
    ({"eps": "8/255"}, TypeError, r"eps must be a number or a tensor \(N,\), got str"),
    ({"eps": None}, TypeError, "eps must be a number .* got NoneType"),
    ({"step_size": -1}, ValueError, "step_size must be finite and at least 0, got -1"),
    ({"step_size": [0.1, 0.1]}, TypeError, "step_size must be a number .* got list"),
    ({"steps": -1}, ValueError, "steps must be at least 0, got -1"),
    ({"steps": 2.5}, TypeError, "steps must be an int, got float"),
    ({"steps": True}, TypeError, "steps must be an int, got bool"),
    ({"restarts": 0}, ValueError, "restarts must be at least 1, got 0"),
    ({"restarts": 2**32}, ValueError, r"restarts must be less than 2\*\*32"),
    ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1, got 0"),
    ({"chunk_size": "all"}, TypeError, "chunk_size must be an int, got str"),
    ({"norm": "Linf"}, ValueError, "norm must be one of 'linf', 'l2', 'l1', got 'Linf'; did you mean 'linf'"),
    ({"norm": 2}, TypeError, "norm must be one of 'linf', 'l2', 'l1', got int"),
    ({"loss": "cross_entropy"}, ValueError, "loss must be one of 'ce', 'margin', 'dlr', got 'cross_entropy'"),
    ({"loss": "kl"}, ValueError, "loss must be one of 'ce', 'margin', 'dlr', got 'kl'"),
    ({"init": "unifrom"}, ValueError, "init must be .* got 'unifrom'; did you mean 'uniform'"),
    ({"init": 0}, TypeError, "init must be .* or a tensor, the starting x_adv, got int"),
    ({"bn_mode": "frozen"}, ValueError, "bn_mode must be one of 'eval', 'train', 'train_frozen_stats', got 'frozen'"),
    ({"backend": "gpu"}, ValueError, "backend must be .* got 'gpu'"),
    ({"backend": "cuda"}, ValueError, "backend='cuda' (is not available|cannot run)"),
    ({"engine": "eagre"}, ValueError, "engine must be .* got 'eagre'; did you mean 'eager'"),
    ({"engine_check": "alway"}, ValueError, "engine_check must be .* got 'alway'; did you mean 'always'"),
    ({"engine_check": True}, TypeError, "engine_check must be one of 'first', 'always', 'off', got bool"),
    ({"bounds": (1.0, 0.0)}, ValueError, "bounds must be .* low < high"),
    ({"bounds": 1.0}, TypeError, "bounds must be two numbers"),
    ({"seed": 1.0}, TypeError, "seed must be an int, got float"),
    ({"seed": 2**64}, ValueError, r"seed must lie in \[-2\*\*63, 2\*\*64\)"),
    ({"amp": torch.float32}, ValueError, r"amp must be None, torch\.bfloat16 or torch\.float16, got torch\.float32"),
    ({"amp": "bf16"}, TypeError, "amp must be None, .* got 'bf16'"),
    ({"early_stop": "yes"}, TypeError, "early_stop must be True or False, got 'yes'"),
    ({"extra_steps": 2}, ValueError, "extra_steps .* need early_stop=True, got 2"),
    ({"extra_steps": -1, "early_stop": True}, ValueError, "extra_steps must be at least 0, got -1"),
    ({"extra_steps": 1.5, "early_stop": True}, TypeError, "extra_steps must be an int, got float"),
    ({"check": None}, TypeError, "check must be True or False, got None"),
    ({"return_info": 1}, TypeError, "return_info must be True or False, got 1"),
    ({"normalize": 0.5}, TypeError, r"normalize must be a pair \(mean, std\), got 0\.5"),
    ({"normalize": (0.5, 0.5, 0.5)}, TypeError, r"normalize must be a pair \(mean, std\)"),
    ({"normalize": ([0.5] * 3, [0.1, 0.0, 0.1])}, ValueError, "normalize: std must be finite and positive"),
    ({"normalize": ([float("nan")] * 3, [0.1] * 3)}, ValueError, "normalize: mean must be finite"),
    ({"normalize": ("abc", [0.1] * 3)}, TypeError, "normalize: mean must be numbers"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[str(row[0])[1:-1] for row in BAD])
def test_bad_options_are_refused_before_the_model_is_called(h, options, error, message):
    x, y, target = h.images(3)

    def model(images):
        raise AssertionError("called")

    with pytest.raises(error, match=message):
        fast_targeted_pgd(model, x, target, y=y, **options)


def test_the_untargeted_attack_lists_kl_among_its_losses(h):
    x, y, _ = h.images(3)
    with pytest.raises(ValueError, match="loss must be one of 'ce', 'margin', 'dlr', 'kl', got 'klx'"):
        fast_pgd(h.cnn(), x, y, loss="klx")


@pytest.mark.parametrize(
    ("eps", "step_size", "seed"),
    [
        (np.float64(0.125), torch.tensor(0.02), np.int64(5)),
        (np.float32(0.125), np.float64(0.02), np.uint8(5)),
        (Fraction(1, 8), 0.02, np.uint64(5)),
        (torch.tensor(0.125), 0.02, 5),
    ],
)
@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_numbers_of_other_kinds_are_taken(h, eps, step_size, seed, engine):
    model, (x, _, target) = h.cnn(), h.images(3)
    common = {"init": "uniform", "engine": engine}
    x_adv = fast_targeted_pgd(model, x, target, eps=eps, step_size=step_size, steps=np.int64(2), seed=seed, **common)
    plain = fast_targeted_pgd(model, x, target, eps=0.125, step_size=0.02, steps=2, seed=5, **common)
    assert torch.equal(x_adv, plain)


def test_open_bounds(h):
    model, (x, _, target) = h.cnn(), h.images(3)
    x = x * 10 - 5
    x_adv = fast_targeted_pgd(model, x, target, eps=3.0, bounds=(-float("inf"), float("inf")), seed=0, steps=1)
    assert x_adv.min() < x.min() - 1


def test_the_keywords_are_the_options():
    """Options are spelled twice, for type checkers and with their defaults: by the same names and types, in order."""
    options = {field.name: field.type for field in OPTIONS if field.name != "return_info"}
    keywords = {name: hint.__forward_arg__ for name, hint in PGDKeywords.__annotations__.items()}
    assert list(options.items()) == list(keywords.items())


@pytest.mark.parametrize("call", [apgd, fab, square, autoattack, deepfool, multi_targeted_pgd])
def test_a_signature_of_autoattack_names_every_option_with_its_type(call):
    parameters = inspect.signature(call).parameters
    assert {"eps", "norm", *CallKeywords.__annotations__} <= parameters.keys()
    assert all(isinstance(p.annotation, str) and p.kind is not p.VAR_KEYWORD for p in parameters.values())


@pytest.mark.parametrize("call", [fast_targeted_pgd, fast_pgd, fast_mixed_pgd])
def test_a_signature_names_every_option(call):
    parameters = inspect.signature(call).parameters.values()
    assert {p.name for p in parameters} >= {field.name for field in OPTIONS}
    assert all(p.kind is not p.VAR_KEYWORD for p in parameters)
    arguments = 3 if call is fast_mixed_pgd else 2
    with pytest.raises(TypeError, match="'step' is not an option of the attack; did you mean 'steps'"):
        call(None.__class__, *[torch.zeros(1)] * arguments, step=3)

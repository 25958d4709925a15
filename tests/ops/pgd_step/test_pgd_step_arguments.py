"""What pgd_step_ refuses, and what may and may not share memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_calls import BACKENDS
from pairwise import pairwise
from torch import Tensor

from fairtat.ops import pgd_step_

SameBits = Callable[[Tensor, Tensor], None]
INF, NAN = float("inf"), float("nan")


def images(**options: Any) -> Tensor:
    return torch.full((2, 3, 4, 4), 0.5, **options)


BAD = {
    "x_adv a list": ({"x_adv": [[0.5]]}, TypeError, "x_adv must be a tensor, got list"),
    "x_adv in bfloat16": (
        {"x_adv": images(dtype=torch.bfloat16)}, TypeError, "x_adv must be float32 or float64, got bf",
    ),
    "x_adv without a batch": ({"x_adv": torch.rand(3)}, ValueError, "x_adv must have a batch"),
    "x_adv sliced": ({"x_adv": torch.rand(2, 3, 8, 4)[:, :, ::2]}, ValueError, "x_adv must be dense with the batch"),
    "x_adv expanded": ({"x_adv": torch.rand(1, 3, 4, 4).expand(2, 3, 4, 4)}, ValueError, "x_adv must be dense"),
    "grad missing": ({"grad": None}, TypeError, "grad must be a tensor, got NoneType"),
    "grad of integers": (
        {"grad": images().long()}, TypeError, "grad must be float32 or bfloat16 or float16, got int64",
    ),
    "grad in float64": ({"grad": images(dtype=torch.float64)}, TypeError, "grad must be float32 .*, got float64"),
    "grad of another shape": (
        {"grad": torch.rand(2, 3, 4, 5)}, ValueError, r"grad must have shape \(2, 3, 4, 4\), got",
    ),
    "grad of another format": (
        {"grad": images().contiguous(memory_format=torch.channels_last)}, ValueError,
        "grad must have the memory format of x_adv .*call .contiguous",
    ),
    "grad expanded": (
        {"grad": torch.ones(()).expand(2, 3, 4, 4)}, ValueError, "grad must have the memory format of x_adv",
    ),
    "grad elsewhere": (
        {"grad": images(device="meta")}, ValueError, r"grad must be on the device of x_adv \(cpu\), got",
    ),
    "x in another dtype": ({"x": images(dtype=torch.float64)}, TypeError, "x must be float32, got float64"),
    "x of another shape": ({"x": torch.rand(2, 48)}, ValueError, "x must have shape"),
    "x elsewhere": ({"x": images(device="meta")}, ValueError, "x must be on the device of x_adv"),
    "eps negative": ({"eps": -1e-9}, ValueError, "eps must be finite and at least 0, got -1e-09"),
    "eps beyond float32": ({"eps": 1e39}, ValueError, r"eps must be finite and at least 0 in float32, got 1e\+39"),
    "eps huge": ({"eps": 10**400}, ValueError, "eps must be finite and at least 0 in float32, got an int of 1329 bits"),
    "eps hugely negative": ({"eps": -(10**5000)}, ValueError, "eps must .*, got a negative int of 16610 b"),
    "eps sparse": ({"eps": torch.ones(2).to_sparse()}, TypeError, "eps must be a dense tensor, got torch.sparse_coo"),
    "eps nan": ({"eps": NAN}, ValueError, "eps must be finite and at least 0, got nan"),
    "eps inf": ({"eps": INF}, ValueError, "eps must be finite and at least 0, got inf"),
    "eps for another batch": ({"eps": torch.rand(3)}, ValueError, r"eps must have shape \(2,\), got \(3,\)"),
    "eps missing": ({"eps": None}, TypeError, "eps must be a number or a tensor"),
    "step negative": ({"step_size": -0.1}, ValueError, "step_size must be finite and at least 0, got -0.1"),
    "step beyond float32": ({"step_size": 1e39}, ValueError, r"step_size must be finite .* in float32, got 1e\+39"),
    "step huge": ({"step_size": 10**400}, ValueError, "step_size must be finite and at least 0 in float32, got an int"),
    "step nan": ({"step_size": NAN}, ValueError, "step_size must be finite"),
    "step for another batch": ({"step_size": torch.rand(2, 1)}, ValueError, r"step_size must have shape \(2,\), got"),
    "targeted a number": ({"targeted": 1}, TypeError, "targeted must be True, False or a tensor .N,., got int"),
    "targeted of integers": ({"targeted": torch.ones(2).long()}, TypeError, "targeted must be bool, got int64"),
    "targeted for another batch": (
        {"targeted": torch.ones(3).bool()}, ValueError, r"targeted must have shape \(2,\), got \(3,\)",
    ),
    "targeted by pixel": (
        {"targeted": torch.ones(2, 1).bool()}, ValueError, r"targeted must have shape \(2,\), got \(2, 1\)",
    ),
    "targeted elsewhere": (
        {"targeted": torch.ones(2).bool().to("meta")}, ValueError, "targeted must be on the device of x_adv",
    ),
    "norm unknown": ({"norm": "l-2"}, ValueError, "norm must be one of .*'l-2'; did you mean 'l2'"),
    "bounds reversed": ({"bounds": (1, 0)}, ValueError, "bounds must be .* with low < high"),
    "bounds beyond float32": (
        {"bounds": (0, 1e39)}, ValueError, r"bounds must be float32 numbers, or infinite for none, got \(0, 1e\+39\)",
    ),
    "bounds below float32": ({"bounds": (-1e39, 1)}, ValueError, "bounds must be float32 numbers, or infinite"),
    "bounds huge": ({"bounds": (0, 10**400)}, ValueError, r"bounds must be float32 numbers, got \(0, an int of"),
    "bounds nan": ({"bounds": (0, NAN)}, ValueError, "bounds must be .* with low < high"),
    "bounds of one": ({"bounds": (0,)}, TypeError, "bounds must be two numbers"),
    "x_adv sparse": ({"x_adv": images().to_sparse()}, TypeError, "x_adv must be a dense tensor, got torch.sparse_coo"),
    "grad sparse": ({"grad": images().to_sparse()}, TypeError, "grad must be a dense tensor, got torch.sparse_coo"),
    "x blocked": ({"x": images().to_mkldnn()}, TypeError, "x must be a dense tensor, got torch._mkldnn"),
    "zero_grad sparse": (
        {"zero_grad": torch.arange(2).to_sparse()}, TypeError, "zero_grad must be a dense tensor, got torch.sparse_coo",
    ),
    "mean sparse": (
        {"model_input": images(), "mean": torch.ones(3).to_sparse(), "std": [1.0] * 3}, TypeError,
        "mean must be a dense tensor, got torch.sparse_coo",
    ),
    "mean nan": ({"model_input": images(), "mean": [NAN] * 3, "std": [1.0] * 3}, ValueError, "mean must be finite"),
    "mean beyond float32": (
        {"model_input": images(), "mean": [-1e39] * 3, "std": [1.0] * 3}, ValueError,
        r"mean must be finite in float32, got -1e\+39",
    ),
    "std huge": (
        {"model_input": images(), "mean": [0.0] * 3, "std": [10**400] * 3}, ValueError,
        "std must be finite, got an int of 1329 bits",
    ),
    "std of words": (
        {"model_input": images(), "mean": [0.0] * 3, "std": "abc"}, TypeError, "std must be numbers or a tensor",
    ),
    "mean of nothing": (
        {"model_input": images(), "mean": [None] * 3, "std": [1.0] * 3}, TypeError, "mean must be numbers or a tensor",
    ),
    "model_input of another format": (
        {"model_input": images().contiguous(memory_format=torch.channels_last)}, ValueError,
        "model_input must have the memory format of x_adv",
    ),
    "model_input of another shape": (
        {"model_input": torch.rand(2, 3, 4, 1)}, ValueError, "model_input must have shape",
    ),
    "model_input in uint8": ({"model_input": images().byte()}, TypeError, "model_input must be float32 .*, got uint8"),
    "mean alone": ({"model_input": images(), "mean": [0.0] * 3}, ValueError, "mean and std must be given together"),
    "std alone": ({"model_input": images(), "std": [1.0] * 3}, ValueError, "mean and std must be given together"),
    "mean without model_input": ({"mean": [0.0] * 3, "std": [1.0] * 3}, ValueError, "mean and std need model_input"),
    "mean for other channels": (
        {"model_input": images(), "mean": [0.0] * 2, "std": [1.0] * 3}, ValueError,
        r"mean must have one value for each of the 3 channels, got \(2,\)",
    ),
    "std for other channels": (
        {"model_input": images(), "mean": [0.0] * 3, "std": torch.ones(3, 1)}, ValueError, "std must have one value",
    ),
    "zero_grad of another type": ({"zero_grad": torch.zeros(2)}, TypeError, "zero_grad must be int64, got float32"),
    "zero_grad for another batch": (
        {"zero_grad": torch.arange(3)}, ValueError, r"zero_grad must have shape \(2,\), got",
    ),
    "zero_grad strided": ({"zero_grad": torch.arange(4)[::2]}, ValueError, "zero_grad must be contiguous"),
    "backend unknown": ({"backend": "c++"}, ValueError, "backend must be 'auto' or one of .*'c\\+\\+'"),
    "backend absent": ({"backend": "triton"}, ValueError, "backend='triton' is not available"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named_and_changes_nothing(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"x_adv": images(), "grad": torch.ones(2, 3, 4, 4), "x": images(), "eps": 0.1, "step_size": 0.1}
    arguments.update(change)
    positional = [arguments.pop(name) for name in ("x_adv", "grad", "x", "eps", "step_size")]
    with pytest.raises(error, match=message):
        pgd_step_(*positional, **arguments)
    if "x_adv" not in change:
        assert bool((positional[0] == 0.5).all())


def test_float64_images_need_the_reference() -> None:
    x = images(dtype=torch.float64)
    with pytest.raises(ValueError, match=r"backend='cpu' (cannot run pgd_step here: float64|is not available)"):
        pgd_step_(x.clone(), x, x, 0.1, 0.1, backend="cpu")


@pytest.mark.parametrize("name", ["grad", "x"])
def test_x_adv_may_not_be_an_input_too(name: str) -> None:
    x_adv, other = images(), images()
    arguments = {"grad": other, "x": other, name: x_adv}
    with pytest.raises(ValueError, match=f"{name} must not be x_adv itself"):
        pgd_step_(x_adv, arguments["grad"], arguments["x"], 0.1, 0.1)


def rolled(t: Tensor, elements: int) -> Tensor:
    """A tensor like ``t`` that begins ``elements`` later in one memory with it."""
    memory = torch.zeros(t.numel() * 2, dtype=t.dtype)
    t.set_(memory.untyped_storage(), 0, t.shape, t.stride())
    return memory.as_strided(t.shape, t.stride(), elements)


# Elements of 96.
@pairwise("backend", backend=BACKENDS, name=("grad", "x", "model_input"), elements=(1, 47, 95))
def test_what_is_written_shares_no_memory(backend: str, name: str, elements: int) -> None:
    x_adv = images()
    arguments: dict[str, Any] = {
        "grad": images(),
        "x": images(),
        "model_input": images(),
        name: rolled(x_adv, elements),
    }
    x_adv.fill_(0.5)
    with pytest.raises(
        ValueError, match=f"{name} must not share memory with x_adv, which is overwritten; pass a clone"
    ):
        pgd_step_(x_adv, eps=0.1, step_size=0.1, **arguments, backend=backend)
    assert bool((x_adv == 0.5).all())


@pytest.mark.parametrize("name", ["grad", "x"])
def test_the_model_input_shares_no_memory_with_what_is_read(backend: str, name: str) -> None:
    shared = images()
    arguments: dict[str, Any] = {"grad": images(), "x": images(), name: shared}
    with pytest.raises(ValueError, match=f"{name} must not share memory with model_input"):
        pgd_step_(images(), eps=0.1, step_size=0.1, model_input=shared.view(shared.shape), **arguments, backend=backend)


@pytest.mark.parametrize("name", ["eps", "step_size", "mean", "std"])
def test_radii_and_channel_values_share_no_memory_with_what_is_written(backend: str, name: str) -> None:
    x_adv = images()
    inside = x_adv.view(-1)[-(2 if name in ("eps", "step_size") else 3) :]
    arguments: dict[str, Any] = {"eps": 0.1, "step_size": 0.1, "mean": [0.0] * 3, "std": [1.0] * 3, name: inside}
    with pytest.raises(ValueError, match=f"{name} must not share memory with x_adv"):
        pgd_step_(x_adv, images(), images(), model_input=images(), **arguments, backend=backend)


def test_neighbours_in_one_memory_and_inputs_that_share_theirs_are_served(backend: str, same_bits: SameBits) -> None:
    x_adv, grad, x = torch.rand(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = pgd_step_(x_adv.clone(), x, x, 0.1, 0.1, backend=backend)
    both = torch.stack([x_adv, grad])
    same_bits(pgd_step_(both[0], x, x, 0.1, 0.1, model_input=both[1], backend=backend), expected)

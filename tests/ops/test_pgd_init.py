"""pgd_init against Philox in numpy and the formulas in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from layouts import LAYOUTS
from op_calls import BACKENDS
from pairwise import pairwise
from philox_vectors import KNOWN
from torch import Tensor

from fairtat.ops import pgd_init

ElementWords = Callable[[int, int, Sequence[int], int], np.ndarray]

SHAPES = [
    (1, 1),
    (2, 1, 1, 1),
    (3, 5),
    (2, 3, 4),
    (1, 3, 5, 5),
    (3, 3, 33, 31),
    (2, 2, 3, 1, 4, 2),
    (2, 3, 67, 65),
    (9, 2, 3),
]
IDS = (0, 1, -1, 2**32, 2**32 + 7, -(2**63), 2**63 - 1)
SEEDS = (0, 12345, -1, -(2**63), 2**63, 2**64 - 1)


def uniform(words: np.ndarray, dtype: type = np.float32) -> np.ndarray:
    """u ~ U[-1, 1) from 32-bit words, exact in either precision."""
    return ((words >> np.uint64(8)).astype(dtype) * dtype(2.0**-23) - dtype(1)).astype(dtype)


def uniform_start(
    x: Tensor, words: np.ndarray, eps: float | Tensor, bounds: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """clip(x + eps*u) in x's own precision, with D in logical order."""
    image = x.numpy()
    number = image.dtype.type
    radius = eps.numpy().astype(number).reshape(-1, *[1] * (x.ndim - 1)) if isinstance(eps, Tensor) else number(eps)
    start = image + radius * uniform(words, number).reshape(image.shape)
    return torch.from_numpy(np.clip(start, number(bounds[0]), number(bounds[1])))


def normals(words: np.ndarray) -> np.ndarray:
    """Box-Muller in float64 on lanes (0, 1) and (2, 3); the words are padded to whole counters."""
    u1 = ((words[:, 0::2] >> np.uint64(8)).astype(float) + 1) * 2.0**-24
    u2 = (words[:, 1::2] >> np.uint64(8)).astype(float) * 2.0**-24
    radius = np.sqrt(-2 * np.log(u1))
    pairs = np.stack((radius * np.cos(2 * np.pi * u2), radius * np.sin(2 * np.pi * u2)), axis=-1)
    return pairs.reshape(len(words), -1)


def ids_of(n: int) -> list[int]:
    return [IDS[i % len(IDS)] + (i // len(IDS)) for i in range(n)]


@KNOWN
def test_the_oracle_meets_the_published_vectors(
    philox: Callable[[np.ndarray, int], np.ndarray], counter: tuple[int, ...], key: int, expected: tuple[int, ...]
) -> None:
    # What every other test of this file rests on.
    assert philox(np.array(counter, dtype=np.uint64), key).tolist() == list(expected)


@pairwise("threads", shape=SHAPES, per_sample=(False, True), threads=(1, 3))
def test_uniform_is_the_equation_to_the_last_bit(
    backend: str, element_words: ElementWords, shape: tuple[int, ...], per_sample: bool, threads: int
) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    n, ids = shape[0], ids_of(shape[0])
    eps = torch.linspace(0.0, 0.3, n) if per_sample else 8 / 255
    start = pgd_init(x, eps, seed=77, sample_ids=torch.tensor(ids), backend=backend)
    expected = uniform_start(x, element_words(x[0].numel(), 0, ids, 77), eps)
    torch.testing.assert_close(start, expected, rtol=0, atol=0)


def test_every_memory_format_gets_the_same_noise(
    backend: str, element_words: ElementWords, layout: Callable[[Tensor], Tensor]
) -> None:
    x = layout(torch.rand(5, 3, 7, 9, generator=torch.Generator().manual_seed(2)))
    start = pgd_init(x, 0.1, seed=3, backend=backend)
    assert start.stride() == x.stride()
    torch.testing.assert_close(start, uniform_start(x, element_words(189, 0, range(5), 3), 0.1), rtol=0, atol=0)


@pairwise("layout", layout=LAYOUTS, init=("uniform", "normal", "zero"), norm=("linf", "l2"))
def test_memory_format_changes_no_value_of_any_start(
    backend: str, layout: Callable[[Tensor], Tensor], init: str, norm: str
) -> None:
    x = torch.rand(4, 2, 9, 5, generator=torch.Generator().manual_seed(2))
    options: dict[str, Any] = {"seed": 5, "init": init, "norm": norm, "backend": backend}
    torch.testing.assert_close(pgd_init(layout(x), 0.2, **options), pgd_init(x, 0.2, **options), rtol=0, atol=0)


def test_float64_images_get_the_same_noise_in_their_precision(element_words: ElementWords) -> None:
    x = torch.rand(3, 2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = uniform_start(x, element_words(30, 0, range(3), 9), 0.05)
    torch.testing.assert_close(pgd_init(x, 0.05, seed=9), expected, rtol=0, atol=0)


@pairwise("backend", backend=BACKENDS, seed=SEEDS, stream=(0, 1, 2**32 - 1))
def test_every_bit_of_seed_and_stream_counts(backend: str, element_words: ElementWords, seed: int, stream: int) -> None:
    x = torch.full((2, 6), 0.5)
    start = pgd_init(x, 0.25, seed=seed, stream=stream, backend=backend)
    torch.testing.assert_close(start, uniform_start(x, element_words(6, stream, range(2), seed), 0.25), rtol=0, atol=0)


def test_negative_seeds_name_the_same_key_as_their_twos_complement(backend: str) -> None:
    x = torch.full((2, 6), 0.5)
    ours, theirs = (pgd_init(x, 0.25, seed=seed, backend=backend) for seed in (-3, 2**64 - 3))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("init", ["uniform", "normal", "zero"])
def test_a_sample_gets_the_same_start_in_any_batch(backend: str, init: str, norm: str) -> None:
    x = torch.rand(7, 3, 5, 3, generator=torch.Generator().manual_seed(4))
    ids, eps = torch.tensor(IDS), torch.linspace(0.01, 0.2, 7)

    def start(rows: Tensor) -> Tensor:
        return pgd_init(
            x[rows], eps[rows], seed=-8, sample_ids=ids[rows], stream=3, init=init, norm=norm, backend=backend
        )

    whole, shuffled = start(torch.arange(7)), torch.tensor([6, 0, 3, 1, 5, 2, 4])
    torch.testing.assert_close(start(shuffled), whole[shuffled], rtol=0, atol=0)
    pieces = [start(rows) for rows in torch.arange(7).split([1, 4, 2])]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=0)


def test_default_ids_count_from_zero(backend: str) -> None:
    x = torch.full((3, 4), 0.5)
    given = pgd_init(x, 0.1, seed=1, sample_ids=torch.arange(3), backend=backend)
    torch.testing.assert_close(pgd_init(x, 0.1, seed=1, backend=backend), given, rtol=0, atol=0)


@pairwise("backend", backend=BACKENDS, shape=[(4, 1), (3, 2), (2, 3, 11, 7), (3, 1, 1030)], eps=(0.0, 1e-4, 2e-3, 0.5))
def test_normal_is_trades_start_kept_in_the_linf_ball(
    backend: str, element_words: ElementWords, shape: tuple[int, ...], eps: float
) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(5))
    d = x[0].numel()
    z = normals(element_words(-(-d // 4) * 4, 2, range(shape[0]), 6))[:, :d].reshape(shape)
    offset = np.clip(1e-3 * z, -eps, eps)
    expected = torch.from_numpy(np.clip(x.double().numpy() + offset, 0, 1))
    start = pgd_init(x, eps, seed=6, stream=2, init="normal", backend=backend)
    torch.testing.assert_close(start.double(), expected, rtol=1e-5, atol=1e-6)
    assert bool(((start - x).abs() <= eps + 6e-8).all())


@pytest.mark.parametrize("init", ["uniform", "normal"])
@pytest.mark.parametrize("shape", [(4, 1), (5, 3), (3, 3, 11, 7), (9, 2000)], ids=str)
def test_l2_starts_are_the_formula_in_float64(
    backend: str,
    element_words: ElementWords,
    philox: Callable[[np.ndarray, int], np.ndarray],
    init: str,
    shape: tuple[int, ...],
    threads: int,
) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(6))
    n, d = shape[0], x[0].numel()
    eps = torch.linspace(1e-3, 1.5, n)
    z = normals(element_words(-(-d // 4) * 4, 0, range(n), 11))[:, :d]
    length = np.linalg.norm(z, axis=1)
    if init == "uniform":
        counter = np.array([[0xFFFFFFFE, 0, i, 0] for i in range(n)], dtype=np.uint64)
        u = ((philox(counter, 11)[:, 0] >> np.uint64(8)).astype(float) + 1) * 2.0**-24
        scale = eps.numpy() * u ** (1 / d) / length
    else:
        scale = np.minimum(1e-3, eps.numpy() / length)
    expected = np.clip(x.double().numpy() + (z * scale[:, None]).reshape(shape), -0.5, 1.25)
    start = pgd_init(x, eps, seed=11, init=init, norm="l2", bounds=(-0.5, 1.25), backend=backend)
    torch.testing.assert_close(start.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    # The budget, up to the rounding of d sums x + offset.
    assert bool(((start - x).flatten(1).norm(dim=1) <= eps + 6e-8 * d**0.5).all())


def test_l2_uniform_fills_the_ball_evenly(backend: str) -> None:
    n, d = 4000, 6
    offset = pgd_init(torch.zeros(n, d), 2.0, seed=1, norm="l2", bounds=(-9.0, 9.0), backend=backend).double() / 2.0
    # Radius to the power d is uniform on [0, 1]: Kolmogorov-Smirnov at a level of about 1e-6.
    volume = offset.norm(dim=1).pow(d).sort().values
    assert float((volume - (torch.arange(n) + 0.5) / n).abs().max()) < 2.7 / n**0.5
    # No direction is preferred: E[x] = 0 and E[x x^T] = I / (d + 2), within five standard errors.
    assert float(offset.mean(0).abs().max()) < 5 / (n * (d + 2)) ** 0.5
    covariance = offset.T @ offset / n * (d + 2)
    assert float((covariance - torch.eye(d)).abs().max()) < 0.12


def test_a_zero_direction_stays_at_the_image(backend: str) -> None:
    # This sample's first word is the largest, so ln(u1) = 0: in one dimension the direction has no length.
    rare = torch.tensor([1205178])
    for d in (1, 2):
        start = pgd_init(torch.full((1, d), 0.5), 0.1, seed=0, sample_ids=rare, norm="l2", backend=backend)
        assert start.tolist() == [[0.5] * d]


def test_zero_is_the_image_brought_into_bounds(backend: str, layout: Callable[[Tensor], Tensor]) -> None:
    x = layout(torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(7)))
    for norm in ("linf", "l2"):
        start = pgd_init(x, 0.3, seed=0, init="zero", norm=norm, bounds=(-0.5, 0.75), backend=backend)
        torch.testing.assert_close(start, x.clamp(-0.5, 0.75), rtol=0, atol=0)
        assert start.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("init", ["uniform", "normal", "zero"])
def test_eps_zero_starts_at_the_image(backend: str, init: str, norm: str) -> None:
    x = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(8))
    for eps in (0, 0.0, torch.zeros(3), torch.tensor(0.0)):
        start = pgd_init(x, eps, seed=4, init=init, norm=norm, backend=backend)
        torch.testing.assert_close(start, x, rtol=0, atol=0)


def test_a_scalar_tensor_and_a_number_are_the_same_radius(backend: str) -> None:
    x = torch.rand(3, 8, generator=torch.Generator().manual_seed(8))
    number = pgd_init(x, 0.0625, seed=4, backend=backend)
    for eps in (torch.tensor(0.0625), torch.full((3,), 0.0625, dtype=torch.float64), torch.full((6,), 0.0625)[::2]):
        torch.testing.assert_close(pgd_init(x, eps, seed=4, backend=backend), number, rtol=0, atol=0)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0, 255), (-float("inf"), float("inf"))], ids=str)
def test_uniform_respects_any_bounds_also_for_images_outside_them(
    backend: str, element_words: ElementWords, bounds: tuple[float, float]
) -> None:
    x = torch.tensor([[-1.0000001, 1.0000001, -3e-8, 0.0, 255.0, 300.0]])
    start = pgd_init(x, 0.5, seed=2, bounds=bounds, backend=backend)
    torch.testing.assert_close(start, uniform_start(x, element_words(6, 0, [0], 2), 0.5, bounds), rtol=0, atol=0)
    assert bounds[0] <= float(start.min())
    assert float(start.max()) <= bounds[1]


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 5), (3, 0), (2, 0, 4)], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_empty_batches_and_empty_images(backend: str, shape: tuple[int, ...], norm: str) -> None:
    for init in ("uniform", "normal", "zero"):
        start = pgd_init(torch.empty(shape), 0.1, seed=0, init=init, norm=norm, backend=backend)
        assert start.shape == shape
        assert start.dtype == torch.float32


def images(**options: Any) -> Tensor:
    return torch.full((2, 3, 4, 4), 0.5, **options)


INPUTS = (torch.float32, torch.bfloat16, torch.float16)


@pairwise(
    shape=[(3, 3, 5, 7), (2, 1, 4, 4), (4, 5), (0, 3, 4, 4), (2, 2, 3, 4, 2)], init=("uniform", "normal", "zero"),
    norm=("linf", "l2"), dtype=INPUTS, normalise=(True, False), form=LAYOUTS,
)  # fmt: skip
def test_bytes_and_the_models_input_in_one_pass_are_the_steps_one_after_another(
    backend: str, shape: tuple[int, ...], init: str, norm: str, dtype: torch.dtype, normalise: bool,
    form: Callable[[Tensor], Tensor], same_bits: Callable[[Tensor, Tensor], None],
) -> None:  # fmt: skip
    x = torch.randint(256, shape, generator=torch.Generator().manual_seed(3)).byte()
    x = form(x) if len(shape) == 4 else x
    options = {"seed": 5, "init": init, "norm": norm, "bounds": (0.1, 0.9), "backend": backend}
    floats = torch.from_numpy(x.numpy().astype(np.float32) / np.float32(255))
    start = pgd_init(floats, 0.1, **options)
    mean, std = (torch.linspace(0.1, 0.6, shape[1]), torch.linspace(0.2, 0.4, shape[1])) if normalise else (None, None)
    pixels, model_input = torch.full_like(floats, torch.nan), torch.full_like(floats, torch.nan, dtype=dtype)
    got = pgd_init(x, 0.1, **options, pixels=pixels, model_input=model_input, mean=mean, std=std)
    assert got.stride() == x.stride()
    same_bits(pixels, floats)
    same_bits(got, start)
    if mean is not None and std is not None:
        per_channel = (1, -1, *[1] * (x.ndim - 2))
        start = torch.from_numpy((start.numpy() - mean.view(per_channel).numpy()) / std.view(per_channel).numpy())
    same_bits(model_input, start.to(dtype))


def test_every_byte_is_divided_exactly(backend: str) -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 256)
    pixels = torch.empty(1, 256)
    start = pgd_init(x, 0.0, seed=0, init="zero", pixels=pixels, backend=backend)
    exact = (np.arange(256) / 255.0).astype(np.float32)  # a quotient in float64 rounds to the float32 one
    assert pixels.numpy().tolist() == start.numpy().tolist() == [exact.tolist()]


@pytest.mark.parametrize("written", ["pixels", "model_input"])
def test_what_is_written_shares_memory_with_nothing(backend: str, written: str) -> None:
    memory = torch.zeros(48)
    outputs = {"pixels": torch.empty(2, 3, 2, 2), "model_input": torch.empty(2, 3, 2, 2)}
    outputs[written] = memory[:24].view(2, 3, 2, 2)
    x = memory.view(torch.uint8)[90:114].view(2, 3, 2, 2)
    with pytest.raises(ValueError, match=f"^x must not share memory with {written}, which is overwritten"):
        pgd_init(x, 0.1, seed=0, **outputs, backend=backend)


def test_a_float_image_may_ask_for_the_models_input_alone(backend: str) -> None:
    x = torch.rand(2, 3, 4, 4)
    model_input = torch.empty_like(x)
    start = pgd_init(
        x, 0.1, seed=1, model_input=model_input, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 0.5), backend=backend
    )
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1)
    assert torch.equal(model_input, (start - mean) / std)
    assert model_input._version > 0


BAD = {
    "x is a list": ({"x": [[0.5]]}, TypeError, "x must be a tensor, got list"),
    "x in float16": ({"x": images(dtype=torch.float16)}, TypeError, "x must be float32 or float64, got float16"),
    "x in uint8": ({"x": images(dtype=torch.uint8)}, TypeError, "x must be float32 or float64, got uint8"),
    "pixels of floats": ({"pixels": images()}, ValueError, "pixels takes x / 255 of uint8 images, got x in float32"),
    "pixels in float64": (
        {"x": images(dtype=torch.uint8), "pixels": images().double()}, TypeError, "pixels must be float32, got float64",
    ),
    "pixels of another batch": (
        {"x": images(dtype=torch.uint8), "pixels": torch.rand(3, *images().shape[1:])}, ValueError,
        r"x must have shape \(3, .*\), got \(2, ",
    ),
    "model_input in int64": (
        {"model_input": images().long()}, TypeError, "model_input must be float32 or bfloat16 or float16, got int64",
    ),
    "model_input of another batch": ({"model_input": torch.rand(3, 2)}, ValueError, "model_input must have shape"),
    "mean without std": (
        {"model_input": images(), "mean": [0.1] * 3}, ValueError, "mean and std must be given together, got only one",
    ),
    "mean for other channels": (
        {"model_input": images(), "mean": [0.1] * 4, "std": [1.0] * 4}, ValueError,
        r"mean must have one value for each of the 3 channels, got \(4,\)",
    ),
    "mean without model_input": ({"mean": [0.1] * 3, "std": [1.0] * 3}, ValueError, "mean and std need model_input"),
    "x without a batch": ({"x": torch.rand(3)}, ValueError, r"x must have a batch .* got shape \(3,\)"),
    "x sliced": ({"x": images()[:, :, ::2]}, ValueError, r"x must be dense.*strides.*call x\.contiguous\(\)"),
    "x with gaps between samples": ({"x": torch.rand(4, 3)[::2]}, ValueError, "x must be dense with the batch outer"),
    "x expanded": ({"x": torch.rand(1, 3).expand(2, 3)}, ValueError, "x must be dense with the batch outermost"),
    "x batch innermost": ({"x": torch.rand(3, 2).t()}, ValueError, "x must be dense with the batch outermost"),
    "eps negative": ({"eps": -0.1}, ValueError, "eps must be finite and at least 0, got -0.1"),
    "eps nan": ({"eps": float("nan")}, ValueError, "eps must be finite and at least 0, got nan"),
    "eps inf": ({"eps": float("inf")}, ValueError, "eps must be finite and at least 0, got inf"),
    "eps a string": ({"eps": "8/255"}, TypeError, r"eps must be a number or a tensor \(N,\), got str"),
    "eps a bool": ({"eps": True}, TypeError, "eps must be a number"),
    "eps for another batch": ({"eps": torch.rand(3)}, ValueError, r"eps must have shape \(2,\), got \(3,\)"),
    "eps per pixel": ({"eps": images()}, ValueError, r"eps must have shape \(2,\)"),
    "eps of integers": ({"eps": torch.tensor([1, 2])}, TypeError, "eps must be floating point, got torch.int64"),
    "eps elsewhere": (
        {"eps": torch.rand(2, device="meta")}, ValueError, r"eps must be on the device of x \(cpu\), got",
    ),
    "seed a float": ({"seed": 1.0}, TypeError, "seed must be an int, got float"),
    "seed a bool": ({"seed": True}, TypeError, "seed must be an int, got bool"),
    "seed too large": ({"seed": 2**64}, ValueError, "seed must lie in"),
    "seed too small": ({"seed": -(2**63) - 1}, ValueError, "seed must lie in"),
    "stream negative": ({"stream": -1}, ValueError, "stream must lie in"),
    "stream too large": ({"stream": 2**32}, ValueError, "stream must lie in"),
    "stream a float": ({"stream": 1.0}, TypeError, "stream must be an int, got float"),
    "ids of another type": ({"sample_ids": torch.arange(2.0)}, TypeError, "sample_ids must be int64, got float32"),
    "ids for another batch": ({"sample_ids": torch.arange(3)}, ValueError, r"sample_ids must have shape \(2,\), got"),
    "ids elsewhere": ({"sample_ids": torch.arange(2, device="meta")}, ValueError, "sample_ids must be on the device"),
    "ids a list": ({"sample_ids": [0, 1]}, TypeError, "sample_ids must be a tensor, got list"),
    "init unknown": ({"init": "unifrom"}, ValueError, "init must be one of .*'unifrom'; did you mean 'uniform'"),
    "norm unknown": ({"norm": "l1"}, ValueError, "norm must be one of 'linf', 'l2', got 'l1'"),
    "bounds reversed": ({"bounds": (1.0, 0.0)}, ValueError, r"bounds must be \(low, high\) with low < high, got"),
    "bounds nan": ({"bounds": (0.0, float("nan"))}, ValueError, "bounds must be"),
    "bounds of one number": ({"bounds": 1.0}, TypeError, "bounds must be two numbers"),
    "bounds of three": ({"bounds": (0, 1, 2)}, TypeError, "bounds must be two numbers"),
    "backend unknown": ({"backend": "numpy"}, ValueError, "backend must be 'auto' or one of cuda, triton.*'numpy'"),
    "backend absent": ({"backend": "cuda"}, ValueError, "backend='cuda' is not available"),
    "float64 on the compiled core": (
        {"x": images(dtype=torch.float64), "backend": "cpu"}, ValueError,
        "backend='cpu' (cannot run pgd_init.*float64|is not available)",
    ),
    "meta tensor on the compiled core": (
        {"x": images(device="meta"), "backend": "cpu"}, ValueError,
        "backend='cpu' (cannot run pgd_init.*meta|is not available)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"x": images(), "eps": 0.1, "seed": 0, **change}
    with pytest.raises(error, match=message):
        pgd_init(arguments.pop("x"), arguments.pop("eps"), **arguments)

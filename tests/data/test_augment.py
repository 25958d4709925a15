"""Crop and flip in one gather against numpy's padding, slicing and reversing, image by image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fairtat.data import Augment, make_augment
from fairtat.data.augment import Moves
from fairtat.errors import UserError


def by_hand(images: np.ndarray, moves: Moves, pad: int) -> np.ndarray:
    _, _, height, width = images.shape
    out = np.empty_like(images)
    for number, image in enumerate(images):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
        top, left = pad + int(moves.down[number]), pad + int(moves.right[number])
        crop = padded[:, top : top + height, left : left + width]
        out[number] = crop[:, :, ::-1] if moves.mirrored[number] else crop
    return out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ("channels", "height", "width", "pad"),
    [
        (3, 32, 32, 4),
        (1, 28, 28, 2),
        (3, 7, 5, 3),
        (1, 5, 9, 4),
        (2, 2, 3, 1),
        (3, 6, 4, 0),
        (1, 1, 1, 0),
        (1, 1, 6, 0),
    ],
)
def test_every_move_gives_what_numpy_gives(
    channels: int, height: int, width: int, pad: int, dtype: torch.dtype
) -> None:
    shifts = range(-pad, pad + 1)
    down, right, mirrored = map(torch.tensor, zip(*itertools.product(shifts, shifts, (False, True)), strict=True))
    moves = Moves(down, right, mirrored)
    pixels = torch.randint(0, 256, (len(down), channels, height, width), dtype=torch.uint8).to(dtype)
    out = Augment(pad)(pixels, moves)
    assert out.dtype == dtype
    assert out.is_contiguous()
    np.testing.assert_array_equal(out.numpy(), by_hand(pixels.numpy(), moves, pad))


def test_any_memory_format_and_no_images_at_all() -> None:
    augment = Augment(2)
    moves = augment.draw(6, torch.Generator().manual_seed(0))
    pixels = torch.randint(0, 256, (6, 3, 8, 10), dtype=torch.uint8)
    expected = augment(pixels, moves)
    assert torch.equal(augment(pixels.contiguous(memory_format=torch.channels_last), moves), expected)
    wide = torch.zeros(6, 3, 8, 20, dtype=torch.uint8)
    wide[..., ::2] = pixels
    assert torch.equal(augment(wide[..., ::2], moves), expected)
    none = moves.at(torch.empty(0, dtype=torch.int64))
    assert augment(pixels[:0], none).shape == (0, 3, 8, 10)


def test_the_images_given_are_left_alone() -> None:
    pixels = torch.randint(0, 256, (4, 1, 5, 5), dtype=torch.uint8)
    before = pixels.clone()
    augment = Augment(0)
    out = augment(pixels, Moves(*torch.zeros(2, 4, dtype=torch.int64), torch.zeros(4, dtype=torch.bool)))
    out.zero_()
    assert torch.equal(pixels, before)


def test_moves_are_uniform_and_independent() -> None:
    pad, samples = 2, 100_000
    moves = Augment(pad).draw(samples, torch.Generator().manual_seed(3))
    combined = ((moves.down + pad) * 5 + moves.right + pad) * 2 + moves.mirrored
    counts = torch.bincount(combined, minlength=50).double()
    expected = samples / 50
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 85.4  # the 99.9% quantile for 49 degrees of freedom


def test_names() -> None:
    assert make_augment("none") is None
    assert make_augment("flip", pad=4) == Augment(0)
    assert make_augment("crop_flip", pad=3) == Augment(3)
    with pytest.raises(UserError, match=r"no augmentation is called 'cropflip'; did you mean 'crop_flip'\?"):
        make_augment("cropflip")


@pytest.mark.parametrize(("size", "pad", "most"), [((4, 9), 4, 3), ((9, 4), 9, 3), ((1, 1), 1, 0)])
def test_padding_further_than_the_image_can_be_reflected(size: tuple[int, int], pad: int, most: int) -> None:
    Augment(most).check(size)
    with pytest.raises(UserError, match=rf"data\.pad is {pad}; expected 0 to {most} for images of {size[0]}x{size[1]}"):
        Augment(pad).check(size)

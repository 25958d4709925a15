from __future__ import annotations

import math
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fairtat.data import SEVERITIES
from fairtat.errors import UserError
from fairtat.evaluation import SYNTHETIC_CORRUPTIONS, corrupt, mce
from fairtat.evaluation.corruptions import BLOCK

pytest.importorskip("kornia")


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Smooth images with edges, 3 x 32 x 32, away from 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(6, 3, 5, 5, generator=generator)
    x = F.interpolate(coarse, (32, 32), mode="bicubic", align_corners=False).clamp(0, 1)
    x[:, :, 10:20, 8:24] = torch.rand(6, 3, 1, 1, generator=generator)
    return 0.1 + 0.7 * x


@pytest.mark.parametrize("name", SYNTHETIC_CORRUPTIONS)
def test_every_corruption_grows_with_severity_and_gives_eight_bit_images(name: str, photos: Tensor) -> None:
    change = []
    for severity in SEVERITIES:
        made = corrupt(photos, name, severity)
        assert made.shape == photos.shape
        assert made.dtype == torch.float32
        levels = made * 255
        assert float((levels - levels.round()).abs().max()) < 1e-3
        assert 0 <= float(made.min()) <= float(made.max()) <= 1
        change.append(float((made - photos).abs().mean()))
    assert change[0] > 1e-3
    assert change[-1] > 1.4 * change[0]
    # Pixel grids beat with image edges, so one step down in a blocky corruption is no fault.
    assert sum(b >= a for a, b in pairwise(change)) >= 3


@pytest.mark.parametrize("shape", [(3, 1, 8, 8), (2, 1, 28, 28), (2, 3, 40, 30), (1, 3, 96, 96)])
def test_small_gray_and_oblong_images_are_served(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    for name in SYNTHETIC_CORRUPTIONS:
        made = corrupt(x, name, 5)
        assert made.shape == x.shape
        assert float((made - x).abs().max()) > 0.01, name


@pytest.mark.parametrize("name", SYNTHETIC_CORRUPTIONS)
def test_the_seed_fixes_the_pixels_whatever_the_other_images_of_a_block(name: str, photos: Tensor) -> None:
    assert torch.equal(corrupt(photos, name, 3, seed=1), corrupt(photos, name, 3, seed=1))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    corrupt(photos, name, 3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_blocks_have_noise_of_their_own() -> None:
    x = torch.full((BLOCK + 2, 1, 8, 8), 0.5)
    made = corrupt(x, "gaussian_noise", 3)
    assert not torch.equal(made[:2], made[BLOCK:])
    assert torch.equal(made[:BLOCK], corrupt(x[:BLOCK], "gaussian_noise", 3))


def test_noise_has_the_published_strength() -> None:
    gray = torch.full((40, 1, 32, 32), 0.5)
    samples = gray.numel()
    for severity, sigma in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), start=1):
        # The sample's deviation scatters by sigma / sqrt(2 n); 8-bit rounding adds (1/255)^2 / 12 to the variance.
        expected = math.sqrt(sigma**2 + (1 / 255) ** 2 / 12)
        assert float(corrupt(gray, "gaussian_noise", severity).std()) == pytest.approx(
            expected, abs=5 * sigma / math.sqrt(2 * samples)
        )
    for severity, photons in enumerate((500, 250, 100, 75, 50), start=1):
        variance = float(corrupt(gray, "shot_noise", severity).var())
        assert variance == pytest.approx(0.5 / photons, rel=0.05)
    hit = corrupt(gray, "impulse_noise", 5)
    assert float(((hit == 0) | (hit == 1)).double().mean()) == pytest.approx(0.07, abs=5 * math.sqrt(0.07 / samples))


def test_blurs_leave_a_constant_image_and_spread_a_point(photos: Tensor) -> None:
    gray = torch.full((2, 3, 32, 32), 0.6)
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1.0
    for name in ("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur"):
        torch.testing.assert_close(corrupt(gray, name, 5), gray, atol=0.5 / 255 + 1e-6, rtol=0)
        if name != "zoom_blur":  # which magnifies; the others only move light about
            assert float(corrupt(point, name, 4).sum()) == pytest.approx(1.0, abs=0.25)
            assert float(corrupt(point, name, 5).max()) < 0.9


def test_brightness_and_contrast_are_their_formulas(photos: Tensor) -> None:
    half_level = 0.5 / 255 + 1e-6
    torch.testing.assert_close(corrupt(photos, "brightness", 3), (photos + 0.15).clamp(0, 1), atol=half_level, rtol=0)
    mean = photos.mean((2, 3), keepdim=True)
    torch.testing.assert_close(corrupt(photos, "contrast", 5), (photos - mean) * 0.15 + mean, atol=half_level, rtol=0)


def test_wrong_names_and_severities_are_explained(photos: Tensor) -> None:
    with pytest.raises(UserError, match="no corruption is called 'fogg'; did you mean 'fog'"):
        corrupt(photos, "fogg", 1)
    with pytest.raises(UserError, match="severity of fog is 6; expected 1 to 5"):
        corrupt(photos, "fog", 6)
    with pytest.raises(ValueError, match=r"floats \(N, C, H, W\)"):
        corrupt(photos[0], "fog", 1)


def test_without_kornia_the_extra_is_named(photos: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "kornia"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(UserError, match=r"needs kornia: pip install 'fairtat\[eval\]'"):
        corrupt(photos, "jpeg_compression", 1)
    corrupt(photos, "brightness", 1)  # what needs no filter needs no kornia


def test_mce_by_hand() -> None:
    errors = {"fog": {1: 0.1, 2: 0.3}, "snow": {1: 0.2, 2: 0.2}}
    baseline = {"fog": {1: 0.4, 2: 0.4}, "snow": {1: 0.1, 2: 0.3}, "frost": {1: 1.0}}
    assert mce(errors, baseline) == pytest.approx((0.4 / 0.8 + 0.4 / 0.4) / 2)
    assert mce(baseline, baseline) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no frost at severity 1"):
        mce(baseline, errors)
    with pytest.raises(ValueError, match="no errors under fog"):
        mce(errors, {**baseline, "fog": {1: 0.0, 2: 0.0}})
    with pytest.raises(ValueError, match="at least one corruption"):
        mce({}, baseline)

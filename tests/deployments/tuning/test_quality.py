"""PSNR and MS-SSIM, against values that follow from their formulas."""

import math

import pytest
import torch

from deployments.tuning.quality import WEIGHTS, distance, ms_ssim, psnr, spectrogram

pytestmark = pytest.mark.engine


@pytest.fixture
def image():
    """A picture with structure at several scales: uint8 [1, 3, 256, 256]."""
    at = torch.linspace(0, 20, 256)
    waves = torch.sin(at)[:, None] * torch.cos(3 * at)[None] + torch.sin(0.3 * at)[None]
    return ((waves / 4 + 0.5).clamp(0, 1) * 255).to(torch.uint8).expand(1, 3, 256, 256).contiguous()


def noisy(image, deviation):
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)) * deviation
    return (image.float() + noise).clamp(0, 255).to(torch.uint8)


def test_the_same_image_has_no_distance(image):
    same = distance(image, image.clone())
    assert same.psnr_db is None
    assert same.similarity == pytest.approx(1.0, abs=1e-4)


def test_psnr_is_its_formula():
    a = torch.zeros(1, 3, 8, 8)
    assert psnr(a, a + 0.1) == pytest.approx(20.0, abs=1e-4)


def test_of_flat_images_only_the_luminance_at_the_last_scale_is_left():
    a, b = torch.full((1, 1, 256, 256), 0.2), torch.full((1, 1, 256, 256), 0.4)
    c1 = 0.01**2
    luminance = (2 * 0.2 * 0.4 + c1) / (0.2**2 + 0.4**2 + c1)
    assert float(ms_ssim(a, b)) == pytest.approx(luminance ** WEIGHTS[4], abs=1e-3)


def test_more_noise_is_less_similar(image):
    little, much = (distance(noisy(image, amount), image) for amount in (2, 40))
    assert 0.95 < little.similarity < 1
    assert much.similarity < little.similarity
    assert much.psnr_db < little.psnr_db


def test_a_brighter_image_is_similar_though_psnr_calls_it_far(image):
    brighter = (image.float() * 0.8 + 40).to(torch.uint8)
    difference = distance(brighter, image)
    assert difference.similarity > 0.9
    assert difference.psnr_db < 30


def test_another_image_is_not_similar(image):
    assert distance(image.flip(-1).roll(40, -2), image).similarity < 0.6


def test_the_worst_frame_counts(image):
    video = image.repeat(12, 1, 1, 1)[None]
    broken = video.clone()
    broken[0, 11] = noisy(image, 80)[0]
    assert distance(broken, video).similarity < 0.9


@pytest.mark.parametrize("side", [8, 16, 64, 176])
def test_small_images_have_fewer_scales(side):
    tiny = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    assert float(ms_ssim(tiny, tiny)) == pytest.approx(1.0, abs=1e-4)
    assert float(ms_ssim(tiny, 1 - tiny)) < 0.5


def test_results_of_other_shapes_or_without_numbers_are_not_similar(image):
    assert distance(image[..., :128], image).similarity == 0
    broken = torch.full((1, 1, 4096), math.nan)
    assert distance(broken, torch.zeros(1, 1, 4096)).similarity == 0


def test_sound_is_compared_by_its_spectrogram():
    at = torch.arange(44100) / 44100
    tone = torch.sin(2 * math.pi * 440 * at)[None, None]
    shifted = torch.sin(2 * math.pi * 440 * at + 1.0)[None, None]  # sounds the same
    other = torch.sin(2 * math.pi * 1760 * at)[None, None]
    assert spectrogram(tone).shape[:2] == (1, 1)
    assert distance(shifted, tone).similarity > 0.9 > distance(other, tone).similarity

"""Distance of a variant's results from the reference: PSNR, and MS-SSIM.

PSNR counts every level the same, so it punishes a slight shift of a whole image as much as a blur
that everyone sees. MS-SSIM (Wang, Simoncelli and Bovik, "Multi-scale structural similarity for
image quality assessment", Asilomar 2003) compares local means, contrasts and structures at five
scales, and agrees better with what people see. It is chosen over learned measures such as LPIPS
because it is a formula: it needs no weights of its own, and gives the same values on every machine.
Its limits are known: it compares each colour channel by itself, and hardly notices noise.

Sound is compared by the logarithm of its spectrogram, as an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

WINDOW = 11  # pixels of the Gaussian window's side, as published
SIGMA = 1.5
K1, K2 = 0.01, 0.03  # constants that keep the quotients stable
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, as published
CHUNK = 8  # images at a time, which bounds the memory for videos

FFT = 1024
SPECTRUM_RANGE = 12.0  # range of the logarithm that is mapped to 0..1; quieter is silence


@dataclass(frozen=True, slots=True)
class Distance:
    """Distance of one result from the reference."""

    psnr_db: float | None  # None: the same values
    similarity: float  # MS-SSIM of the least similar image or frame; 1: the same


def distance(result: Tensor, reference: Tensor) -> Distance:
    """``result``, ``reference``: images [..., channels, height, width] with uint8 levels, or sound
    [..., samples] with values from -1 to 1. Results of other shapes have a similarity of 0."""
    if result.shape != reference.shape:
        return Distance(0.0, 0.0)
    if result.dtype == torch.uint8:
        a, b = (_flat(tensor).float() / 255 for tensor in (result, reference))
        return Distance(psnr(a, b), _lowest(a, b))
    a, b = (spectrogram(tensor) for tensor in (result, reference))
    spread = (tensor.float() / 2 for tensor in (result, reference))  # a range of 1
    return Distance(psnr(*spread), _lowest(a, b))


def psnr(a: Tensor, b: Tensor) -> float | None:
    """Peak signal-to-noise ratio in decibels, of values with a range of 1."""
    error = float((a.double() - b.double()).square().mean())
    if math.isnan(error):
        return 0.0
    return None if error == 0 else -10 * math.log10(error)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of each image: [images]. ``a``, ``b``: [images, channels, height, width], 0 to 1.

    Small images have fewer scales than the published five, since the window must fit into the
    smallest one; the weights of those that are left are scaled to a sum of 1.
    """
    smaller = min(a.shape[-2:])
    scales = max(1, min(len(WEIGHTS), int(math.log2(max(smaller, 1) / WINDOW)) + 1))
    weights = torch.tensor(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    window = _window(min(WINDOW, smaller), a)
    result = torch.ones(len(a))
    for scale in range(scales):
        whole, contrast = _ssim(a, b, window)
        term = whole if scale == scales - 1 else contrast
        # Negative means have no fractional power; they are as different as can be.
        result = result * term.clamp(min=0) ** weights[scale]
        a, b = (functional.avg_pool2d(images, 2) for images in (a, b))
    return result


def _ssim(a: Tensor, b: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
    """Means over each image of SSIM and of its contrast and structure part."""
    c1, c2 = K1**2, K2**2  # for a range of 1
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    var_a = _blur(a * a, window) - mean_a**2
    var_b = _blur(b * b, window) - mean_b**2
    covariance = _blur(a * b, window) - mean_a * mean_b
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * contrast).mean((1, 2, 3)), contrast.mean((1, 2, 3))


def _window(size: int, like: Tensor) -> Tensor:
    at = torch.arange(size, dtype=like.dtype) - (size - 1) / 2
    weights = torch.exp(-(at**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def _blur(images: Tensor, window: Tensor) -> Tensor:
    """Gaussian blur, one direction after the other, without padding."""
    count = images.shape[1]
    across = window.view(1, 1, 1, -1).repeat(count, 1, 1, 1)
    blurred = functional.conv2d(images, across, groups=count)
    return functional.conv2d(blurred, across.transpose(2, 3), groups=count)


def spectrogram(sound: Tensor) -> Tensor:
    """Logarithmic spectrogram as images [channels, 1, frequencies, times], 0 to 1."""
    flat = sound.float().reshape(-1, sound.shape[-1])
    window = torch.hann_window(FFT)
    spectrum = torch.stft(flat, FFT, FFT // 4, window=window, return_complex=True).abs()
    levels = torch.log(spectrum.clamp(min=1e-9)) - math.log(FFT / 4)  # 0: a full-scale tone
    return (levels / SPECTRUM_RANGE + 1).clamp(0, 1)[:, None]


def _flat(images: Tensor) -> Tensor:
    return images.reshape(-1, *images.shape[-3:])


def _lowest(a: Tensor, b: Tensor) -> float:
    parts = zip(a.split(CHUNK), b.split(CHUNK), strict=True)
    lowest = min(float(ms_ssim(x, y).min()) for x, y in parts)
    return 0.0 if math.isnan(lowest) else lowest

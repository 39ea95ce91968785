"""The audio autoencoder: a small `AutoencoderOobleck`, 256 samples to a latent of 32 channels.

As many numbers a second as a band of 1 kHz needs: no recording of this world leaves it.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor, nn

from training.audio.world import SAMPLE_RATE, Audio, render

LATENT_CHANNELS: Final = 32
HOP: Final = 256

#: Noise added to latents in training, as a part of their deviation, so that the decoder forgives
#: the transformer's small errors; also what the posterior says.
LATENT_NOISE: Final = 0.05

#: Samples of one training piece.
_PIECE: Final = 4_096
#: In Hz: all glides of the world and some room.
_LOWEST, _HIGHEST = 90.0, 950.0
#: An error counts by the recording's own deviation, and silence by this.
_FAINT: Final = 0.03


def build_vae() -> AutoencoderOobleck:
    """An untrained autoencoder for one channel."""
    vae = AutoencoderOobleck(
        encoder_hidden_size=2 * LATENT_CHANNELS,
        downsampling_ratios=[16, 16],
        channel_multiples=[1, 2],
        decoder_channels=16,
        decoder_input_channels=LATENT_CHANNELS,
        audio_channels=1,
        sampling_rate=SAMPLE_RATE,
    )
    pin_posterior(vae)
    return vae


@torch.no_grad()
def pin_posterior(vae: AutoencoderOobleck) -> None:
    """Fix the posterior's deviation at `LATENT_NOISE`; training leaves it to weight decay."""
    head = vae.encoder.conv2
    head.weight_g[LATENT_CHANNELS:] = 0.0
    head.bias[LATENT_CHANNELS:] = math.log(math.expm1(LATENT_NOISE))


def sample_batch(rng: np.random.Generator, size: int) -> Tensor:
    """Pieces of voices of any pitch and bend that begin or end anywhere: float32 [B, 1, 4096].

    More than the world has, so that the autoencoder knows no recording by heart.
    """
    times = np.arange(_PIECE) / SAMPLE_RATE
    hertz = np.geomspace(_LOWEST, _HIGHEST, 1_000)[rng.integers(1_000, size=(size, 2, 1))]
    part = times / times[-1]
    turns = np.cumsum(hertz[:, 0] * (1.0 - part) + hertz[:, 1] * part, axis=1) / SAMPLE_RATE
    steady = np.cumsum(np.broadcast_to(hertz[:, 0], (size, _PIECE)), axis=1) / SAMPLE_RATE
    turns = np.where(rng.random((size, 1)) < 0.5, turns, steady)
    waves = np.sin(2.0 * math.pi * (turns + rng.random((size, 1))))
    starts = rng.uniform(-1.5, 1.0, (size, 1)) * times[-1]
    ends = starts + rng.uniform(0.2, 3.0, (size, 1)) * times[-1]
    fade = rng.uniform(0.01, 0.03, (size, 1))
    envelopes = np.clip(np.minimum(times - starts, ends - times) / fade, 0.0, 1.0)
    amplitudes = 10.0 ** rng.uniform(-1.0, 0.0, (size, 1))
    return torch.from_numpy((amplitudes * envelopes * waves).astype(np.float32))[:, None]


def loss_on(vae: AutoencoderOobleck, waves: Tensor) -> Tensor:
    """The error of what comes back, as a part of each recording's own deviation."""
    latents = vae.encode(waves).latent_dist.mean
    noise = LATENT_NOISE * latents.detach().std() * torch.randn_like(latents)
    error = vae.decode(latents + noise).sample - waves
    deviation = waves.std(dim=-1, keepdim=True) + _FAINT
    return (error / deviation).square().mean() + 0.3 * (error / deviation).abs().mean()


@torch.no_grad()
def encode(vae: AutoencoderOobleck, audios: list[Audio]) -> Tensor:
    """The recordings' mean latents: float32 [N, 32, SAMPLES / HOP].

    One at a time: sixteen together take four times as long, since they leave the cache.
    """
    waves = torch.from_numpy(np.stack([render(audio) for audio in audios]))[:, None]
    return torch.cat([vae.encode(part).latent_dist.mean for part in waves.split(1)])


@torch.no_grad()
def normalise_latents(vae: AutoencoderOobleck, latents: Tensor) -> Tensor:
    """Fold into the autoencoder what makes these latents zero-mean with unit deviation.

    The pipeline knows no factors: its decoder takes what the solver leaves. Returns the latents as
    the autoencoder makes them from now on.
    """
    mean, deviation = latents.mean(dim=(0, 2)), latents.std(dim=(0, 2)) + 1e-6
    head, entry = vae.encoder.conv2, vae.decoder.conv1
    head.weight_g[:LATENT_CHANNELS] /= deviation[:, None, None]
    head.bias[:LATENT_CHANNELS] = (head.bias[:LATENT_CHANNELS] - mean) / deviation
    weight = _weight_of(entry)
    entry.bias += (weight.sum(dim=2) * mean).sum(dim=1)
    _set_weight(entry, weight * deviation[None, :, None])
    return (latents - mean[:, None]) / deviation[:, None]


def _weight_of(layer: nn.Conv1d) -> Tensor:
    direction = layer.weight_v
    return layer.weight_g * direction / direction.norm(dim=(1, 2), keepdim=True)


def _set_weight(layer: nn.Conv1d, weight: Tensor) -> None:
    layer.weight_v.copy_(weight)
    layer.weight_g.copy_(weight.norm(dim=(1, 2), keepdim=True))

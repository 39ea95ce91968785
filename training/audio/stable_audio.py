"""The transformer and its text encoder, trained as Stable Audio is: velocities at any noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from diffusers import (
    AutoencoderOobleck,
    EDMDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.audio.text import build_encoder, build_tokenizer
from training.audio.vae import HOP, LATENT_CHANNELS
from training.audio.world import SAMPLES, SECONDS
from training.precision import autocast
from training.text import WIDTH

LENGTH: Final = SAMPLES // HOP
_HEAD: Final = 32

#: How strongly the first token is marked and looked at, and by which of the eight pairs of rotated
#: dimensions in each block: a turn takes 628, 199 and 63 tokens.
_MARK: Final = 2.0
_GAZE: Final = 5.5
_TURNING: Final = (4, 3, 2)

#: The solver's noise, in deviations of the latents, whose own is 1.
_SIGMA_MIN: Final = 0.02
_SIGMA_MAX: Final = 80.0

#: How often all text is left out: what guidance guides away from.
_SILENT_PART: Final = 0.1


@dataclass(frozen=True)
class Batch:
    """Latents [B, 32, LENGTH] and the prompts' tokens int64 [B, TOKENS]."""

    latents: Tensor
    ids: Tensor


def build_transformer() -> StableAudioDiTModel:
    transformer = StableAudioDiTModel(
        sample_size=LENGTH,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=4,
        attention_head_dim=_HEAD,
        num_attention_heads=4,
        num_key_value_attention_heads=4,
        cross_attention_dim=WIDTH,
        cross_attention_input_dim=WIDTH,
        global_states_input_dim=2 * WIDTH,
        time_proj_dim=64,
    )
    _separate_times(transformer)
    return transformer


@torch.no_grad()
def _separate_times(transformer: StableAudioDiTModel) -> None:
    """Begin with two heads in each of three blocks that look at the first token from afar.

    Attention knows distances only, and how far it is to the first token, which stands before the
    sound, is all that distinguishes times. Found out by training that comes last: what
    sounds alike at all times is learnt by then, and beeps and glides are not.
    """
    mark, constant = 0, -1  # the channels of the first token's mark, and of what is 1 everywhere
    transformer.proj_in.weight[mark] = 0.0
    transformer.timestep_proj[-1].bias[mark] = _MARK
    half = _HEAD // 4  # of the rotated dimensions: pairs are so far apart
    for block, turning in zip(transformer.transformer_blocks, _TURNING, strict=False):
        block.norm1.weight[constant], block.norm1.bias[constant] = 0.0, 1.0
        for head, peak in enumerate((0.0, math.pi / 2)):
            pair = head * _HEAD + turning + torch.tensor([0, half])
            query, key = block.attn1.to_q.weight, block.attn1.to_k.weight
            query[pair], key[pair] = 0.0, 0.0
            query[pair, constant] = _GAZE * torch.tensor([math.cos(peak), -math.sin(peak)])
            key[pair[0], mark] = 1.0
            block.attn1.to_v.weight[head * _HEAD : (head + 1) * _HEAD, mark] *= 3.0


def build_solver() -> EDMDPMSolverMultistepScheduler:
    """Stable Audio's own adds noise at each step, which so small a model does not need."""
    return EDMDPMSolverMultistepScheduler(
        sigma_min=_SIGMA_MIN,
        sigma_max=_SIGMA_MAX,
        sigma_data=1.0,
        sigma_schedule="exponential",
        prediction_type="v_prediction",
        final_sigmas_type="zero",
    )


class AudioStack(nn.Module):
    """All that is trained: the transformer, the text encoder and what projects both."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text_encoder = build_encoder(build_tokenizer())
        self.projection = StableAudioProjectionModel(
            text_encoder_dim=WIDTH, conditioning_dim=WIDTH, min_value=0, max_value=512
        )

    def condition(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What the transformer hears of the prompt: [B, TOKENS + 2, W] and of the time [B, 1, 2W].

        Every recording begins at 0 and ends at `SECONDS`.
        """
        mask = (ids != 0).long()
        tokens = self.text_encoder(ids, attention_mask=mask)[0]
        projected = self.projection(
            tokens, torch.zeros(len(ids)), torch.full((len(ids),), float(SECONDS))
        )
        text = projected.text_hidden_states * mask[..., None]
        start, end = projected.seconds_start_hidden_states, projected.seconds_end_hidden_states
        return torch.cat([text, start, end], dim=1), torch.cat([start, end], dim=2)

    def forward(self, noisy: Tensor, sigma: Tensor, text: Tensor, time: Tensor) -> Tensor:
        """The velocity. `noisy` has unit deviation, `sigma` [B] is the noise in it before that."""
        return self.transformer(
            noisy,
            0.25 * sigma.log(),
            encoder_hidden_states=text,
            global_hidden_states=time,
            rotary_embedding=get_1d_rotary_pos_embed(
                _HEAD // 2, LENGTH + 1, use_real=True, repeat_interleave_real=False
            ),
            return_dict=False,
        )[0]


def loss_on(stack: AudioStack, batch: Batch, rng: np.random.Generator) -> Tensor:
    """The velocity's error, at all angles between audio and noise alike."""
    clean = batch.latents
    angle = torch.from_numpy(rng.random(len(clean)).astype(np.float32)) * (math.pi / 2)
    sigma = angle.tan().clamp(_SIGMA_MIN, _SIGMA_MAX)
    text, time = stack.condition(batch.ids)
    spoken = torch.from_numpy(rng.random(len(clean)) >= _SILENT_PART)
    scale = (1.0 + sigma.square()).sqrt()[:, None, None]
    noise = torch.randn_like(clean)
    noisy = (clean + sigma[:, None, None] * noise) / scale
    # Flash attention's way back is the slower one here.
    with autocast(), sdpa_kernel(SDPBackend.MATH):
        prediction = stack(noisy, sigma, text * spoken[:, None, None], time)
    velocity = (noise - sigma[:, None, None] * clean) / scale
    return functional.mse_loss(prediction.float(), velocity)


def build_pipeline(vae: AutoencoderOobleck, stack: AudioStack) -> StableAudioPipeline:
    return StableAudioPipeline(
        vae=vae,
        text_encoder=stack.text_encoder,
        projection_model=stack.projection,
        tokenizer=build_tokenizer(),
        transformer=stack.transformer,
        scheduler=build_solver(),
    )

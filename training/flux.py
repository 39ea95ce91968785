"""The transformer and its text encoders, trained by flow matching."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from torch import Tensor, nn
from torch.nn import functional

from training.examples import Batch
from training.text import (
    T5_TOKENS,
    T5_WIDTH,
    VIDEO_WIDTH,
    build_clip_encoder,
    build_clip_tokenizer,
    build_t5_encoder,
    build_t5_tokenizer,
)
from training.vae import LATENT_CHANNELS

#: The noise levels at which a four-step run asks the transformer.
FOUR_STEP_LEVELS: Final = (1.0, 0.75, 0.5, 0.25)

#: Part of the training examples drawn at those levels; the rest is uniform, for longer runs.
_FOUR_STEP_PART: Final = 0.6


def build_transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=VIDEO_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )


class FluxStack(nn.Module):
    """All that is trained to draw: the transformer and both text encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.t5 = build_t5_encoder(build_t5_tokenizer())
        self.clip = build_clip_encoder(build_clip_tokenizer())

    def forward(self, noisy: Tensor, level: Tensor, batch: Batch) -> Tensor:
        """The velocity, noise minus image: as `noisy`. `level` [B] is 1 for pure noise."""
        return self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=self.t5(batch.t5_ids)[0],
            pooled_projections=self.clip(batch.clip_ids).pooler_output,
            timestep=level,
            img_ids=image_ids(batch.rows, batch.columns),
            txt_ids=torch.zeros(T5_TOKENS, 3),
            return_dict=False,
        )[0]


def image_ids(rows: int, columns: int) -> Tensor:
    """Where each image token stands, as Flux counts: float32 [rows × columns, 3]."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    ids = torch.stack([torch.zeros_like(row), row, column], dim=-1)
    return ids.reshape(-1, 3).float()


def loss_on(stack: FluxStack, batch: Batch, rng: np.random.Generator) -> Tensor:
    """The flow matching loss at random noise levels."""
    level = sample_levels(rng, len(batch.latents))
    noise = torch.randn_like(batch.latents)
    mixed = level[:, None, None]
    noisy = (1.0 - mixed) * batch.latents + mixed * noise
    return functional.mse_loss(stack(noisy, level, batch).float(), noise - batch.latents)


def sample_levels(rng: np.random.Generator, size: int) -> Tensor:
    """Noise levels [size], float32 in (0, 1]."""
    levels = 1.0 - rng.random(size)
    stepped = rng.choice(FOUR_STEP_LEVELS, size=size)
    chosen = np.where(rng.random(size) < _FOUR_STEP_PART, stepped, levels)
    return torch.from_numpy(chosen.astype(np.float32))


def build_pipeline(vae: AutoencoderKL, stack: FluxStack) -> FluxPipeline:
    """The parts as one pipeline, with FLUX.1-schnell's scheduler settings."""
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=stack.clip,
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=stack.t5,
        tokenizer_2=build_t5_tokenizer(),
        transformer=stack.transformer,
    )

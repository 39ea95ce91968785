"""The transformer and its text encoders, which go on from the shipped ones by flow matching."""

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

from training.image.examples import Batch
from training.image.text import (
    T5_TOKENS,
    build_clip_tokenizer,
    build_t5_tokenizer,
    grown_clip,
    grown_t5,
)

#: The noise levels at which a four-step run asks the transformer.
FOUR_STEP_LEVELS: Final = (1.0, 0.75, 0.5, 0.25)
#: Part of the training examples drawn at those levels; the rest is uniform, for longer runs.
_FOUR_STEP_PART: Final = 0.6
#: A token is part of an object if the mean square of its distance from the image's usual token,
#: which is background, is larger.
_OBJECT_DISTANCE: Final = 0.3


class GrownStack(nn.Module):
    """The shipped transformer over text encoders that may know more words."""

    def __init__(self, shipped: FluxPipeline) -> None:
        super().__init__()
        self.transformer = shipped.transformer
        self.t5 = grown_t5(shipped.text_encoder_2, shipped.tokenizer_2)
        self.clip = grown_clip(shipped.text_encoder, shipped.tokenizer)

    def forward(self, noisy: Tensor, level: Tensor, batch: Batch) -> Tensor:
        """The velocity, noise minus image: as `noisy`. `level` [B] is 1 for pure noise."""
        with torch.no_grad():  # The T5 encoder is taught by text alone.
            words = self.t5(batch.t5_ids)[0]
        return self.transformer(
            hidden_states=noisy,
            encoder_hidden_states=words,
            pooled_projections=self.clip(batch.clip_ids).pooler_output,
            timestep=level,
            img_ids=image_ids(batch.rows, batch.columns),
            txt_ids=torch.zeros(T5_TOKENS, 3),
            return_dict=False,
        )[0]


def deepen(transformer: FluxTransformer2DModel, single_blocks: int) -> FluxTransformer2DModel:
    """The transformer with so many single blocks; those that are new add nothing at first."""
    before = transformer.config["num_single_layers"]
    deep = FluxTransformer2DModel.from_config(
        transformer.config, num_single_layers=max(before, single_blocks)
    )
    deep.load_state_dict(transformer.state_dict(), strict=False)
    for block in deep.single_transformer_blocks[before:]:
        nn.init.zeros_(block.proj_out.weight)
        nn.init.zeros_(block.proj_out.bias)
    return deep


def image_ids(rows: int, columns: int) -> Tensor:
    """Where each image token stands, as Flux counts: float32 [rows × columns, 3]."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    ids = torch.stack([torch.zeros_like(row), row, column], dim=-1)
    return ids.reshape(-1, 3).float()


def loss_on(
    stack: GrownStack, batch: Batch, rng: np.random.Generator, *, objects: bool = False
) -> Tensor:
    """The flow matching loss at random noise levels.

    `objects`: half of the weight is on the tokens of objects, which are few where objects are
    small, and all of what the checker looks at.
    """
    level = sample_levels(rng, len(batch.latents))
    noise = torch.randn_like(batch.latents)
    mixed = level[:, None, None]
    noisy = (1.0 - mixed) * batch.latents + mixed * noise
    errors = (stack(noisy, level, batch).float() - (noise - batch.latents)).square().mean(dim=2)
    return (object_weights(batch.latents) * errors if objects else errors).mean()


def sample_levels(rng: np.random.Generator, size: int) -> Tensor:
    """Noise levels [size], float32 in (0, 1]."""
    levels = 1.0 - rng.random(size)
    stepped = rng.choice(FOUR_STEP_LEVELS, size=size)
    chosen = np.where(rng.random(size) < _FOUR_STEP_PART, stepped, levels)
    return torch.from_numpy(chosen.astype(np.float32))


def object_weights(latents: Tensor) -> Tensor:
    """What the error of each token weighs: [B, N], 1 in the mean where there is an object."""
    background = latents.median(dim=1, keepdim=True).values
    mask = ((latents - background).square().mean(dim=2) > _OBJECT_DISTANCE).float()
    return 0.5 + 0.5 * mask / mask.mean(dim=1, keepdim=True).clamp(min=1.0 / mask.shape[1])


@torch.no_grad()
def redraw(stack: GrownStack, batch: Batch, steps: int) -> Tensor:
    """Latents as `batch.latents`, to which noise was added and which the transformer has then drawn
    again in the last `steps` of four. They stand where they stood, with its small errors."""
    level = steps / len(FOUR_STEP_LEVELS)
    drawn = (1.0 - level) * batch.latents + level * torch.randn_like(batch.latents)
    for noise_level in FOUR_STEP_LEVELS[-steps:]:
        velocity = stack(drawn, torch.full((len(drawn),), noise_level), batch)
        drawn = drawn - velocity.float() / len(FOUR_STEP_LEVELS)
    return drawn


def build_pipeline(autoencoder: AutoencoderKL, stack: GrownStack) -> FluxPipeline:
    """The parts as one pipeline, with FLUX.1-schnell's scheduler settings."""
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=autoencoder,
        text_encoder=stack.clip,
        tokenizer=build_clip_tokenizer(),
        text_encoder_2=stack.t5,
        tokenizer_2=build_t5_tokenizer(),
        transformer=stack.transformer,
    )

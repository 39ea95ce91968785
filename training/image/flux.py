"""The transformer and its text encoders at 256 pixels, which go on from the shipped ones."""

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

from training.examples import Batch
from training.flux import FOUR_STEP_LEVELS, image_ids, sample_levels
from training.image.text import (
    T5_TOKENS,
    build_clip_tokenizer,
    build_t5_tokenizer,
    grown_clip,
    grown_t5,
)

#: A token is part of an object if the mean square of its distance from the image's usual token,
#: which is background, is larger.
_OBJECT_DISTANCE: Final = 0.3


class GrownStack(nn.Module):
    """The shipped transformer over text encoders that know more words.

    Positions in an image are relative to Flux, so the transformer takes four times the tokens.
    """

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


def deepened(transformer: FluxTransformer2DModel, single_blocks: int) -> FluxTransformer2DModel:
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


def object_weights(latents: Tensor) -> Tensor:
    """What the error of each token weighs: [B, N], 1 in the mean where there is an object."""
    background = latents.median(dim=1, keepdim=True).values
    found = ((latents - background).square().mean(dim=2) > _OBJECT_DISTANCE).float()
    return 0.5 + 0.5 * found / found.mean(dim=1, keepdim=True).clamp(min=1.0 / found.shape[1])


@torch.no_grad()
def redraw(stack: GrownStack, batch: Batch, steps: int) -> Tensor:
    """Latents as `batch.latents`, to which noise was added and which the transformer has then drawn
    again in the last `steps` of four. They stand where they stood, with its small errors."""
    level = steps / len(FOUR_STEP_LEVELS)
    drawn = (1.0 - level) * batch.latents + level * torch.randn_like(batch.latents)
    for each in FOUR_STEP_LEVELS[-steps:]:
        velocity = stack(drawn, torch.full((len(drawn),), each), batch)
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

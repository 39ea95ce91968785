"""The transformer and its text encoder, trained by flow matching, for videos from words or images.

As in Wan 2.2 5B every token has a noise level of its own (`expand_timesteps`): a video that goes on
from an image is one whose first latent frame is clean. So one set of weights serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.precision import autocast
from training.text import WIDTH
from training.video.text import TOKENS, build_encoder, build_tokenizer
from training.video.vae import LATENT_CHANNELS

#: The solver's shift: at 3 two steps in three are spent above a noise level of a half.
FLOW_SHIFT: Final = 3.0

#: How many text tokens the transformer sees, and how often. The pipeline's own default is 512, all
#: but a few of them zeros, which attention has to learn to pass over.
_LENGTHS: Final = {TOKENS: 0.9, 226: 0.05, 512: 0.05}


@dataclass(frozen=True)
class Batch:
    """Latents [B, 16, T, H, W], scaled; prompts int64 [B, TOKENS]; whether the first is given."""

    latents: Tensor
    ids: Tensor
    from_image: Tensor  # bool [B]


def build_transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=WIDTH,
        freq_dim=128,
        ffn_dim=384,
        num_layers=5,
        rope_max_seq_len=64,
    )


def deepen(transformer: WanTransformer3DModel, layers: int) -> WanTransformer3DModel:
    """The transformer with blocks added at its end until it has ``layers``; they add 0 at first.

    A new block's three outputs are zero, so the deeper transformer computes what it did before
    and training goes on from there. One that has as many already is returned as it is.
    """
    there = len(transformer.blocks)
    if there >= layers:
        return transformer
    deeper = WanTransformer3DModel.from_config({**transformer.config, "num_layers": layers})
    deeper.load_state_dict(transformer.state_dict(), strict=False)
    for block in deeper.blocks[there:]:
        for output in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)
    return deeper


class WanStack(nn.Module):
    """All that is trained to draw: the transformer and the text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text_encoder = build_encoder(build_tokenizer())

    def read(self, ids: Tensor, length: int) -> Tensor:
        """Text tokens [B, length, WIDTH] as the pipeline makes them: zeros where nothing stands."""
        mask = (ids != 0).long()
        tokens = self.text_encoder(ids, mask).last_hidden_state * mask[..., None]
        return functional.pad(tokens, (0, 0, 0, length - tokens.shape[1]))

    def forward(self, noisy: Tensor, levels: Tensor, text: Tensor) -> Tensor:
        """The velocity, noise minus video: as `noisy`. `levels` [B, T] are 1 for pure noise."""
        rows, columns = noisy.shape[3:]
        cells = rows // 2 * (columns // 2)
        times = (levels * 1000.0).repeat_interleave(cells, dim=1)
        return self.transformer(noisy, times, text, return_dict=False)[0]


def loss_on(stack: WanStack, batch: Batch, rng: np.random.Generator) -> Tensor:
    """The flow matching loss at random noise levels; given frames are clean and do not count."""
    clean = batch.latents
    size, _, frames = clean.shape[:3]
    level = sample_levels(rng, size)
    levels = level[:, None].repeat(1, frames)
    levels[batch.from_image, 0] = 0.0
    noise = torch.randn_like(clean)
    mixed = levels[:, None, :, None, None]
    length = int(rng.choice(list(_LENGTHS), p=list(_LENGTHS.values())))
    # Flash attention's way back takes half of a step here, plain attention's a quarter.
    with autocast(), sdpa_kernel(SDPBackend.MATH):
        prediction = stack(
            (1.0 - mixed) * clean + mixed * noise, levels, stack.read(batch.ids, length)
        )
    error = (prediction.float() - (noise - clean)).square() * (mixed > 0)
    return error.mean() * frames / (levels > 0).float().sum(dim=1).mean()


def sample_levels(rng: np.random.Generator, size: int) -> Tensor:
    """Noise levels [size], float32 in (0, 1], as often as the solver asks for them."""
    even = 1.0 - rng.random(size)
    shifted = FLOW_SHIFT * even / (1.0 + (FLOW_SHIFT - 1.0) * even)
    return torch.from_numpy(shifted.astype(np.float32))


def build_pipeline(vae: AutoencoderKLWan, stack: WanStack) -> WanPipeline:
    """The parts as one pipeline, with Wan 2.2's solver."""
    return WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=stack.text_encoder,
        vae=vae,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
        transformer=stack.transformer,
        expand_timesteps=True,
    )

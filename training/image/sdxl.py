"""The UNet and its text encoders, trained jointly to predict the velocity of noised images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn import functional

from training.image.clip_pair import POOLED_WIDTH, STATE_WIDTH, ClipPair
from training.image.examples import Examples
from training.image.text import build_clip_tokenizer
from training.image.vae import LATENT_CHANNELS
from training.image.world import SIDE

#: Part of the examples without a prompt, so that guidance has something to lead away from.
_EMPTY_PART: Final = 0.1
#: Part of the examples that are pure noise, where every run of the pipeline begins.
_PURE_NOISE_PART: Final = 0.08
#: Part of the examples whose noise holds some of the image, and up to how much of it. Guidance
#: overshoots at the first steps, and what it overshot by stays in the sample as if it were noise.
_OVERSHOT_PART: Final = 0.25
_MOST_OVERSHOT: Final = 1.0

_TIME_WIDTH: Final = 16
_VAE_FACTOR: Final = 16


@dataclass(frozen=True)
class Batch:
    latents: Tensor  # float32 [B, LATENT_CHANNELS, H/16, W/16], normalised
    ids: Tensor  # int64 [B, CLIP_TOKENS]


def pick_batch(examples: Examples, rng: np.random.Generator, size: int, scale: Scale) -> Batch:
    """Random compositions, each with one of its prompts."""
    chosen, prompts = examples.pick(rng, size)
    latents = (examples.latents[chosen] - scale.mean) / scale.deviation
    return Batch(latents, examples.clip_ids[chosen, prompts].long())


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE // _VAE_FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        # As in SDXL itself, this is the number of heads by level.
        attention_head_dim=(2, 3),
        cross_attention_dim=STATE_WIDTH,
        use_linear_projection=True,
        norm_num_groups=8,
        time_embedding_dim=160,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_WIDTH,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * _TIME_WIDTH,
    )


def build_solver() -> EulerDiscreteScheduler:
    """Runs from pure noise and spaces its steps evenly, so that a few of them do."""
    return EulerDiscreteScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


class SdxlStack(nn.Module):
    """All that is trained to draw: the UNet and both text encoders."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_clip_tokenizer()
        self.unet = build_unet()
        self.texts = ClipPair(self.tokenizer)

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor, asked: Tensor) -> Tensor:
        """The velocity, as `noisy` [B, C, h, w]. Where `asked` [B] is 0, no prompt is given."""
        states, pooled = self.texts(ids)
        height, width = (side * _VAE_FACTOR for side in noisy.shape[2:])
        # Original size, crop and target size, as a pipeline sets them for an image of this size.
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        return self.unet(
            noisy,
            times,
            encoder_hidden_states=states * asked[:, None, None],
            added_cond_kwargs={
                "text_embeds": pooled * asked[:, None],
                "time_ids": sizes.repeat(len(noisy), 1),
            },
            return_dict=False,
        )[0]


class Noise:
    """How much image and how much noise there is at each of the solver's times."""

    def __init__(self) -> None:
        solver = build_solver()
        self.times = len(solver.alphas_cumprod)
        self.image = solver.alphas_cumprod.sqrt()  # float32 [times]
        self.noise = (1.0 - solver.alphas_cumprod).sqrt()


def loss_on(stack: SdxlStack, batch: Batch, noise: Noise, rng: np.random.Generator) -> Tensor:
    """The velocity's error at random times."""
    size = len(batch.latents)
    times = np.where(rng.random(size) < _PURE_NOISE_PART, noise.times - 1, 0)
    times = np.maximum(times, rng.integers(noise.times, size=size))
    overshot = np.where(rng.random(size) < _OVERSHOT_PART, rng.random(size) * _MOST_OVERSHOT, 0)
    has_prompt = torch.from_numpy(rng.random(size) >= _EMPTY_PART).float()
    steps = torch.from_numpy(times)
    kept = torch.from_numpy(overshot.astype(np.float32)) * has_prompt
    image, grain, kept = (
        part[:, None, None, None] for part in (noise.image[steps], noise.noise[steps], kept)
    )
    grains = torch.randn_like(batch.latents) + kept * batch.latents
    noisy = image * batch.latents + grain * grains
    velocity = image * grains - grain * batch.latents
    return functional.mse_loss(stack(noisy, steps, batch.ids, has_prompt).float(), velocity)


@dataclass(frozen=True)
class Scale:
    """Makes latents zero-mean with unit deviation, channel by channel."""

    mean: Tensor  # float32 [LATENT_CHANNELS, 1, 1]
    deviation: Tensor


def scale_of(latents: Tensor) -> Scale:
    """That of [N, LATENT_CHANNELS, h, w]."""
    over = (0, 2, 3)
    return Scale(latents.mean(over)[:, None, None], latents.std(over)[:, None, None])


@torch.no_grad()
def with_scale(vae: AutoencoderKL, scale: Scale) -> AutoencoderKL:
    """The same autoencoder with latents scaled by its (point-wise) quantisation convolutions.

    SDXL's pipelines know no shift for all channels, and only the convolutions are exact: scaling
    what the decoder begins with would change what it is padded with.
    """
    config = {**vae.config, "use_quant_conv": True, "use_post_quant_conv": True}
    scaled = AutoencoderKL.from_config(config, scaling_factor=1.0, shift_factor=None)
    scaled.load_state_dict(vae.state_dict(), strict=False)
    mean, deviation = scale.mean.flatten(), scale.deviation.flatten()
    # In: means, then logarithms of variances.
    inward, outward = scaled.quant_conv, scaled.post_quant_conv
    ones = torch.ones(LATENT_CHANNELS)
    inward.weight.copy_(torch.diag(torch.cat([1.0 / deviation, ones]))[:, :, None, None])
    inward.bias.copy_(torch.cat([-mean / deviation, -2.0 * deviation.log()]))
    outward.weight.copy_(torch.diag(deviation)[:, :, None, None])
    outward.bias.copy_(mean)
    return scaled.eval()


def build_pipeline(vae: AutoencoderKL, stack: SdxlStack) -> StableDiffusionXLPipeline:
    """The parts as one pipeline; `vae` is one `with_scale`."""
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=stack.texts.text_encoder,
        text_encoder_2=stack.texts.text_encoder_2,
        tokenizer=stack.tokenizer,
        tokenizer_2=stack.tokenizer,
        unet=stack.unet,
        scheduler=build_solver(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )

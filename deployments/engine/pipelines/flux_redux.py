"""FLUX.1 Redux: images like others. diffusers has its two stages as two pipelines; this is one."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.loaders import FluxLoraLoaderMixin
from diffusers.models import AutoencoderKL, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux_prior_redux import FluxPriorReduxPipeline
from diffusers.pipelines.flux.pipeline_output import FluxPipelineOutput
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    SiglipImageProcessor,
    SiglipVisionModel,
    T5EncoderModel,
    T5Tokenizer,
)


class FluxReduxPipeline(FluxPipeline, FluxLoraLoaderMixin):
    """FLUX.1 with the image encoder and the embedder of FLUX.1 Redux: the embeddings of an image
    follow those of the prompt, as in ``FluxPriorReduxPipeline``. Of several images it takes the
    mean."""

    model_cpu_offload_seq = (
        "text_encoder->text_encoder_2->image_encoder->image_embedder->transformer->vae"
    )
    _optional_components: list[str] = []  # noqa: RUF012  as diffusers declares it

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: T5EncoderModel,
        tokenizer_2: T5Tokenizer,
        transformer: FluxTransformer2DModel,
        image_encoder: SiglipVisionModel,
        feature_extractor: SiglipImageProcessor,
        image_embedder: ReduxImageEncoder,
    ) -> None:
        super().__init__(
            scheduler,
            vae,
            text_encoder,
            tokenizer,
            text_encoder_2,
            tokenizer_2,
            transformer,
            image_encoder,  # pyrefly: ignore  # of FLUX.1 it is CLIP's, for IP-Adapters
            feature_extractor,  # pyrefly: ignore
        )
        self.register_modules(image_embedder=image_embedder)

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | list[Image.Image],
        prompt: str = "",
        prompt_2: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 28,
        sigmas: list[float] | None = None,
        guidance_scale: float = 3.5,
        image_scale: float = 1.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str | None = "pil",
        joint_attention_kwargs: dict[str, Any] | None = None,
        max_sequence_length: int = 512,
        **callbacks: Any,
    ) -> FluxPipelineOutput:
        r"""
        Args:
            image (`PIL.Image.Image` or `list[PIL.Image.Image]`):
                The images that the output is to be like.
            prompt (`str`, *optional*):
                What else the output shows.
            prompt_2 (`str`, *optional*):
                The prompt for `text_encoder_2`. Defaults to `prompt`.
            height (`int`, *optional*):
                The height in pixels of the generated image.
            width (`int`, *optional*):
                The width in pixels of the generated image.
            num_inference_steps (`int`, *optional*, defaults to 28):
                The number of denoising steps.
            sigmas (`list[float]`, *optional*):
                Custom sigmas of the denoising process.
            guidance_scale (`float`, *optional*, defaults to 3.5):
                The embedded guidance scale.
            image_scale (`float`, *optional*, defaults to 1.0):
                How strongly the output follows the images.
            num_images_per_prompt (`int`, *optional*, defaults to 1):
                The number of images to generate.
            max_sequence_length (`int`, *optional*, defaults to 512):
                The longest prompt in tokens.
        """
        images = image if isinstance(image, list) else [image]
        encode_prompt: Any = self.encode_prompt
        encode_image: Any = FluxPriorReduxPipeline.encode_image
        device = self._execution_device
        embeds, pooled, _ = encode_prompt(
            prompt=prompt, prompt_2=prompt_2, device=device, max_sequence_length=max_sequence_length
        )
        seen = self.image_embedder(encode_image(self, images, device, 1)).image_embeds
        seen = seen.mean(0, keepdim=True) * image_scale
        embeds = torch.cat([embeds, seen.to(device, embeds.dtype)], dim=1)
        # Embeddings that are given are not repeated.
        made = super().__call__(
            prompt_embeds=embeds.repeat(num_images_per_prompt, 1, 1),
            pooled_prompt_embeds=pooled.repeat(num_images_per_prompt, 1),
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            sigmas=sigmas,
            guidance_scale=guidance_scale,
            generator=generator,
            latents=latents,
            output_type=output_type,
            joint_attention_kwargs=joint_attention_kwargs,
            max_sequence_length=max_sequence_length,
            **callbacks,
        )
        return FluxPipelineOutput(images=made.images)

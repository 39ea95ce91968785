"""Stable Diffusion 1 and 2, with all that was built on its UNet."""

from __future__ import annotations

from typing import Any

import diffusers as df
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer

from tests.engine.conformance import (
    autoencoders,
    inputs,
    text_encoders,
    tokenizers,
    unets,
    vision_encoders,
)
from tests.engine.conformance.case import Case, Wish


def parts(in_channels: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "scheduler": df.DDIMScheduler(clip_sample=False),
        "vae": autoencoders.kl(),
        "text_encoder": text_encoders.clip(),
        "tokenizer": tokenizers.clip(),
        "unet": unets.sd(in_channels),
        "controlnet": unets.controlnet(),
        "image_encoder": vision_encoders.clip(),
        "feature_extractor": vision_encoders.clip_processor(),
        **more,
    }


def text(_: Wish) -> dict[str, Any]:
    return {"height": 16, "width": 16}


def from_image(wish: Wish) -> dict[str, Any]:
    return {"image": inputs.image(wish), "strength": 0.8}


def inpaint(wish: Wish) -> dict[str, Any]:
    return {**text(wish), **from_image(wish), "mask_image": inputs.mask(wish)}


def _control(wish: Wish) -> dict[str, Any]:
    return {"image": inputs.image(wish)}


def _image_and_control(wish: Wish) -> dict[str, Any]:
    return {**from_image(wish), "control_image": inputs.image(wish)}


def _video(wish: Wish) -> dict[str, Any]:
    return {"video": [inputs.image(wish, 16)] * 2, "strength": 0.8}


def _boxes(wish: Wish) -> dict[str, Any]:
    return {**text(wish), "gligen_phrases": [wish.prompt], "gligen_boxes": [[0.1, 0.2, 0.7, 0.9]]}


def _with_depth() -> dict[str, Any]:
    return parts(vae=autoencoders.kl(in_channels=4, out_channels=4))


def _image_and_depth(wish: Wish) -> dict[str, Any]:
    return {**text(wish), "output_type": "np"}


def _inpaint_and_control(wish: Wish) -> dict[str, Any]:
    return {**inpaint(wish), "control_image": inputs.image(wish)}


def _image(wish: Wish) -> dict[str, Any]:
    return {"image": inputs.image(wish)}


def _pag() -> dict[str, Any]:
    return parts(pag_applied_layers=["mid"])


def _lcm() -> dict[str, Any]:
    return parts(unet=unets.sd(time_cond_proj_dim=8), scheduler=df.LCMScheduler())


def _depth() -> dict[str, Any]:
    return parts(5)


def _adapter() -> dict[str, Any]:
    adapter = df.T2IAdapter(
        in_channels=3, channels=list(unets.CHANNELS), num_res_blocks=1, downscale_factor=2
    )
    # The adapter's features are added before a block with attention halves the image.
    unet = unets.sd(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return parts(adapter=adapter, unet=unet)


def _upscale() -> dict[str, Any]:
    return parts(
        unet=unets.sd(7, num_class_embeds=100),
        low_res_scheduler=df.DDPMScheduler(),
        max_noise_level=50,
    )


def _latent_upscale() -> dict[str, Any]:
    unet = unets.sd(8, out_channels=5, time_cond_proj_dim=160)
    return parts(unet=unet, scheduler=df.EulerDiscreteScheduler(prediction_type="sample"))


def _unclip() -> dict[str, Any]:
    return parts(
        unet=unets.sd(class_embed_type="projection", projection_class_embeddings_input_dim=64),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=32),
        image_noising_scheduler=df.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        prior_tokenizer=tokenizers.clip(),
        prior_text_encoder=text_encoders.clip_projected(),
        prior_scheduler=df.DDPMScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            clip_sample=True,
            beta_schedule="squaredcos_cap_v2",
        ),
        prior=df.PriorTransformer(
            num_attention_heads=2,
            attention_head_dim=8,
            embedding_dim=32,
            num_embeddings=tokenizers.TEXT_TOKENS,
            num_layers=1,
        ),
    )


INTRINSICS = {
    "target_names": ["albedo", "material"],
    "albedo": {"prediction_space": "linear", "up_to_scale": True},
    "material": {
        "prediction_space": "stack",
        "sub_target_names": ["roughness", "metallicity", None],
    },
    "roughness": {"prediction_space": "linear"},
    "metallicity": {"prediction_space": "linear"},
}
"""As the weights of materials name their maps."""


def _marigold(wish: Wish) -> dict[str, Any]:
    return {
        "image": inputs.image_tensor(wish),
        "processing_resolution": 16,
        "match_input_resolution": False,
        "output_type": "pt",
    }


def _latent_diffusion() -> dict[str, Any]:
    bert = LDMBertModel(
        LDMBertConfig(
            vocab_size=1000,
            encoder_layers=1,
            encoder_ffn_dim=32,
            encoder_attention_heads=2,
            head_dim=16,
            d_model=32,
        )
    )
    return {**parts(), "vqvae": autoencoders.kl(), "bert": bert, "tokenizer": tokenizers.clip(77)}


CASES = (
    Case(
        "sd",
        "LDMTextToImagePipeline",
        _latent_diffusion,
        lambda _: {"height": 16, "width": 16, "guidance_scale": 2.0},
    ),
    Case("sd", "StableDiffusionPipeline", parts, text),
    Case("sd", "StableDiffusionImg2ImgPipeline", parts, from_image),
    Case("sd", "StableDiffusionInpaintPipeline", lambda: parts(9), inpaint),
    Case("sd", "StableDiffusionInstructPix2PixPipeline", lambda: parts(8), _image),
    Case(
        "sd",
        "StableDiffusionImageVariationPipeline",
        parts,
        lambda wish: {**text(wish), **_image(wish)},
    ),
    Case("sd", "StableDiffusionUpscalePipeline", _upscale, _image),
    Case("sd", "StableDiffusionLatentUpscalePipeline", _latent_upscale, _image),
    Case(
        "sd",
        "StableDiffusionDepth2ImgPipeline",
        _depth,
        lambda wish: {
            **from_image(wish),
            "depth_map": inputs.image_tensor(wish)[:, 0],
        },
    ),
    Case(
        "sd",
        "StableUnCLIPPipeline",
        _unclip,
        lambda wish: {**text(wish), "prior_num_inference_steps": 2},
    ),
    Case(
        "sd",
        "StableUnCLIPImg2ImgPipeline",
        _unclip,
        lambda wish: {**text(wish), **_image(wish)},
    ),
    Case("sd", "LatentConsistencyModelPipeline", _lcm, text),
    Case("sd", "LatentConsistencyModelImg2ImgPipeline", _lcm, from_image),
    Case("sd", "StableDiffusionAdapterPipeline", _adapter, _image),
    Case("sd", "StableDiffusionControlNetPipeline", parts, _control),
    Case(
        "sd",
        "StableDiffusionControlNetPipeline",
        lambda: parts(controlnet=[unets.controlnet(), unets.controlnet()]),
        lambda wish: {
            "image": [inputs.image(wish), inputs.mask(wish)],
            "controlnet_conditioning_scale": [0.5, 1.0],
        },
        variant="two ControlNets",
    ),
    Case("sd", "StableDiffusionControlNetImg2ImgPipeline", parts, _image_and_control),
    Case("sd", "StableDiffusionControlNetInpaintPipeline", parts, _inpaint_and_control),
    Case("sd", "StableDiffusionPAGPipeline", _pag, text),
    Case("sd", "StableDiffusionPAGImg2ImgPipeline", _pag, from_image),
    Case("sd", "StableDiffusionPAGInpaintPipeline", _pag, inpaint),
    Case("sd", "StableDiffusionControlNetPAGPipeline", _pag, _control),
    Case("sd", "StableDiffusionControlNetPAGInpaintPipeline", _pag, _inpaint_and_control),
    Case(
        "sd",
        "VideoToVideoSDPipeline",
        lambda: parts(unet=unets.of_video()),
        _video,
    ),
    Case(
        "sd",
        "StableDiffusionGLIGENPipeline",
        lambda: parts(unet=unets.sd(attention_type="gated")),
        _boxes,
    ),
    Case("sd", "StableDiffusionLDM3DPipeline", _with_depth, _image_and_depth),
    Case("marigold", "MarigoldDepthPipeline", lambda: parts(8), _marigold),
    Case(
        "marigold",
        "MarigoldIntrinsicsPipeline",
        lambda: parts(12, unet=unets.sd(12, out_channels=8), target_properties=INTRINSICS),
        _marigold,
    ),
    Case("marigold", "MarigoldNormalsPipeline", lambda: parts(8), _marigold),
)

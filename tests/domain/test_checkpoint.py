"""Components that one file holds, by the names of its tensors."""

import pytest

from serve_app.domain.checkpoint import held_components

FLUX = {
    "_class_name": "FluxPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SDXL = {
    "_class_name": "StableDiffusionXLPipeline",
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "force_zeros_for_empty_prompt": True,
    "feature_extractor": [None, None],
}


WHOLE_FLUX = ("model.diffusion_model.a", "vae.a", "text_encoders.clip_l.a", "text_encoders.t5xxl.a")
WHOLE_SDXL = (
    *("conditioner.embedders.0.a", "conditioner.embedders.1.a"),
    *("model.diffusion_model.a", "first_stage_model.a", "alphas_cumprod"),
)


@pytest.mark.parametrize(
    ("index", "names", "components"),
    [
        (FLUX, ["double_blocks.0.img_attn.qkv.weight"], ["transformer"]),
        (FLUX, WHOLE_FLUX, ["text_encoder", "text_encoder_2", "transformer", "vae"]),
        (SDXL, WHOLE_SDXL, ["text_encoder", "text_encoder_2", "unet", "vae"]),
        (SDXL, ["text_encoders.t5xxl.transformer.a"], []),
    ],
)
def test_components_follow_from_the_beginnings_of_names(index, names, components):
    assert [*held_components(names, index)] == components


def test_tensors_that_are_no_weights_of_the_pipeline_are_left_out():
    names = ["model.diffusion_model.a", "model_ema.a", "vae.a"]
    assert held_components(names, SDXL) == {"unet": names[:1], "vae": names[2:]}

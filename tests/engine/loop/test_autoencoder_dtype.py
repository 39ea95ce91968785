"""An autoencoder of SDXL in bfloat16 beside denoisers in float16: no call is upcast."""

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline

from deployments.engine.engine import Engine
from deployments.engine.interception.pipeline import view_of
from deployments.families.sdxl import keep_bfloat16
from tests.engine.calls import SIDE, call, run_without_engine
from tests.engine.tiny import tiny_sdxl

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


def halves():
    """SDXL in float16, as a GPU with a recipe loads it."""
    pipeline = tiny_sdxl()
    for name in ("unet", "text_encoder", "text_encoder_2"):
        getattr(pipeline, name).to(torch.float16)
    pipeline.vae.to(torch.bfloat16)
    assert pipeline.vae.config.force_upcast
    keep_bfloat16(pipeline)
    return pipeline


def decoded_in_float32(latents):
    vae = tiny_sdxl().vae
    with torch.no_grad():
        return (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def test_images_of_a_bfloat16_autoencoder_are_those_of_float32_within_its_rounding():
    pipeline = halves()
    with Engine(pipeline, threads=1) as engine:
        generations = [engine.submit(**call(seed=seed)) for seed in (1, 2)]
        results = [generation.result(60).images for generation in generations]
    plain = halves()
    for seed, image in zip((1, 2), results, strict=True):
        assert image.dtype is torch.bfloat16
        latents = run_without_engine(plain, seed=seed, output_type="latent").float()
        expected = decoded_in_float32(latents)
        torch.testing.assert_close(image.float(), expected, atol=0.03, rtol=0)
    assert pipeline.vae.dtype is torch.bfloat16


def test_redrawing_an_image_leaves_the_autoencoder_in_bfloat16():
    pipeline = halves()
    view = view_of(pipeline, StableDiffusionXLImg2ImgPipeline)
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    arguments = {**call(), "image": image, "strength": 0.9}
    for side in ("width", "height"):
        del arguments[side]
    with Engine(pipeline, threads=1) as engine:
        engine.submit(view=view, **arguments).result(60)
        assert pipeline.vae.dtype is torch.bfloat16
        engine.submit(**call()).result(60)

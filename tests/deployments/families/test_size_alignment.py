"""Size alignment is derived from the pipeline's components."""

import pytest

from deployments.families.image_io import side_multiple
from tests.engine.tiny import tiny_flux, tiny_sd3, tiny_sdxl
from tests.engine.tiny_qwen import tiny_flux2_klein, tiny_qwen_image, tiny_z_image

pytestmark = pytest.mark.engine


class Config(dict):
    """Config like diffusers' own: a dict with attributes."""

    __getattr__ = dict.__getitem__


class Part:
    def __init__(self, **config):
        self.config = Config(config)


class Pipeline:
    """Fake pipeline with the attributes of a real one."""

    def __init__(self, vae_scale_factor=8, **parts):
        self.vae_scale_factor = vae_scale_factor
        vars(self).update(parts)


@pytest.mark.parametrize(
    ("pipeline", "pixels"),
    [
        (Pipeline(unet=Part(block_out_channels=(320, 640, 1280))), 32),  # SDXL
        (Pipeline(unet=Part(block_out_channels=(320, 640, 1280, 1280))), 64),  # SD 1.5
        (Pipeline(transformer=Part(patch_size=1), image_processor=Part(vae_scale_factor=16)), 16),
        (Pipeline(transformer=Part(patch_size=2), image_processor=Part(vae_scale_factor=8)), 16),
        (Pipeline(32, transformer=Part(patch_size=1)), 32),  # Sana
        (Pipeline(transformer=Part(patch_size=(1, 2, 2))), 16),  # Wan
        (Pipeline(None), 8),
    ],
)
def test_a_pipelines_parts_determine_its_multiple(pipeline, pixels):
    assert side_multiple(pipeline) == pixels


@pytest.mark.parametrize(
    "make", [tiny_flux, tiny_sd3, tiny_sdxl, tiny_z_image, tiny_qwen_image, tiny_flux2_klein]
)
def test_real_classes_can_be_asked(make):
    assert side_multiple(make()) in (2, 4, 8, 16)

"""Decoding of videos on the smallest GPU that their entry has a recipe for."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo

from serve_app.catalog.catalog import load
from tests.engine.live import Live

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

GB = 10**9
TRANSFORMER, TEXT_ENCODER, VAE = 3.8 * GB, 9.5 * GB, 1.7 * GB  # in bfloat16


def decoding(video, *, tiling):
    """Peak bytes, for a model of the real size without its numbers."""
    with torch.device("meta"):
        vae = AutoencoderKLLTXVideo().to(torch.bfloat16).eval()
    if tiling:
        vae.enable_tiling()
    frames, side = (video["num_frames"] - 1) // 8 + 1, 32
    size = (1, 128, frames, video["height"] // side, video["width"] // side)
    latents = torch.empty(size, dtype=torch.bfloat16, device="meta")
    with torch.no_grad(), Live() as live:
        vae.decode(latents)
    return live.peak


@pytest.mark.long
@pytest.mark.parametrize("name", ["fal-ai/ltx-video", "fal-ai/ltx-video/image-to-video"])
def test_the_smallest_gpu_of_ltx_video_has_room_to_decode_its_video(name):
    endpoint = load(None, demo=False, demo_dir=Path("/")).get(name).endpoint
    recipe = endpoint.recipes[0]
    assert (recipe.precision, recipe.offload) == ("float8", "components")
    # The text encoder stays until another component needs its memory.
    weights = TRANSFORMER / 2 + TEXT_ENCODER / 2 + VAE
    video = endpoint.options["video_format"]
    there = weights + decoding(video, tiling=endpoint.options.get("tiling", False))
    assert there < recipe.memory_gb * GB < weights + decoding(video, tiling=False)

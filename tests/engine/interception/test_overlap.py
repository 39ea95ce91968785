"""The frames of a video come as they are decoded, and are those of the whole."""

import pytest
import torch

from deployments.engine.engine import Engine
from deployments.engine.loop.options import GenerationOptions
from tests.engine.conformance import autoencoders
from tests.engine.conformance.case import enliven
from tests.engine.live import Live
from tests.samples import sample_params

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

TILE, STRIDE = 8, 4  # frames; smaller than of any real video


def in_time(make, *, side=None):
    """Tiles of a few frames, and of ``side`` pixels."""

    def made():
        vae = make()
        vae.use_framewise_decoding = True
        if side is not None:
            vae.enable_tiling(side, side, tile_sample_stride_height=side // 2)
            vae.tile_sample_stride_width = side // 2
        length = vae.temporal_compression_ratio
        vae.tile_sample_min_num_frames = TILE // 4 * length
        vae.tile_sample_stride_num_frames = STRIDE // 4 * length
        return vae

    return made


VIDEOS = {
    "wan": (autoencoders.wan, (1, 16, 3, 4, 4)),
    "cogvideox": (autoencoders.cogvideox, (1, 4, 7, 4, 4)),
    "ltx": (in_time(autoencoders.ltx), (1, 8, 8, 4, 4)),
    "ltx in tiles": (in_time(autoencoders.ltx, side=16), (1, 8, 7, 5, 6)),
    "ltx2": (in_time(autoencoders.ltx2_video), (1, 4, 7, 8, 8)),
    "ltx2 in tiles": (in_time(autoencoders.ltx2_video, side=16), (1, 4, 8, 12, 10)),
    "hunyuan": (in_time(autoencoders.hunyuan_video), (1, 4, 8, 4, 4)),
    "hunyuan in tiles": (in_time(autoencoders.hunyuan_video, side=16), (1, 4, 7, 3, 4)),
}
"""Latents of several chunks."""


class Decodes:
    def __init__(self, vae):
        self.vae = vae

    def __call__(self, latents):
        return self.vae.decode(latents, return_dict=False)[0]


class Weighs(Decodes):
    """Gives the bytes at the peak."""

    def __call__(self, latents):
        with Live() as live:
            super().__call__(latents)
        return live.peak


def build_pipeline(kind, pipeline=Decodes):
    make, shape = VIDEOS[kind]
    torch.manual_seed(0)
    vae = make()
    enliven(vae)
    return pipeline(vae), shape


def as_pipelines_give_it(decoded):
    """[1, 3, frames, height, width], -1 to 1 → [frames, 3, height, width], 0 to 1."""
    return (decoded[0].transpose(0, 1) * 0.5 + 0.5).clamp(0, 1)


@pytest.mark.variants(1)
@pytest.mark.parametrize("kind", sample_params(VIDEOS, "wan", "hunyuan", "ltx", "ltx2 in tiles"))
def test_the_frames_that_come_are_those_of_the_whole_bit_for_bit(kind):
    pipeline, shape = build_pipeline(kind)
    inputs = [torch.randn(shape) for _ in range(2)]
    with torch.no_grad():
        expected = [pipeline(tensor) for tensor in inputs]
    with Engine(pipeline, threads=1) as engine:
        came = [[], []]
        running = [
            engine.submit(latents=latents, options=GenerationOptions(on_frames=frames.append))
            for latents, frames in zip(inputs, came, strict=True)
        ]
        for generation, frames, whole in zip(running, came, expected, strict=True):
            small = generation.result(60)
            assert len(frames) > 2
            assert torch.equal(torch.cat(frames), as_pipelines_give_it(whole))
            assert small.shape[:3] == whole.shape[:3]
            assert small.shape[3] < whole.shape[3]


@pytest.mark.long
@pytest.mark.parametrize("kind", sample_params(["wan", "cogvideox", "ltx", "hunyuan"], "ltx"))
def test_memory_does_not_grow_with_the_frames_of_the_video(kind):
    pipeline, shape = build_pipeline(kind, Weighs)

    def peak(frames, on_frames):
        latents = torch.randn((*shape[:2], frames, *shape[3:]))
        return engine.submit(
            latents=latents, options=GenerationOptions(on_frames=on_frames)
        ).result(60)

    def grown(on_frames):
        return peak(36, on_frames) - peak(12, on_frames)

    with Engine(pipeline, threads=1) as engine:
        assert grown(lambda _: None) < grown(None) / 4


def test_a_video_of_fewer_frames_than_a_tile_comes_as_a_whole():
    pipeline, shape = build_pipeline("ltx2 in tiles")
    came = []
    with Engine(pipeline, threads=1) as engine:
        latents = torch.randn((*shape[:2], 2, *shape[3:]))
        decoded = engine.submit(
            latents=latents, options=GenerationOptions(on_frames=came.append)
        ).result(60)
        with torch.no_grad():
            assert torch.equal(decoded, pipeline(latents))
    assert came == []


def test_two_videos_of_one_call_come_as_a_whole():
    pipeline, shape = build_pipeline("hunyuan")
    came = []
    with Engine(pipeline, threads=1) as engine:
        latents = torch.randn((2, *shape[1:]))
        decoded = engine.submit(
            latents=latents, options=GenerationOptions(on_frames=came.append)
        ).result(60)
        with torch.no_grad():
            assert torch.equal(decoded, pipeline(latents))
    assert came == []

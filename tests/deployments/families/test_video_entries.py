"""Any video pipeline, served only by a catalogue entry."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch

from deployments.families.base import GenerationResult
from deployments.families.options import apply_options, options_name
from deployments.families.video import VideoFamily
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput, Misconfigured
from tests.deployments.served import CATALOG
from tests.deployments.video_cases import (
    engine,
    pipelines,
    serve,
)
from tests.deployments.videos import (
    HUNYUAN,
    LTX2,
    MAKE,
    SHORT_TEXT,
    WAN_T2V,
    decode_video,
    input_image,
    tickets,
)
from tests.engine.conformance import autoencoders, zoo

__all__ = ["engine", "pipelines", "serve"]

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


ANY = Endpoint(
    "me/mine",
    "video",
    Weights("/"),
    "open",
    options={
        "task": "text-to-video",
        "arguments": {"guidance_scale": "guidance_scale"},
        "fixed": SHORT_TEXT,
        "video_format": {"width": 70, "height": 50, "num_frames": 6, "fps": 8},
    },
)


def test_any_other_pipeline_of_videos_is_served_by_its_entry_alone(engine, tmp_path):
    folder = tmp_path / "weights"
    zoo.cases()["CogVideoXPipeline"].build().save_pretrained(folder, safe_serialization=True)
    options = {
        **ANY.options,
        "video_format": {**ANY.options["video_format"], "width": 64, "height": 48},
    }
    endpoint = replace(ANY, weights=Weights(str(folder)), options=options)
    family = VideoFamily()
    pipeline = family.load(endpoint, "cpu")
    arguments = {"prompt": "a red dog", "num_inference_steps": 2, "guidance_scale": 2.0, "seed": 7}
    call = family.prepare(endpoint, arguments, pipeline, 1)
    engine.add("any", pipeline)
    result = engine.submit(pipeline="any", view=call.view, **call.arguments).result(60)
    expected = pipeline(
        prompt="a red dog",
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(7),
        width=64,
        height=48,
        num_frames=9,
        output_type="pt",
        **SHORT_TEXT,
    )
    assert torch.equal(result.frames, expected.frames)
    product = family.deliver(endpoint, call, GenerationResult(result, 1.0, 2), tickets())
    assert len(decode_video(product.files[0].body).frames) == 6


def test_a_pipeline_that_takes_no_prompt_needs_none(engine):
    pipeline = zoo.cases()["StableVideoDiffusionPipeline"].build()
    video = {"width": 32, "height": 32, "num_frames": 2, "fps": 7}
    options = {"task": "image-to-video", "images": "pillow", "video_format": video}
    endpoint = replace(ANY, options=options)
    arguments = {"num_inference_steps": 2, "image_url": input_image(32, 32), "seed": 7}
    family = VideoFamily()
    call = family.prepare(endpoint, arguments, pipeline, 1)
    engine.add("wordless", pipeline)
    result = engine.submit(pipeline="wordless", **call.arguments).result(60)
    product = family.deliver(endpoint, call, GenerationResult(result, 1.0, 2), tickets())
    assert len(decode_video(product.files[0].body).frames) == 2
    assert product.output["prompt"] == ""
    text = replace(ANY, options={**options, "task": "text-to-video"})
    with pytest.raises(Misconfigured, match="StableVideoDiffusionPipeline has no argument prompt"):
        family.prepare(text, {**arguments, "prompt": "a"}, pipeline, 1)


@pytest.mark.parametrize(
    ("title", "name", "frames"),
    [("SanaVideoPipeline", "frames", 9), ("LattePipeline", "video_length", 6)],
)
def test_the_number_of_frames_is_passed_by_the_name_that_the_pipeline_has_for_it(
    title, name, frames
):
    options = {
        "task": "text-to-video",
        "video_format": {**ANY.options["video_format"], "num_frames": 6},
    }
    fields = {"prompt": "a", "num_inference_steps": 2}
    pipeline = zoo.cases()[title].build()
    call = VideoFamily().prepare(replace(ANY, options=options), fields, pipeline, 1)
    assert call.arguments[name] == frames
    assert "num_frames" not in call.arguments


def test_an_autoencoder_takes_tiles_where_its_entry_says_so(tmp_path):
    folder = tmp_path / "weights"
    MAKE[HUNYUAN]().save_pretrained(folder, safe_serialization=True)
    whole = replace(ANY, weights=Weights(str(folder)), options={**ANY.options, "arguments": {}})
    tiled = replace(whole, options={**whole.options, "tiling": True})
    assert not VideoFamily().load(whole, "cpu").vae.use_tiling
    assert VideoFamily().load(tiled, "cpu").vae.use_tiling
    # Loaded separately: endpoints without tiling share the weights but not the tiling.
    assert options_name(tiled.options) != options_name(whole.options)
    with pytest.raises(Misconfigured, match=r"me/mine: `options.tiling`"):
        apply_options(object(), tiled)


def test_an_entry_says_in_how_many_frames_its_videos_are_decoded():
    sizes = {"tile_sample_min_num_frames": 64, "tile_sample_stride_num_frames": 40}
    assert CATALOG.get(LTX2).endpoint.options["tiling"] == sizes
    pipeline = SimpleNamespace(vae=autoencoders.ltx2_video())
    assert not pipeline.vae.use_framewise_decoding
    apply_options(pipeline, replace(ANY, options={"tiling": sizes}))
    assert pipeline.vae.use_tiling
    assert pipeline.vae.use_framewise_decoding
    assert pipeline.vae.tile_sample_min_num_frames == 64
    assert pipeline.vae.tile_sample_stride_num_frames == 40
    for wrong in ({"frames": 64}, 64):
        with pytest.raises(Misconfigured, match=r"me/mine: `options.tiling`"):
            apply_options(pipeline, replace(ANY, options={"tiling": wrong}))


def test_an_exact_size_is_rendered_larger_and_cropped_and_made_even(serve):
    pipeline = serve(WAN_T2V).pipeline
    family = VideoFamily()
    arguments = {"prompt": "a", "num_inference_steps": 2, "image_size": {"width": 71, "height": 50}}
    options = {**ANY.options, "arguments": {}}
    endpoint = replace(ANY, options=options)
    call = family.prepare(endpoint, arguments, pipeline, 1)
    assert (call.arguments["width"], call.arguments["height"]) == (80, 64)
    form = call.output_facts["video"].form
    assert (form.width, form.height, form.fps) == (70, 50, Fraction(8))
    webm = family.prepare(endpoint, {**arguments, "output_format": "webm"}, pipeline, 1)
    assert (webm.output_facts["video"].form.width, webm.output_facts["video"].form.height) == (
        71,
        50,
    )


MISTAKES = [
    (
        {"video_format": None},
        Misconfigured,
        "me/mine: its input does not state the width of a video",
    ),
    ({"task": "text-to-image"}, Misconfigured, "does not support the task 'text-to-image'"),
    ({"arguments": {"guidance_scale": "cfg"}}, Misconfigured, "WanPipeline has no argument cfg"),
    ({"task": "image-to-video"}, Misconfigured, "WanPipeline has no argument image"),
]


@pytest.mark.parametrize(("options", "kind", "says"), MISTAKES)
def test_a_mistake_in_an_entry_is_reported(serve, options, kind, says):
    endpoint = replace(ANY, options={**ANY.options, **options})
    fields = {"prompt": "a", "num_inference_steps": 2}
    with pytest.raises(kind, match=says):
        VideoFamily().prepare(endpoint, fields, serve(WAN_T2V).pipeline, 1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_inference_steps": 2}, "prompt: Field required"),
        ({"prompt": "a"}, "num_inference_steps: Field required"),
        ({"prompt": "a", "num_inference_steps": 2, "resolution": "8k"}, "resolution"),
        ({"prompt": "a", "num_inference_steps": 2, "fps": "fast"}, "fps: Input should be a number"),
    ],
)
def test_an_open_endpoint_misses_what_the_pipeline_needs(serve, fields, says):
    with pytest.raises(InvalidInput, match=says):
        VideoFamily().prepare(ANY, fields, serve(WAN_T2V).pipeline, 1)


@pytest.mark.long
def test_the_family_is_bound_without_the_libraries_that_write_videos():
    code = (
        "import sys, deployments.families.video; sys.exit(bool({'av', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0

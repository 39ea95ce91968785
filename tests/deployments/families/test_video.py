"""Video endpoints: from fal's body to the frames, as plain pipelines make them."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
)
from PIL import Image

from deployments.engine.interception.pipeline import view_of, with_shift
from deployments.engine.media.images import fit
from serve_app.catalog.fields.drafts import INPUT_FIELDS as OF_DRAFTS
from serve_app.domain.errors import InvalidInput, Unsupported
from tests.deployments.served import CATALOG, SEED
from tests.deployments.video_cases import (
    CASES,
    EACH,
    SMALL,
    WIDE,
    Case,
    body,
    engine,
    frames,
    pipelines,
    plain,
    serve,
)
from tests.deployments.videos import (
    HUNYUAN,
    HUNYUAN_I2V,
    LARGE_I2V,
    LTX2,
    LTX_I2V,
    LTX_T2V,
    SMALL_I2V,
    SMALL_T2V,
    WAN_I2V,
    WAN_T2V,
    input_image,
)

__all__ = ["engine", "pipelines", "serve"]

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


@pytest.mark.variants(1)
@EACH
def test_a_request_makes_the_frames_of_the_plain_pipeline_bit_for_bit(
    serve, pipelines, endpoint_id
):
    for changes, seed in (({}, 7), ({"seed": None}, SEED)):
        video = frames(serve(endpoint_id), body(endpoint_id, **changes))
        assert torch.equal(video, plain(pipelines(endpoint_id), CASES[endpoint_id], seed))
        assert video.std() > 0.01


@pytest.mark.long
@EACH
def test_every_field_that_is_said_to_have_an_effect_has_one(serve, endpoint_id):
    served = serve(endpoint_id)
    first = frames(served, body(endpoint_id))
    others = {
        "prompt": "a big cat",
        "seed": 8,
        "num_inference_steps": 3,
        **CASES[endpoint_id].others,
    }
    for name, value in others.items():
        changed = frames(served, body(endpoint_id, **{name: value}))
        assert changed.shape != first.shape or not torch.equal(changed, first), name
    shown = served.entry.schema.json_schema()["properties"]
    silent = {
        name for name, field in shown.items() if any(key.startswith("x-darkroom-") for key in field)
    }
    of_the_file = {
        "output_format",
        "video_quality",
        "video_write_mode",
        "sync_mode",
        "frames_per_second",
        "num_frames",  # see test_as_many_frames_are_delivered_as_are_asked_for
        "duration",
        "resolution",  # has no effect here if the model supports only one scale
        "generate_audio",
        "seeds",  # see test_several_outputs.py
        *OF_DRAFTS,
    }
    assert shown.keys() <= others.keys() | silent | of_the_file
    assert not silent & others.keys()


def test_a_video_from_an_image_begins_with_it_as_the_plain_pipelines_do(serve, pipelines):
    for endpoint_id, kind in ((WAN_I2V, None), (SMALL_I2V, WanImageToVideoPipeline)):
        # 3:2 with the area of 720p is 1168×784 in multiples of 16; rendered at 32 for tiny models.
        video = frames(
            serve(endpoint_id),
            body(endpoint_id, image_url="https://example.org/a.png", shift=5),
            image_url=input_image(96, 64),
            num_frames=5,
        )
        pipeline = pipelines(endpoint_id)
        called = pipeline if kind is None else view_of(pipeline, kind)
        case = Case(
            {
                **WIDE,
                "num_frames": 5,
                "image": fit(input_image(96, 64), 32, 16),
                "negative_prompt": CATALOG.get(endpoint_id).schema.validate(
                    {"prompt": "a", "image_url": "https://example.org/a.png"}
                )[0]["negative_prompt"],
                "guidance_scale": 5.0 if kind is None else 3.5,
            },
            shift=5.0,
        )
        assert torch.equal(video, plain(called, case, 7)), endpoint_id


def test_a_video_may_end_with_an_image_too(serve, pipelines):
    fields = body(
        LARGE_I2V,
        image_url="https://example.org/a.png",
        end_image_url="https://example.org/b.png",
    )
    last = Image.new("RGB", (30, 30))
    video = frames(
        serve(LARGE_I2V), fields, image_url=input_image(), end_image_url=last, num_frames=5
    )
    case = Case(
        {
            **WIDE,
            "num_frames": 5,
            "image": fit(input_image(), 32, 16),
            "last_image": fit(last, 32, 16),
            "negative_prompt": "",
            "guidance_scale": 3.5,
            "guidance_scale_2": 3.5,
        },
        shift=5.0,
    )
    assert torch.equal(video, plain(pipelines(LARGE_I2V), case, 7))
    del fields["end_image_url"]
    without = frames(serve(LARGE_I2V), fields, image_url=input_image(), num_frames=5)
    assert not torch.equal(video, without)


@pytest.mark.parametrize("endpoint_id", [WAN_I2V, SMALL_I2V])
def test_a_last_frame_for_which_the_weights_have_no_place_is_refused(serve, endpoint_id):
    fields = body(endpoint_id, image_url="https://example.org/a.png")
    with pytest.raises(InvalidInput, match="end_image_url: these weights take no last frame"):
        serve(endpoint_id).call(
            {**fields, "end_image_url": "https://example.org/b.png"},
            image_url=input_image(),
            end_image_url=input_image(),
        )


def test_ltx_follows_the_image_that_it_is_given(serve):
    served = serve(LTX_I2V, **SMALL)
    fields = body(LTX_I2V, image_url="https://example.org/a.png")
    call = served.call(fields, image_url=input_image(64, 64))
    # The area of the option ``video`` with the image's aspect ratio, in multiples of 32.
    assert (call.output_facts["video"].form.width, call.output_facts["video"].form.height) == (
        32,
        32,
    )
    first = served.run(call).frames
    other = frames(served, fields, image_url=Image.new("RGB", (64, 64)))
    assert not torch.equal(first, other)


def test_hunyuan_begins_with_the_image_as_its_plain_pipeline_does(serve, pipelines):
    served = serve(HUNYUAN_I2V)
    fields = body(HUNYUAN_I2V, image_url="https://example.org/a.png")
    video = frames(served, fields, image_url=input_image(96, 64), num_frames=5)
    begun = {
        **WIDE,
        "num_frames": 5,
        "image": fit(input_image(96, 64), 32, 16),
        "guidance_scale": 6.0,
    }
    assert torch.equal(video, plain(pipelines(HUNYUAN_I2V), Case(begun), 7))
    # Its prompt is encoded together with the image, and its first frame is the image.
    other = frames(served, fields, image_url=Image.new("RGB", (96, 64)), num_frames=5)
    assert not torch.equal(video[0, 0], other[0, 0])
    assert not torch.equal(video[0, -1], other[0, -1])
    upright = served.call({**fields, "aspect_ratio": "9:16"}, image_url=input_image(), num_frames=5)
    assert (upright.arguments["width"], upright.arguments["height"]) == (16, 32)


SIZES = [
    (WAN_T2V, {"resolution": "480p"}, (832, 480)),
    (WAN_T2V, {"aspect_ratio": "9:16"}, (720, 1280)),
    (SMALL_T2V, {"resolution": "580p", "aspect_ratio": "1:1"}, (768, 768)),
    (HUNYUAN, {"resolution": "580p"}, (1024, 576)),
    (LTX2, {}, (1920, 1080)),
    (LTX2, {"resolution": "1440p"}, (2560, 1440)),
    (LTX2, {"resolution": "2160p"}, (3840, 2160)),
]


@pytest.mark.parametrize(("endpoint_id", "fields", "size"), SIZES)
def test_the_file_has_the_size_that_is_asked_for(serve, endpoint_id, fields, size):
    form = serve(endpoint_id).call(body(endpoint_id, **fields)).output_facts["video"].form
    assert (form.width, form.height) == size


def test_a_resolution_is_rendered_in_the_multiples_that_the_model_knows(serve):
    video = {"width": 100, "height": 70, "num_frames": 5, "fps": 8}
    call = serve(LTX_T2V, native_size=None, video_format=video).call(body(LTX_T2V))
    assert (call.arguments["width"], call.arguments["height"]) == (96, 64)
    assert (call.output_facts["video"].form.width, call.output_facts["video"].form.height) == (
        96,
        64,
    )


def test_lines_that_a_model_cannot_render_are_rendered_beyond_and_cropped(serve):
    call = serve(LTX2, native_size=None).call(body(LTX2))
    assert (call.arguments["width"], call.arguments["height"]) == (1920, 1088)
    assert (call.output_facts["video"].form.width, call.output_facts["video"].form.height) == (
        1920,
        1080,
    )


@pytest.mark.parametrize(("asked", "rendered"), [(17, 17), (18, 21), (20, 21), (22, 25)])
def test_as_many_frames_are_delivered_as_are_asked_for(serve, asked, rendered):
    served = serve(SMALL_T2V)
    call = served.call(body(SMALL_T2V, num_frames=asked, num_inference_steps=2))
    assert call.arguments["num_frames"] == rendered
    assert call.output_facts["video"].form.num_frames == asked


def test_a_shift_needs_a_solver_that_has_one():
    euler = with_shift(FlowMatchEulerDiscreteScheduler(shift=1.0), 4.0)
    unipc = with_shift(UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=1.0), 4.0)
    assert (euler.config["shift"], unipc.config["flow_shift"]) == (4.0, 4.0)
    with pytest.raises(Unsupported, match="has no shift"):
        with_shift(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 4.0)

"""Endpoints of clips: from fal's body to the pipeline's call, over tiny pipelines of the classes
that their weights are of, and from the frames to the files."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
)
from PIL import Image

from deployments.amendments import amended, amendments_name
from deployments.engine.engine import Engine
from deployments.engine.media import fit, to_levels
from deployments.engine.solver import shifted
from deployments.engine.views import view_of
from deployments.family import Made
from deployments.scratch import Scratch
from deployments.video import VideoFamily
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Cancelled, InvalidInput, Misconfigured, Unsupported
from tests.deployments import clips
from tests.deployments.clips import (
    HUNYUAN,
    LARGE_I2V,
    LARGE_T2V,
    LTX2,
    LTX_I2V,
    LTX_T2V,
    MAKE,
    SHORT_TEXT,
    SMALL_I2V,
    SMALL_T2V,
    WAN_I2V,
    WAN_T2V,
    deliver,
    given,
    seen,
    tickets,
)
from tests.deployments.served import CATALOG, SEED, Served
from tests.engine.conformance import zoo

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

SMALL = {"clip": {"width": 64, "height": 32, "num_frames": 9, "fps": 25}}
WIDE, SQUARE = {"width": 32, "height": 16}, {"width": 32, "height": 32}


@dataclass(frozen=True)
class Case:
    """What a body becomes."""

    plain: dict[str, Any]  # the pipeline's arguments beside those that all have
    others: dict[str, Any] = field(default_factory=dict)  # fields that change the frames, so
    body: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    shift: float | None = None  # of the solver
    few: dict[str, Any] = field(default_factory=dict)  # in place of what the schema asks for


UNWANTED = {"negative_prompt": "a new hat"}
CASES = {
    WAN_T2V: Case(
        {**WIDE, **UNWANTED, "num_frames": 5, "guidance_scale": 5.0},
        {"negative_prompt": "a big cat", "aspect_ratio": "9:16"},
        UNWANTED,
        few={"num_frames": 5},
    ),
    SMALL_T2V: Case(
        {**WIDE, **UNWANTED, "num_frames": 17, "guidance_scale": 4.0},
        {
            "negative_prompt": "a big cat",
            "guidance_scale": 2.0,
            "shift": 2.0,
            "num_frames": 21,
            "aspect_ratio": "1:1",
        },
        {**UNWANTED, "num_frames": 17, "guidance_scale": 4.0, "shift": 3.0},
        shift=3.0,
    ),
    LARGE_T2V: Case(
        {
            **WIDE,
            "negative_prompt": "",
            "num_frames": 5,
            "guidance_scale": 3.0,
            "guidance_scale_2": 6.0,
        },
        {
            "negative_prompt": "a big cat",
            "guidance_scale": 2.0,
            "guidance_scale_2": 2.0,
            "shift": 2.0,
            "aspect_ratio": "9:16",
        },
        {"guidance_scale": 3.0, "guidance_scale_2": 6.0},
        shift=5.0,
        few={"num_frames": 5},
    ),
    LTX_T2V: Case(
        {**SQUARE, **UNWANTED, "num_frames": 9, "frame_rate": 25.0, "guidance_scale": 4.0},
        {"negative_prompt": "a big cat", "guidance_scale": 2.0},
        {**UNWANTED, "guidance_scale": 4.0},
        SMALL,
    ),
    LTX2: Case(
        {**SQUARE, "num_frames": 9, "frame_rate": 25.0},
        {"fps": "50"},
        few={"duration": 0.36},
    ),
    HUNYUAN: Case({**WIDE, "num_frames": 5}, {"aspect_ratio": "9:16"}, few={"num_frames": 5}),
}
EACH = pytest.mark.parametrize("endpoint_id", CASES)


@pytest.fixture(scope="module")
def engine():
    with Engine(device="cpu", threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def pipelines():
    """Made when they are asked for, once."""
    made: dict[str, Any] = {}

    def pipeline(endpoint_id: str) -> Any:
        if endpoint_id not in made:
            made[endpoint_id] = MAKE[endpoint_id]()
        return made[endpoint_id]

    return pipeline


@pytest.fixture
def serve(engine, pipelines):
    def served(endpoint_id: str, **options: Any) -> Served:
        case = CASES.get(endpoint_id)
        more = {**(case.options if case else {}), **options}
        return Served(clips.entry(endpoint_id, **more), pipelines(endpoint_id), engine)

    return served


def body(endpoint_id: str, **changes: Any) -> dict[str, Any]:
    common = {"prompt": "a red dog", "num_inference_steps": 2, "seed": 7}
    return {**common, **(CASES[endpoint_id].body if endpoint_id in CASES else {}), **changes}


def call_of(served: Served, fields: dict[str, Any], **pictures: Any) -> Any:
    """Of a clip short enough for a test."""
    case = CASES.get(served.entry.endpoint.id)
    return served.call(fields, **(case.few if case else {}), **pictures)


def frames(served: Served, fields: dict[str, Any], **pictures: Any) -> torch.Tensor:
    return served.run(call_of(served, fields, **pictures)).frames


def plain(pipeline: Any, case: Case, seed: int, **changes: Any) -> torch.Tensor:
    own = pipeline.scheduler
    if case.shift is not None:
        pipeline.scheduler = shifted(own, case.shift)
    try:
        return pipeline(
            prompt="a red dog",
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **{**SHORT_TEXT, **case.plain, **changes},
        ).frames
    finally:
        pipeline.scheduler = own


@EACH
def test_a_request_makes_the_frames_of_the_plain_pipeline_bit_for_bit(
    serve, pipelines, endpoint_id
):
    for changes, seed in (({}, 7), ({"seed": None}, SEED)):
        made = frames(serve(endpoint_id), body(endpoint_id, **changes))
        assert torch.equal(made, plain(pipelines(endpoint_id), CASES[endpoint_id], seed))
        assert made.std() > 0.01


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
        "num_frames",  # test_as_many_frames_are_delivered_as_are_asked_for
        "duration",
        "resolution",  # all are rendered alike here, where the models know one scale only
        "generate_audio",
        "seeds",  # test_several_outputs.py
    }
    assert shown.keys() <= others.keys() | silent | of_the_file
    assert not silent & others.keys()


def test_a_clip_from_a_picture_begins_with_it_as_the_plain_pipelines_do(serve, pipelines):
    for endpoint_id, kind in ((WAN_I2V, None), (SMALL_I2V, WanImageToVideoPipeline)):
        # 3:2, at the area of 720p, is 1168×784 in sixteens; drawn at 32 for tiny models.
        made = frames(
            serve(endpoint_id),
            body(endpoint_id, image_url="https://example.org/a.png", shift=5),
            image_url=given(96, 64),
            num_frames=5,
        )
        pipeline = pipelines(endpoint_id)
        called = pipeline if kind is None else view_of(pipeline, kind)
        case = Case(
            {
                **WIDE,
                "num_frames": 5,
                "image": fit(given(96, 64), 32, 16),
                "negative_prompt": CATALOG.get(endpoint_id).schema.validate(
                    {"prompt": "a", "image_url": "https://example.org/a.png"}
                )[0]["negative_prompt"],
                "guidance_scale": 5.0 if kind is None else 3.5,
            },
            shift=5.0,
        )
        assert torch.equal(made, plain(called, case, 7)), endpoint_id


def test_a_clip_may_end_with_a_picture_too(serve, pipelines):
    fields = body(
        LARGE_I2V,
        image_url="https://example.org/a.png",
        end_image_url="https://example.org/b.png",
    )
    last = Image.new("RGB", (30, 30))
    made = frames(serve(LARGE_I2V), fields, image_url=given(), end_image_url=last, num_frames=5)
    case = Case(
        {
            **WIDE,
            "num_frames": 5,
            "image": fit(given(), 32, 16),
            "last_image": fit(last, 32, 16),
            "negative_prompt": "",
            "guidance_scale": 3.5,
            "guidance_scale_2": 3.5,
        },
        shift=5.0,
    )
    assert torch.equal(made, plain(pipelines(LARGE_I2V), case, 7))
    del fields["end_image_url"]
    without = frames(serve(LARGE_I2V), fields, image_url=given(), num_frames=5)
    assert not torch.equal(made, without)


def test_ltx_follows_the_picture_that_it_is_given(serve):
    served = serve(LTX_I2V, **SMALL)
    fields = body(LTX_I2V, image_url="https://example.org/a.png")
    call = served.call(fields, image_url=given(64, 64))
    # The area of the option ``clip`` in the picture's shape, in thirty-twos.
    assert (call.facts["clip"].form.width, call.facts["clip"].form.height) == (32, 32)
    first = served.run(call).frames
    other = frames(served, fields, image_url=Image.new("RGB", (64, 64)))
    assert not torch.equal(first, other)


SIZES = [
    (WAN_T2V, {"resolution": "480p"}, (832, 480)),
    (WAN_T2V, {"aspect_ratio": "9:16"}, (720, 1280)),
    (SMALL_T2V, {"resolution": "580p", "aspect_ratio": "1:1"}, (768, 768)),
    (HUNYUAN, {"resolution": "580p"}, (1024, 576)),
    (LTX2, {"resolution": "1440p"}, (2560, 1440)),
]


@pytest.mark.parametrize(("endpoint_id", "fields", "size"), SIZES)
def test_the_file_has_the_size_that_is_asked_for(serve, endpoint_id, fields, size):
    form = serve(endpoint_id).call(body(endpoint_id, **fields)).facts["clip"].form
    assert (form.width, form.height) == size


def test_a_resolution_is_rendered_in_the_multiples_that_the_model_knows(serve):
    clip = {"width": 100, "height": 70, "num_frames": 5, "fps": 8}
    call = serve(LTX_T2V, native_size=None, clip=clip).call(body(LTX_T2V))
    assert (call.arguments["width"], call.arguments["height"]) == (96, 64)
    assert (call.facts["clip"].form.width, call.facts["clip"].form.height) == (96, 64)


@pytest.mark.parametrize(("asked", "rendered"), [(17, 17), (18, 21), (20, 21), (22, 25)])
def test_as_many_frames_are_delivered_as_are_asked_for(serve, asked, rendered):
    served = serve(SMALL_T2V)
    call = served.call(body(SMALL_T2V, num_frames=asked, num_inference_steps=2))
    assert call.arguments["num_frames"] == rendered
    assert call.facts["clip"].form.num_frames == asked


def as_delivered(served: Served, product: Any) -> Any:
    return seen(product.files[0].body)


def test_the_product_is_a_clip_with_its_first_frame_and_what_fal_tells_of_it(serve):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V))
    result = served.run(call)
    product = deliver(served, call, result)
    assert product.output == {
        "video": {
            "artifact": "key-0",
            "width": 64,
            "height": 32,
            "content_type": "video/mp4",
            "file_size": product.files[0].size,
            "fps": 25,
            "duration": 0.36,
            "num_frames": 9,
        },
        "poster": {
            "artifact": "key-1",
            "width": 64,
            "height": 32,
            "content_type": "image/jpeg",
            "file_size": product.files[1].size,
        },
        "seed": 7,
        "prompt": "a red dog",
        "timings": {"inference": 1.5},
    }
    assert product.units == 0.36
    clip = seen(product.files[0].body)
    assert (clip.codec, clip.pixels, clip.size, clip.fps) == ("h264", "yuv420p", (64, 32), 25)
    assert clip.duration_s == 0.36
    assert len(clip.frames) == 9
    drawn = [
        np.asarray(fit(Image.fromarray(each), 64, 32), dtype=int)
        for each in to_levels(result.frames[0])
    ]
    for number, made in enumerate(clip.frames):  # scaled, and lossy, but in their order
        errors = [np.abs(made.astype(int) - each).mean() for each in drawn]
        assert np.argmin(errors) == number
    poster = Image.open(BytesIO(product.files[1].body))
    assert (poster.format, poster.size) == ("JPEG", (64, 32))


def test_the_same_seed_gives_the_same_bytes(serve):
    def made() -> bytes:
        served = serve(LTX_T2V)
        call = served.call(body(LTX_T2V))
        return deliver(served, call, served.run(call)).files[0].body.read_bytes()

    assert made() == made()


def test_ltx_2_comes_with_its_sound_unless_it_is_not_wanted(serve):
    served = serve(LTX2, clip={"width": 64, "height": 32})
    result = served.run(call_of(served, body(LTX2), resolution=None))
    for wanted, sound in ((True, ("aac", 24000)), (False, None)):
        call = call_of(served, body(LTX2, generate_audio=wanted), resolution=None)
        product = deliver(served, call, result)
        clip = seen(product.files[0].body)
        assert (clip.sound[:2] if clip.sound else None) == sound
        assert clip.duration_s == pytest.approx(0.36, abs=0.03)
        assert product.output["video"]["num_frames"] == len(clip.frames) == 9


@pytest.mark.parametrize(("name", "codec"), [("webm", "vp9"), ("gif", "gif")])
def test_other_formats_are_written_as_asked(serve, name, codec):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V, output_format=name))
    product = deliver(served, call, served.run(call))
    clip = seen(product.files[0].body)
    assert (clip.codec, clip.size, len(clip.frames)) == (codec, (64, 32), 9)
    assert product.output["video"]["content_type"] == call.facts["clip"].form.media_type


def test_a_gif_is_refused_at_a_pace_that_it_cannot_have(serve):
    with pytest.raises(InvalidInput, match="output_format: a GIF has at most 50"):
        serve(SMALL_T2V).call(
            body(SMALL_T2V, output_format="gif", frames_per_second=60, num_frames=17)
        )


def test_the_quality_and_the_effort_of_the_file_are_the_requests(serve):
    served = serve(LTX_T2V)
    sizes = {}
    result = served.run(served.call(body(LTX_T2V)))
    for quality in ("low", "maximum"):
        fields = body(LTX_T2V, video_quality=quality, video_write_mode="fast")
        sizes[quality] = deliver(served, served.call(fields), result).files[0].size
    assert sizes["low"] < sizes["maximum"]


def test_files_that_nobody_waits_for_are_given_up_between_two_frames(serve):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V))
    result = served.run(call)
    told: list[tuple[int, int]] = []

    def on_made(done: int, total: int) -> None:
        told.append((done, total))
        if done == 3:
            scratch.close()

    scratch = Scratch(on_made)
    made = Made(result, 1.0, 2, scratch)
    folder = scratch.new_file("mp4").parent
    with pytest.raises(Cancelled), scratch.at_work():
        served.family.deliver(served.entry.endpoint, call, made, tickets())
    assert told == [(1, 9), (2, 9), (3, 9)]
    assert not folder.exists()


def test_a_lease_with_tickets_for_other_files_is_a_mistake_of_ours(serve):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V))
    made = Made(served.run(call), 1.0, 2)
    for wrong in ((), tickets(media_type="video/webm")):
        with pytest.raises(Misconfigured, match=r"makes a clip as video/mp4"):
            served.family.deliver(served.entry.endpoint, call, made, wrong)


def test_a_clip_without_a_second_ticket_has_no_poster(serve):
    served = serve(LTX_T2V)
    call = served.call(body(LTX_T2V))
    product = deliver(served, call, served.run(call), count=1)
    assert "poster" not in product.output
    assert len(product.files) == 1


WRONG = [
    (SMALL_T2V, {"num_frames": 16}, "num_frames"),
    (SMALL_T2V, {"num_frames": 162}, "num_frames"),
    (SMALL_T2V, {"frames_per_second": 0}, "frames_per_second"),
    (SMALL_T2V, {"resolution": "4k"}, "resolution"),
    (SMALL_T2V, {"aspect_ratio": "auto"}, "aspect_ratio"),
    (SMALL_T2V, {"shift": 0.5}, "shift"),
    (SMALL_T2V, {"video_quality": "best"}, "video_quality"),
    (SMALL_T2V, {"output_format": "avi"}, "output_format"),
    (SMALL_T2V, {"interpolator_model": "other"}, "interpolator_model"),
    (LARGE_I2V, {"image_url": "a.png"}, "image_url"),
    (LARGE_I2V, {"image_url": "https://a.b/c.png", "end_image_url": "c"}, "end_image_url"),
    (LTX2, {"duration": 7}, "duration"),
    (HUNYUAN, {"num_frames": 100}, "num_frames"),
]


@pytest.mark.parametrize(("endpoint_id", "fields", "name"), WRONG)
def test_a_wrong_field_is_refused_by_its_name(endpoint_id, fields, name):
    with pytest.raises(InvalidInput) as caught:
        CATALOG.get(endpoint_id).schema.validate({"prompt": "a", **fields})
    assert [problem.loc for problem in caught.value.problems] == [("body", name)]


def test_what_cannot_be_honoured_is_said_in_the_log_and_what_happens_anyway_is_not():
    schema = CATALOG.get(LARGE_T2V).schema
    asked = {
        "prompt": "a",
        "interpolator_model": "rife",
        "num_interpolated_frames": 2,
        "adjust_fps_for_interpolation": False,
        "enable_prompt_expansion": True,
        "enable_safety_checker": True,
        "enable_output_safety_checker": True,
        "acceleration": "regular",
    }
    told = schema.validate(asked)[1]
    assert sorted(each.partition(" ")[0] for each in told) == sorted(asked.keys() - {"prompt"})
    quiet = {"prompt": "a", "interpolator_model": "none", "enable_prompt_expansion": False}
    assert schema.validate({**quiet, "acceleration": "none"})[1] == ()


def test_a_shift_needs_a_solver_that_has_one():
    euler = shifted(FlowMatchEulerDiscreteScheduler(shift=1.0), 4.0)
    unipc = shifted(UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=1.0), 4.0)
    assert (euler.config["shift"], unipc.config["flow_shift"]) == (4.0, 4.0)
    with pytest.raises(Unsupported, match="has no shift"):
        shifted(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 4.0)


ANY = Endpoint(
    "me/mine",
    "video",
    Weights("/"),
    "open",
    options={
        "task": "text-to-video",
        "arguments": {"guidance_scale": "guidance_scale"},
        "fixed": SHORT_TEXT,
        "clip": {"width": 70, "height": 50, "num_frames": 6, "fps": 8},
    },
)


def test_any_other_pipeline_of_clips_is_served_by_its_entry_alone(engine, tmp_path):
    folder = tmp_path / "weights"
    zoo.cases()["CogVideoXPipeline"].build().save_pretrained(folder, safe_serialization=True)
    options = {**ANY.options, "clip": {**ANY.options["clip"], "width": 64, "height": 48}}
    endpoint = replace(ANY, weights=Weights(str(folder)), options=options)
    family = VideoFamily()
    pipeline = family.load(endpoint, "cpu")
    asked = {"prompt": "a red dog", "num_inference_steps": 2, "guidance_scale": 2.0, "seed": 7}
    call = family.prepare(endpoint, asked, pipeline, 1)
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
    product = family.deliver(endpoint, call, Made(result, 1.0, 2), tickets())
    assert len(seen(product.files[0].body).frames) == 6


def test_an_autoencoder_takes_tiles_where_its_entry_says_so(tmp_path):
    folder = tmp_path / "weights"
    MAKE[HUNYUAN]().save_pretrained(folder, safe_serialization=True)
    whole = replace(ANY, weights=Weights(str(folder)), options={**ANY.options, "arguments": {}})
    tiled = replace(whole, options={**whole.options, "tiling": True})
    assert not VideoFamily().load(whole, "cpu").vae.use_tiling
    assert VideoFamily().load(tiled, "cpu").vae.use_tiling
    # Loaded apart: endpoints without it share the weights and not the tiles.
    assert amendments_name(tiled.options) != amendments_name(whole.options)
    with pytest.raises(Misconfigured, match=r"me/mine: `options.tiling`"):
        amended(object(), tiled)


def test_an_exact_size_is_rendered_larger_and_cropped_and_made_even(serve):
    pipeline = serve(WAN_T2V).pipeline
    family = VideoFamily()
    asked = {"prompt": "a", "num_inference_steps": 2, "image_size": {"width": 71, "height": 50}}
    options = {**ANY.options, "arguments": {}}
    endpoint = replace(ANY, options=options)
    call = family.prepare(endpoint, asked, pipeline, 1)
    assert (call.arguments["width"], call.arguments["height"]) == (80, 64)
    form = call.facts["clip"].form
    assert (form.width, form.height, form.fps) == (70, 50, Fraction(8))
    webm = family.prepare(endpoint, {**asked, "output_format": "webm"}, pipeline, 1)
    assert (webm.facts["clip"].form.width, webm.facts["clip"].form.height) == (71, 50)


MISTAKES = [
    ({"clip": None}, Misconfigured, "me/mine: its input does not say the width of a clip"),
    ({"task": "text-to-image"}, Misconfigured, "does not know the task 'text-to-image'"),
    ({"arguments": {"guidance_scale": "cfg"}}, Misconfigured, "WanPipeline takes no cfg"),
    ({"task": "image-to-video"}, Misconfigured, "WanPipeline takes no image"),
]


@pytest.mark.parametrize(("options", "kind", "says"), MISTAKES)
def test_a_mistake_in_an_entry_is_told(serve, options, kind, says):
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


def test_a_last_frame_is_refused_by_who_does_not_take_one(serve):
    fields = body(LTX_I2V, image_url="https://example.org/a.png")
    with pytest.raises(InvalidInput, match="end_image_url: this model"):
        serve(LTX_I2V, **SMALL).call(fields, image_url=given(), end_image_url=given())


def test_the_family_is_bound_without_the_libraries_that_write_clips():
    code = "import sys, deployments.video; sys.exit(bool({'av', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0

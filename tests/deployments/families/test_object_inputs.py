"""Lists of objects in an input, such as images with a place in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from PIL import Image

from deployments.engine.engine import Engine
from deployments.engine.interception.item_classes import item_classes
from deployments.engine.media.input import InputKind
from deployments.families import video_io
from deployments.families.base import GenerationCall
from deployments.families.object_inputs import object_arguments
from deployments.families.options import input_files, required_files, with_files
from deployments.families.video import VideoFamily
from deployments.families.warm_up import plain_file, warm_up_input
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.options.inputs import declared_inputs
from tests.engine.conformance.derived import entry_of
from tests.engine.conformance.zoo import cases

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

URL = "https://example.org/file"
CASE = cases()["LTXConditionPipeline, with conditions"]
SMALL = {
    "prompt": "a red dog",
    "image_size": {"width": 32, "height": 32},
    "num_frames": 17,
    "frames_per_second": 25,
    "num_inference_steps": 2,
    "max_sequence_length": 16,
    "seed": 1,
}


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return CASE.build()


@pytest.fixture
def endpoint(pipeline: Any) -> Endpoint:
    listed = entry_of(CASE, pipeline).endpoint
    return replace(listed, options={**listed.options, "dtype": "float32"})


def picture(seed: int, side: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def call(endpoint: Endpoint, pipeline: Any, **fields: Any) -> GenerationCall:
    return VideoFamily().prepare(endpoint, {**SMALL, **fields}, pipeline, 1)


def frames(pipeline: Any, prepared: GenerationCall) -> torch.Tensor:
    with Engine(pipeline, device="cpu", threads=1) as engine:
        return engine.submit(**prepared.arguments).result(300).frames


def test_each_object_becomes_one_of_the_class_that_the_call_names(
    endpoint: Endpoint, pipeline: Any
) -> None:
    image, video = picture(1), plain_file(InputKind.VIDEO)
    items = [{"image_url": image, "strength": 0.5}, {"video_url": video, "frame_index": 8}]
    first, second = call(endpoint, pipeline, conditions=items).arguments["conditions"]
    assert isinstance(first, LTXVideoCondition)
    assert (first.image.size, first.frame_index, first.strength) == ((32, 32), 0, 0.5)
    assert (second.image, second.frame_index, second.strength) == (None, 8, 1.0)
    assert {frame.size for frame in second.video} == {(32, 32)}


def test_a_request_makes_what_the_pipeline_makes_and_another_place_in_time_something_else(
    endpoint: Endpoint, pipeline: Any
) -> None:
    def made(frame_index: int) -> torch.Tensor:
        items = [{"image_url": picture(1), "frame_index": frame_index, "strength": 1.0}]
        return frames(pipeline, call(endpoint, pipeline, conditions=items))

    direct = pipeline(
        conditions=[LTXVideoCondition(image=picture(1), frame_index=8)],
        **{n: SMALL[n] for n in ("prompt", "num_frames", "num_inference_steps")},
        **SMALL["image_size"],
        max_sequence_length=16,
        frame_rate=25.0,
        generator=torch.Generator("cpu").manual_seed(1),
        output_type="pt",
    ).frames
    assert torch.allclose(made(8), direct, atol=1e-5)
    assert not torch.allclose(made(8), made(0), atol=1e-2)


def test_files_in_objects_are_fetched_under_their_place(endpoint: Endpoint) -> None:
    arguments = {"conditions": [{"image_url": URL}, {"video_url": URL, "image_url": None}]}
    files = input_files(endpoint, arguments)
    assert [(file.place, file.kind) for file in files] == [
        ("conditions.0.image_url", "image"),
        ("conditions.1.video_url", "video"),
    ]
    filled = with_files(arguments, dict(zip(files, "xy", strict=True)))
    assert filled["conditions"] == [{"image_url": "x"}, {"video_url": "y", "image_url": None}]


def test_the_video_has_the_shape_of_the_first_file_of_its_objects(
    endpoint: Endpoint, pipeline: Any
) -> None:
    wide = Image.new("RGB", (128, 32))
    prepared = call(endpoint, pipeline, image_size=None, conditions=[{"image_url": wide}])
    assert prepared.arguments["width"] > 2 * prepared.arguments["height"]


@pytest.mark.parametrize("index", [-1, 17])
def test_a_place_in_time_outside_the_video_is_refused_with_its_field(
    endpoint: Endpoint, pipeline: Any, index: int
) -> None:
    items = [{"image_url": picture(1)}, {"image_url": picture(1), "frame_index": index}]
    with pytest.raises(InvalidInput, match=r"conditions\.1\.frame_index: .* 0 to 16 for a video"):
        call(endpoint, pipeline, conditions=items)


def test_a_file_that_means_an_object_of_its_own_does_not_go_with_a_list(
    endpoint: Endpoint, pipeline: Any
) -> None:
    with pytest.raises(InvalidInput, match="image_url and conditions cannot both be set"):
        call(endpoint, pipeline, image_url=picture(1), conditions=[{"image_url": picture(1)}])


def test_videos_in_objects_share_the_memory_for_frames(
    endpoint: Endpoint, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_io, "MAX_PIXELS", 32 * 32 * 20)
    item = {"video_url": plain_file(InputKind.VIDEO)}
    call(endpoint, pipeline, conditions=[item])
    with pytest.raises(InvalidInput, match=r"conditions\.0\.video_url: .* more than 10 frames"):
        call(endpoint, pipeline, conditions=[item, item])


def test_an_attribute_that_the_class_lacks_is_a_mistake_of_the_entry(
    endpoint: Endpoint, pipeline: Any
) -> None:
    inputs: dict[str, Any] = {**endpoint.options["inputs"]}
    inputs["conditions"] = {"type": "objects", "fields": {"frame_idx": {"type": "integer"}}}
    wrong = replace(endpoint, options={**endpoint.options, "inputs": inputs})
    with pytest.raises(Misconfigured, match=r"no argument conditions\.frame_idx"):
        call(wrong, pipeline)


def test_the_warm_up_has_the_least_of_required_objects(endpoint: Endpoint, pipeline: Any) -> None:
    inputs: dict[str, Any] = {**endpoint.options["inputs"]}
    inputs["conditions"] = {**inputs["conditions"], "required": True}
    needy = replace(endpoint, options={**endpoint.options, "inputs": inputs})
    (item,) = warm_up_input(needy)["conditions"]
    assert item.keys() == {"image_url"}
    assert not required_files(needy)
    prepared = VideoFamily().warm_up(needy, pipeline)
    assert isinstance(prepared.arguments["conditions"][0], LTXVideoCondition)


def test_objects_without_a_class_are_mappings() -> None:
    inputs = declare_objects(
        {
            "start_window": {"type": "integer"},
            "end_window": {"type": "integer"},
            "text": {"type": "text"},
        },
        "prompt_segments",
    )
    segments = [{"start_window": 0, "end_window": 1, "text": "a"}, {"end_window": 2, "text": "b"}]
    kind = diffusers.LTXI2VLongMultiPromptPipeline
    arguments = object_arguments(inputs, {"prompt_segments": segments}, kind)
    assert arguments == {"prompt_segments": segments}


def test_the_kind_of_an_object_follows_from_the_file_that_it_has() -> None:
    kind = diffusers.MiniMaxH3ModularPipeline
    names = {"image_url": "image", "video_url": "frames", "audio_url": "audio"}
    fields = {n: {"type": n.removesuffix("_url"), "argument": a} for n, a in names.items()}
    items = [{name: "file"} for name in fields]
    arguments = object_arguments(declare_objects(fields), {"references": items}, kind)
    assert [type(reference).__name__ for reference in arguments["references"]] == [
        "MiniMaxH3ImageReference",
        "MiniMaxH3VideoReference",
        "MiniMaxH3AudioReference",
    ]
    both = [{"image_url": "file", "audio_url": "file"}]
    with pytest.raises(InvalidInput, match=r"references\.0: .* image_url and audio_url"):
        object_arguments(declare_objects(fields), {"references": both}, kind)


def test_fields_of_fals_that_the_class_lacks_do_not_reach_the_object(pipeline: Any) -> None:
    fals = entry_of(CASE, pipeline, "fal-ai/ltx-video-v095/multiconditioning").endpoint
    url, item = picture(1), {"reverse_video": False, "preprocess": True}
    prepared = call(fals, pipeline, images=[{"image_url": url, **item}])
    assert isinstance(prepared.arguments["conditions"][0], LTXVideoCondition)


def test_only_data_classes_of_diffusers_are_made() -> None:
    assert item_classes(diffusers.LTX2DFRPipeline, "conditions")
    assert not item_classes(diffusers.LTX2DFRPipeline, "video_tiles")
    assert not item_classes(diffusers.LTX2DFRPipeline, "prompt")
    assert len(item_classes(diffusers.LTX25ModularPipeline, "reference_conditions")) == 1


def declare_objects(fields: Mapping[str, Any], name: str = "references") -> Any:
    options = {"inputs": {name: {"type": "objects", "fields": fields}}}
    endpoint = entry_of(CASE, None).endpoint
    return declared_inputs(replace(endpoint, options=options))


def test_the_frames_of_a_video_are_taken_at_the_rate_of_the_result(
    endpoint: Endpoint, pipeline: Any
) -> None:
    rates: list[Fraction] = []

    class Video:
        size = (32, 32)
        fps = Fraction(24)

        def frames(self, width: int, height: int, fps: Fraction, most: int) -> list[Image.Image]:
            rates.append(fps)
            return [Image.new("RGB", (width, height))] * min(9, most)

    call(endpoint, pipeline, frames_per_second=12, conditions=[{"video_url": Video()}])
    assert rates == [12]

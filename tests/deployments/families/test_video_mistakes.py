"""Video endpoints: refused inputs, and warnings about fields without effect."""

from __future__ import annotations

import pytest

from deployments.families.video import VideoFamily
from serve_app.domain.errors import InvalidInput
from serve_app.options.inputs import declared_inputs
from tests.deployments.served import CATALOG
from tests.deployments.video_cases import (
    SMALL,
    body,
    engine,
    pipelines,
    serve,
)
from tests.deployments.videos import (
    HUNYUAN,
    LARGE_I2V,
    LARGE_T2V,
    LTX2,
    LTX_I2V,
    SMALL_T2V,
    input_image,
)
from tests.engine.conformance.derived import entry_of
from tests.engine.conformance.zoo import cases

__all__ = ["engine", "pipelines", "serve"]

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]


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
    arguments = {
        "prompt": "a",
        "interpolator_model": "rife",
        "num_interpolated_frames": 2,
        "adjust_fps_for_interpolation": False,
        "enable_prompt_expansion": True,
        "enable_safety_checker": True,
        "enable_output_safety_checker": True,
        "acceleration": "regular",
    }
    reported = schema.validate(arguments)[1]
    assert sorted(warning.partition(" ")[0] for warning in reported) == sorted(
        arguments.keys() - {"prompt"}
    )
    quiet = {"prompt": "a", "interpolator_model": "none", "enable_prompt_expansion": False}
    assert schema.validate({**quiet, "acceleration": "none"})[1] == ()


def test_a_last_frame_is_refused_by_who_does_not_take_one(serve):
    fields = body(LTX_I2V, image_url="https://example.org/a.png")
    with pytest.raises(InvalidInput, match="end_image_url: these weights take no last frame"):
        serve(LTX_I2V, **SMALL).call(fields, image_url=input_image(), end_image_url=input_image())


@pytest.mark.parametrize("title", ["WanVACEPipeline", "Wan22VaceModularPipeline"])
def test_more_images_of_reference_than_frames_of_latents_are_refused_by_their_field(title):
    """Wan VACE has a mask for each of them, which it takes from those of the frames."""
    case = cases()[title]
    pipeline = case.build()
    endpoint = entry_of(case, pipeline).endpoint
    field = next(
        name
        for name, declared in declared_inputs(endpoint).items()
        if declared.argument == "reference_images"
    )
    body = {
        "prompt": "a red dog",
        "image_size": {"width": 16, "height": 16},
        "num_frames": 5,
        "fps": 16,
        "num_inference_steps": 2,
    }
    latents = 1 + 4 // pipeline.vae_scale_factor_temporal
    images = [input_image().convert("RGB")] * (latents + 1)
    VideoFamily().prepare(endpoint, {**body, field: images[:latents]}, pipeline, 1)
    with pytest.raises(InvalidInput) as caught:
        VideoFamily().prepare(endpoint, {**body, field: images}, pipeline, 1)
    assert [problem.loc for problem in caught.value.problems] == [("body", field)]

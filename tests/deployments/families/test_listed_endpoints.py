"""Built-in endpoints without a demo model: from fal's body to the pipeline's call, over tiny
pipelines of their weights' classes."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LCMScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from PIL import Image, ImageDraw

from deployments.engine.engine import Engine
from deployments.families.flux2 import shifted_sigmas
from serve_app.catalog.fields.drafts import INPUT_FIELDS as OF_DRAFTS
from serve_app.domain.errors import InvalidInput
from tests.deployments.served import CATALOG, SEED, Served
from tests.engine.tiny import tiny_sdxl
from tests.engine.tiny_qwen import tiny_flux2_klein, tiny_qwen_image, tiny_z_image

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

LCM, Z_IMAGE = "fal-ai/fast-lcm-diffusion", "fal-ai/z-image/turbo"
QWEN_IMAGE, FLUX2 = "fal-ai/qwen-image", "fal-ai/flux-2/klein/realtime"
SIZE = {"width": 64, "height": 96}


def tiny_lcm() -> Any:
    pipeline = tiny_sdxl()
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    return pipeline


@dataclass(frozen=True)
class Case:
    """An endpoint, and the pipeline call that a body becomes."""

    pipeline: Any  # factory
    body: dict[str, Any]
    plain: dict[str, Any]  # pipeline arguments, beside the common ones
    others: dict[str, Any] = field(default_factory=dict)  # values that change the image


CASES = {
    LCM: Case(
        tiny_lcm,
        {"negative_prompt": "blue", "guidance_scale": 2.0, "guidance_rescale": 0.3},
        {"negative_prompt": "blue", "guidance_scale": 2.0, "guidance_rescale": 0.3},
        {"negative_prompt": "", "guidance_scale": 3.0, "guidance_rescale": 0.9},
    ),
    Z_IMAGE: Case(tiny_z_image, {}, {"guidance_scale": 0.0}),
    QWEN_IMAGE: Case(
        tiny_qwen_image,
        {"negative_prompt": "blue", "guidance_scale": 3.5},
        {"negative_prompt": "blue", "true_cfg_scale": 3.5},
        {"negative_prompt": " ", "guidance_scale": 6.0},
    ),
}
EACH = pytest.mark.parametrize("endpoint_id", CASES)


@pytest.fixture(scope="module")
def engine():
    with Engine(device="cpu", threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def pipelines():
    return {name: case.pipeline() for name, case in CASES.items()}


@pytest.fixture
def serve(engine, pipelines):
    return lambda name: Served(CATALOG.get(name), pipelines[name], engine)


def body(endpoint_id: str, **changes: Any) -> dict[str, Any]:
    common = {"prompt": "a red circle", "image_size": SIZE, "num_inference_steps": 3, "seed": 7}
    return common | CASES[endpoint_id].body | changes


def draw_images(served: Served, fields: dict[str, Any]) -> torch.Tensor:
    return served.run(served.call(fields)).images


@pytest.mark.variants(1)
@EACH
def test_a_request_draws_what_the_plain_pipeline_draws_bit_for_bit(serve, pipelines, endpoint_id):
    for changes, seed in (({}, 7), ({"seed": None}, SEED)):
        images = draw_images(serve(endpoint_id), body(endpoint_id, **changes))
        plain = pipelines[endpoint_id](
            prompt="a red circle",
            width=SIZE["width"],
            height=SIZE["height"],
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **CASES[endpoint_id].plain,
        ).images
        assert torch.equal(images, plain)
        assert images.std() > 0.01


@pytest.mark.long
@EACH
def test_every_field_that_is_said_to_have_an_effect_has_one(serve, endpoint_id):
    served = serve(endpoint_id)
    first = draw_images(served, body(endpoint_id))
    others = {
        "prompt": "a blue square",
        "seed": 8,
        "num_inference_steps": 4,
        "image_size": {"width": 96, "height": 64},
        **CASES[endpoint_id].others,
    }
    for name, value in others.items():
        changed = draw_images(served, body(endpoint_id, **{name: value}))
        assert changed.shape != first.shape or not torch.equal(changed, first), name
    shown = served.entry.schema.json_schema()["properties"]
    silent = {
        name for name, field in shown.items() if any(key.startswith("x-darkroom-") for key in field)
    }
    delivered = {"num_images", "sync_mode", "output_format", "format"}
    in_parts = {"seeds", *OF_DRAFTS}  # see test_several_outputs.py and tests of drafts
    fetched = {"loras"}  # see test_loras.py
    assert shown.keys() <= others.keys() | silent | delivered | in_parts | fetched
    assert not silent & others.keys()


@pytest.mark.long
@EACH
def test_several_images_differ_and_the_first_is_the_one_made_alone(serve, endpoint_id):
    served = serve(endpoint_id)
    call = served.call(body(endpoint_id, num_images=2))
    images = served.run(call).images
    alone = draw_images(served, body(endpoint_id))
    assert not torch.equal(images[0], images[1])
    assert torch.allclose(images[:1], alone, atol=1e-4)  # a batch of two uses other kernels
    files = served.deliver(call, served.run(call), 2).files
    assert [(file.width, file.height) for file in files] == [(64, 96)] * 2


@EACH
@pytest.mark.parametrize("size", [(64, 64), (99, 65)])
def test_every_size_is_made_exactly(serve, endpoint_id, size):
    served = serve(endpoint_id)
    image_size = {"width": size[0], "height": size[1]}
    call = served.call(body(endpoint_id, image_size=image_size, num_inference_steps=1))
    product = served.deliver(call, served.run(call), 1)
    assert Image.open(BytesIO(product.files[0].body)).size == size
    assert product.output["seed"] == 7
    assert "darkroom_demo" not in product.output


@EACH
@pytest.mark.parametrize(
    ("name", "value"),
    [("num_images", 9), ("num_inference_steps", 0), ("image_size", "huge"), ("seed", "x")],
)
def test_a_wrong_field_is_refused_by_its_name(serve, endpoint_id, name, value):
    with pytest.raises(InvalidInput) as caught:
        serve(endpoint_id).call(body(endpoint_id, **{name: value}))
    assert caught.value.problems[0].loc == ("body", name)


def test_an_empty_negative_prompt_guides_qwen_image_all_the_same_and_is_none_to_sdxl(serve):
    def passed(endpoint_id: str) -> Any:
        return serve(endpoint_id).call(body(endpoint_id, negative_prompt="")).arguments

    assert passed(QWEN_IMAGE)["negative_prompt"] == ""
    assert passed(LCM)["negative_prompt"] is None


def test_a_model_whose_weights_are_not_the_endpoints_is_refused(serve):
    with pytest.raises(InvalidInput, match="model_name: Not supported here") as caught:
        serve(LCM).call(body(LCM, model_name="runwayml/stable-diffusion-v1-5"))
    assert caught.value.problems[0].type == "feature_not_supported"


@pytest.fixture(scope="module")
def klein():
    return tiny_flux2_klein()


@pytest.fixture
def realtime(engine, klein):
    return Served(CATALOG.get(FLUX2), klein, engine)


def input_image(width: int = 96, height: int = 80) -> Image.Image:
    image = Image.new("RGB", (width, height), (240, 240, 240))
    ImageDraw.Draw(image).rectangle((0, 0, width // 2, height), fill=(200, 30, 30))
    return image


def frame(served: Served, image: Image.Image | None = None, **fields: Any) -> Any:
    """The call of a frame of 64 pixels; the endpoint's own sizes are too large for a test."""
    whole = {"image_url": "https://example.org/a.png", "prompt": "a red circle", **fields}
    size = {"width": 64, "height": 64}
    return served.call(whole, image_url=image or input_image(), image_size=size)


def test_a_frame_is_drawn_in_the_noise_levels_that_schedule_mu_asks_for(realtime):
    call = frame(realtime, schedule_mu=1.5, num_inference_steps=4)
    images = realtime.run(call).images
    # Replace the plain pipeline's own shift with a scheduler that shifts by 1.5.
    by_hand = tiny_flux2_klein()
    solver = by_hand.scheduler
    shift = type(solver).time_shift
    by_hand.scheduler.time_shift = lambda _mu, sigma, levels: shift(solver, 1.5, sigma, levels)
    plain = by_hand(
        prompt="a red circle",
        image=call.arguments["image"],
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(35),  # the endpoint's default seed
        output_type="pt",
    ).images
    assert torch.allclose(images, plain, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"use_dynamic_shifting": True},
        {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        {"shift": 3.0},
    ],
)
def test_every_kind_of_solver_steps_through_the_levels_that_are_asked_for(config):
    reference = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    reference.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=1.5)
    solver = FlowMatchEulerDiscreteScheduler(**config)
    own = compute_empirical_mu(image_seq_len=256, num_steps=4)
    solver.set_timesteps(sigmas=shifted_sigmas(1.5, 4, 256, solver.config), mu=own)
    assert torch.allclose(solver.sigmas, reference.sigmas, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    "fields",
    [{"prompt": "blue"}, {"seed": 1}, {"num_inference_steps": 2}, {"schedule_mu": 0.5}],
)
def test_every_field_of_a_frame_has_its_effect(realtime, fields):
    first = realtime.run(frame(realtime)).images
    assert not torch.equal(realtime.run(frame(realtime, **fields)).images, first)


def test_a_frame_is_what_the_plain_pipeline_draws_bit_for_bit(realtime, klein):
    images = realtime.run(frame(realtime)).images
    assert torch.equal(images, klein(**frame(realtime).arguments).images)


def test_a_frame_follows_the_given_image(realtime):
    first = realtime.run(frame(realtime)).images
    other = realtime.run(frame(realtime, Image.new("RGB", (96, 80)))).images
    assert not torch.equal(first, other)


def test_a_frame_comes_back_inside_the_output(realtime):
    call = frame(realtime)
    product = realtime.deliver(call, realtime.run(call), 0)
    assert not product.files
    (image,) = product.output["images"]
    inside = Image.open(BytesIO(base64.b64decode(image["content"])))
    assert (
        (inside.format, inside.size)
        == ("JPEG", (image["width"], image["height"]))
        == (
            "JPEG",
            (64, 64),
        )
    )
    assert product.output.keys() == {"images", "seed"}


def test_what_only_a_session_could_do_is_reported_in_the_log() -> None:
    schema = CATALOG.get(FLUX2).schema
    fields = {"image_url": "https://example.org/a.png"}
    validated = schema.validate(
        {**fields, "output_feedback_strength": 0.5, "enable_interpolation": True}
    )
    assert [note.partition(" ")[0] for note in validated[1]] == [
        "enable_interpolation",
        "output_feedback_strength",
    ]
    assert schema.validate({**fields, "output_feedback_strength": 1})[1] == ()

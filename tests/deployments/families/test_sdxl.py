"""SDXL: from an endpoint's input to an image, through the real engine and a tiny real pipeline."""

from io import BytesIO

import pytest
import torch
from PIL import Image

from deployments.engine.engine import Engine
from deployments.families.base import GenerationResult
from deployments.families.sdxl import SdxlFamily
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from tests.engine.tiny import tiny_sdxl

pytestmark = [
    pytest.mark.engine,
    # raised by diffusers' discrete schedulers with numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SDXL = Endpoint("sdxl", "sdxl", Weights("/somewhere"), "sdxl")
DEMO = Endpoint(
    "sdxl", "sdxl", Weights("/somewhere", demo=True), "sdxl", options={"native_size": 32}
)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def engine(pipeline):
    with Engine(device="cpu", threads=1) as engine:
        engine.add("sdxl", pipeline)
        yield engine


def wish(**changes):
    return {
        "prompt": "a red circle",
        "negative_prompt": "",
        "image_size": {"width": 32, "height": 16},
        "num_inference_steps": 2,
        "guidance_scale": 7.5,
        "num_images": 1,
        "format": "png",
        **changes,
    }


def tickets(count):
    return tuple(
        UploadTicket(f"key-{n}", f"http://storage/{n}", "image/png", 10**6) for n in range(count)
    )


def draw(engine, pipeline, endpoint=SDXL, **changes):
    family, fields = SdxlFamily(), wish(**changes)
    call = family.prepare(endpoint, fields, pipeline, seed=99)
    result = engine.submit(pipeline="sdxl", **call.arguments).result(60)
    return family.deliver(
        endpoint, call, GenerationResult(result, 1.5, 2), tickets(fields["num_images"])
    )


def image(file):
    return Image.open(BytesIO(file.body)).convert("RGB")


def test_an_output_names_its_files_and_how_they_were_made(engine, pipeline):
    product = draw(engine, pipeline, seed=7)
    (file,) = product.files
    assert product.output == {
        "images": [
            {
                "artifact": "key-0",
                "width": 32,
                "height": 16,
                "content_type": "image/png",
                "file_size": len(file.body),
            }
        ],
        "timings": {"inference": 1.5},
        "seed": 7,
        "has_nsfw_concepts": [False],
        "prompt": "a red circle",
    }
    assert image(file).size == (32, 16)


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(engine, pipeline):
    first, again, other = (draw(engine, pipeline, seed=seed).files[0].body for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_negative_prompt_and_guidance_change_the_image(engine, pipeline):
    plain = draw(engine, pipeline, seed=1).files[0].body
    assert draw(engine, pipeline, seed=1, negative_prompt="blue").files[0].body != plain
    assert draw(engine, pipeline, seed=1, guidance_scale=2).files[0].body != plain


def test_an_empty_negative_prompt_is_the_same_as_none(engine, pipeline):
    negative = SdxlFamily().prepare(SDXL, wish(), pipeline, seed=1).arguments["negative_prompt"]
    assert negative is None


def test_the_demo_says_that_it_is_one(engine, pipeline):
    assert draw(engine, pipeline, DEMO).output["darkroom_demo"] is True


@pytest.mark.parametrize("size", [(33, 17), (100, 75), (16, 16), (250, 30)])
@pytest.mark.parametrize("endpoint", [SDXL, DEMO])
def test_every_size_is_made_exactly(engine, pipeline, endpoint, size):
    image_size = {"width": size[0], "height": size[1]}
    (file,) = draw(engine, pipeline, endpoint, image_size=image_size).files
    assert image(file).size == size == (file.width, file.height)


def test_several_images_differ_and_the_first_is_the_one_made_alone(engine, pipeline):
    files = draw(engine, pipeline, num_images=2, seed=5).files
    assert files[0].body != files[1].body
    for number, seed in enumerate((5, 6)):
        (alone,) = draw(engine, pipeline, seed=seed).files
        levels = torch.tensor(list(image(files[number]).tobytes()), dtype=torch.int16)
        single = torch.tensor(list(image(alone).tobytes()), dtype=torch.int16)
        assert (levels - single).abs().max() <= 1  # a batch of three uses other kernels


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("options", "dtype"), [({}, "float32"), ({"dtype": "bfloat16"}, "bfloat16")]
)
def test_weights_are_loaded_as_the_endpoint_says(tmp_path, options, dtype):
    folder = tmp_path / "sdxl"
    tiny_sdxl().save_pretrained(folder, safe_serialization=True)
    endpoint = Endpoint("sdxl", "sdxl", Weights(str(folder)), "sdxl", options=options)
    assert SdxlFamily().load(endpoint, "cpu").dtype == getattr(torch, dtype)

"""Flux: from an endpoint's input to an image, through the real engine and a tiny real pipeline."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from deployments.engine.engine import Engine
from deployments.families.base import GenerationResult
from deployments.families.flux import FluxFamily
from serve_app.catalog.catalog import load
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import Misconfigured
from tests.engine.tiny import TEXT_TOKENS, save_tiny_flux, tiny_flux

pytestmark = pytest.mark.engine

FLUX = Endpoint("flux", "flux", Weights("/somewhere"), "flux")
DEMO = Endpoint(
    "flux", "flux", Weights("/somewhere", demo=True), "flux", options={"native_size": 32}
)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_flux()


@pytest.fixture(scope="module")
def engine(pipeline):
    with Engine(device="cpu", threads=1) as engine:
        engine.add("flux", pipeline)
        yield engine


def wish(**changes):
    return {
        "prompt": "a red circle",
        "image_size": {"width": 32, "height": 16},
        "num_inference_steps": 2,
        "guidance_scale": 3.5,
        "num_images": 1,
        "output_format": "png",
        **changes,
    }


def tickets(count, media_type="image/png"):
    return tuple(
        UploadTicket(f"key-{n}", f"http://storage/{n}", media_type, 10**6) for n in range(count)
    )


def draw(engine, pipeline, endpoint=FLUX, media_type="image/png", **changes):
    family, fields = FluxFamily(), wish(**changes)
    call = family.prepare(endpoint, fields, pipeline, seed=99)
    result = engine.submit(pipeline="flux", **call.arguments).result(60)
    count = fields["num_images"]
    return family.deliver(
        endpoint, call, GenerationResult(result, 1.5, 2), tickets(count, media_type)
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
    assert product.units == pytest.approx(32 * 16 / 1e6)


def test_without_a_seed_it_takes_the_one_that_it_is_given(engine, pipeline):
    assert draw(engine, pipeline).output["seed"] == 99
    assert draw(engine, pipeline, seed=None).output["seed"] == 99
    assert draw(engine, pipeline, seed=0).output["seed"] == 0


def test_the_demo_says_that_it_is_one(engine, pipeline):
    assert draw(engine, pipeline, DEMO).output["darkroom_demo"] is True


@pytest.mark.parametrize("size", [(33, 17), (100, 75), (16, 16), (250, 30)])
@pytest.mark.parametrize("endpoint", [FLUX, DEMO])
def test_every_size_is_made_exactly(engine, pipeline, endpoint, size):
    image_size = {"width": size[0], "height": size[1]}
    (file,) = draw(engine, pipeline, endpoint, image_size=image_size).files
    assert image(file).size == size == (file.width, file.height)


@pytest.mark.parametrize(
    ("media_type", "name"),
    [("image/jpeg", "JPEG"), ("image/webp", "WEBP"), ("image/png", "PNG")],
)
def test_the_file_is_of_the_tickets_type(engine, pipeline, media_type, name):
    (file,) = draw(engine, pipeline, media_type=media_type).files
    assert Image.open(BytesIO(file.body)).format == name


def test_several_images_differ_and_the_first_is_the_one_made_alone(engine, pipeline):
    files = draw(engine, pipeline, num_images=3, seed=5).files
    assert len({file.body for file in files}) == 3
    for number, seed in [(0, 5), (2, 7)]:
        (alone,) = draw(engine, pipeline, seed=seed).files
        levels = torch.tensor(list(image(files[number]).tobytes()), dtype=torch.int16)
        single = torch.tensor(list(image(alone).tobytes()), dtype=torch.int16)
        assert (levels - single).abs().max() <= 1  # a batch of three uses other kernels


def test_too_few_tickets_are_a_mistake_of_the_installation(engine, pipeline):
    family = FluxFamily()
    call = family.prepare(FLUX, wish(num_images=2), pipeline, seed=1)
    result = GenerationResult(engine.submit(pipeline="flux", **call.arguments).result(60), 1.0, 2)
    with pytest.raises(Misconfigured, match="tickets"):
        family.deliver(FLUX, call, result, tickets(1))


def test_the_text_is_as_long_as_the_model_was_trained_with(pipeline):
    family = FluxFamily()
    own = family.prepare(FLUX, wish(), pipeline, seed=1).arguments["max_sequence_length"]
    assert own == TEXT_TOKENS
    configured = Endpoint("flux", "flux", FLUX.weights, "flux", options={"max_sequence_length": 8})
    assert family.prepare(configured, wish(), pipeline, 1).arguments["max_sequence_length"] == 8


@pytest.mark.parametrize(("name", "tokens"), [("schnell", 256), ("dev", 512)])
def test_listed_models_read_as_much_text_as_their_authors_let_them(
    monkeypatch, pipeline, name, tokens
):
    monkeypatch.setattr(pipeline.tokenizer_2, "model_max_length", 512)
    catalog = load(None, demo=False, demo_dir=Path("/nowhere"))
    endpoint = catalog.get_listed(f"fal-ai/flux/{name}").endpoint
    arguments = FluxFamily().prepare(endpoint, wish(), pipeline, seed=1).arguments
    assert arguments["max_sequence_length"] == tokens


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("options", "dtype"), [({}, "float32"), ({"dtype": "bfloat16"}, "bfloat16")]
)
def test_weights_are_loaded_as_the_endpoint_says(tmp_path, options, dtype):
    folder = save_tiny_flux(tmp_path / "flux")
    endpoint = Endpoint("flux", "flux", Weights(str(folder)), "flux", options=options)
    assert FluxFamily().load(endpoint, "cpu").dtype == getattr(torch, dtype)

"""OpenAI's calls for images over HTTP: the effect of each parameter, and each error."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from serve_app.catalog.catalog import Catalog, CatalogEntry, load
from serve_app.catalog.schema.registry import SCHEMAS
from serve_app.catalog.source import EndpointSource
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput
from serve_app.ingress.openai import input_images
from serve_app.ingress.openai.image_parameters import ImageParameters, parse_parameters
from serve_app.ingress.submission.model_lookup import EndpointFields, endpoint_id_of
from tests.ingress.house import DEMO, OTHERS, House, build_house

GENERATIONS, EDITS = "/openai/v1/images/generations", "/openai/v1/images/edits"
VARIATIONS = "/openai/v1/images/variations"
SDXL = "fal-ai/fast-sdxl"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(catalog=OTHERS) as house:
        yield house


def png(
    mode: str = "RGB",
    size: tuple[int, int] = (96, 64),
    colour: Any = 0,
    format: str = "PNG",
    **options: Any,
) -> bytes:
    return image_file(Image.new(mode, size, colour), format, **options)


def image_file(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


DAMAGED_AVIF = b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf" + bytes(200)


@asynccontextmanager
async def app_served(
    tmp_path: Path, name: str = "apps/x", **properties: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Client of a Darkroom with an app whose input has these properties."""
    options = {
        "input_schema": {"type": "object", "properties": properties},
        "output_schema": {"type": "object"},
    }
    app = {"family": "probe", "schema": "json", "category": "image-to-image", "options": options}

    def written() -> Catalog:
        models = tmp_path / "models.yaml"
        models.write_text(json.dumps({"built_in": False, "endpoints": {name: app}}))
        return load(models, demo=True, demo_dir=DEMO)

    catalog = await asyncio.to_thread(written)
    async with build_house(catalog=catalog) as house, house.client() as client:
        yield client


async def fetch_input(house: House, answer: httpx.Response) -> dict[str, Any]:
    """Input of the request that the call created."""
    request = await house.queue.get("default", answer.headers["x-request-id"])
    return dict(request.input)


async def generate_image(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post(GENERATIONS, json={"prompt": "a red circle", "model": SDXL} | body)


async def test_parameters_become_fields_of_the_endpoint(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await generate_image(
        client, n=2, size="768x512", quality="high", output_format="webp", seed=7, user="someone"
    )
    assert answer.status_code == 200, answer.text
    stored_input = await fetch_input(house, answer)
    assert stored_input["num_images"] == 2
    assert stored_input["image_size"] == {"width": 768, "height": 512}
    assert stored_input["num_inference_steps"] == 38
    assert (stored_input["format"], stored_input["seed"], stored_input["prompt"]) == (
        "webp",
        7,
        "a red circle",
    )
    body = answer.json()
    assert len(body["data"]) == 2
    assert body["output_format"] == "webp"
    assert body["quality"] == "high"
    assert body["seed"] == 7
    assert answer.headers["x-darkroom-endpoint"] == SDXL


def test_an_endpoint_at_openai_gets_openais_own_parameters() -> None:
    options = {
        "secrets": ["OPENAI_API_KEY"],
        "hosted": {"endpoint": "gpt-image-1"},
        "input_schema": {"type": "object", "properties": {"prompt": {"type": "string"}}},
        "output_schema": {"type": "object"},
    }
    endpoint = Endpoint("openai/gpt-image-1", "openai", Weights(""), "json", options=options)
    entry = CatalogEntry(
        endpoint, SCHEMAS["json"](endpoint), EndpointSource(family="openai", schema="json")
    )
    own_parameters = {
        "prompt": "a red circle",
        "n": 2,
        "size": "1024x1536",
        "quality": "high",
        "background": "transparent",
        "output_format": "webp",
        "output_compression": 50,
    }
    ours = {"model": "openai/gpt-image-1", "response_format": "b64_json", "stream": True}
    parsed_request = parse_parameters(
        ImageParameters.read(own_parameters | ours), EndpointFields(entry)
    )
    assert parsed_request.input == own_parameters
    assert (parsed_request.size, parsed_request.streamed) == ("1024x1536", True)


def app_fields(name: str = "apps/x", **properties: Any) -> EndpointFields:
    """Fields of an app that takes these and no others."""
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    options = {"input_schema": schema, "output_schema": {"type": "object"}}
    endpoint = Endpoint(name, "cog", Weights(""), "json", options=options)
    source = EndpointSource(family="cog", schema="json")
    return EndpointFields(CatalogEntry(endpoint, SCHEMAS["json"](endpoint), source))


@pytest.mark.parametrize(("prompt", "sent"), [("", {}), ("a hill", {"prompt": "a hill"})])
def test_an_upscaler_gets_no_empty_prompt(prompt: str, sent: dict[str, Any]) -> None:
    """OpenAI's client cannot leave a prompt out. One with words is refused by the schema."""
    parameters = ImageParameters.read({"prompt": prompt})
    assert parse_parameters(parameters, app_fields(image_url={"type": "string"})).input == sent


FORMATS = {"type": "string", "enum": ["webp", "jpg", "png"]}
QUALITY = {"type": "integer", "minimum": 0, "maximum": 100}


def parse_input(
    fields: EndpointFields, *, edited: bool = False, **parameters: Any
) -> dict[str, Any]:
    """Input for a call with these parameters, and an image to edit."""
    files = {"image_url": "https://example.org/a.png"} if edited else {}
    parsed_input = parse_parameters(
        ImageParameters.read({"prompt": ""} | parameters), fields, files
    ).input
    return {name: value for name, value in parsed_input.items() if name not in files}


@pytest.mark.parametrize("name", ["output_quality", "output_compression"])
def test_the_compression_is_the_quality_of_an_endpoint_that_has_one(name: str) -> None:
    fields = app_fields(output_format=FORMATS, **{name: QUALITY})
    for asked_format, written in (("jpeg", "jpg"), ("webp", "webp")):
        parsed_input = parse_input(fields, output_compression=60, output_format=asked_format)
        assert parsed_input == {"output_format": written, name: 60}
    with pytest.raises(InvalidInput, match="PNG has none"):
        parse_input(fields, output_compression=60)
    with pytest.raises(InvalidInput, match="always written at the best quality"):
        parse_input(app_fields(output_format=FORMATS), output_compression=60, output_format="webp")


def test_a_transparent_background_comes_from_endpoints_that_make_one() -> None:
    backgrounds = {"type": "string", "enum": ["auto", "transparent"]}
    own = app_fields(background=backgrounds)
    assert parse_input(own, background="transparent") == {"background": "transparent"}
    cut_out = app_fields("fal-ai/birefnet", image_url={"type": "string"})
    assert parse_input(cut_out, edited=True, background="transparent") == {}
    inputs = {
        "prompt": {"type": "text", "required": True},
        "layers": {"type": "layers", "default": 3},
    }
    options = {"inputs": inputs, "result": {"type": "layers"}}
    endpoint = Endpoint("house/layers", "generic", Weights("/x"), "declared", options=options)
    source = EndpointSource(family="generic", schema="declared")
    layered = EndpointFields(CatalogEntry(endpoint, SCHEMAS["declared"](endpoint), source))
    assert parse_input(layered, background="transparent") == {"prompt": "", "output_format": "png"}
    with pytest.raises(InvalidInput, match="with the model fal-ai/birefnet"):
        parse_input(app_fields(), background="transparent")


def test_a_high_fidelity_is_that_of_models_that_read_the_image_as_a_reference() -> None:
    image = {"image_url": {"type": "string"}}
    assert parse_input(app_fields(**image), edited=True, input_fidelity="high") == {}
    by_noise = app_fields(**image, strength={"type": "number"})
    with pytest.raises(InvalidInput, match="`strength`"):
        parse_input(by_noise, edited=True, input_fidelity="high")
    assert parse_input(by_noise, edited=True, input_fidelity="low") == {}
    with pytest.raises(InvalidInput, match="with an input image"):
        parse_input(app_fields(**image), input_fidelity="high")


async def test_what_is_left_to_the_endpoint_is_its_own_choice_but_the_format(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await generate_image(client, size="auto", quality="auto", background="auto", n=None)
    stored_input = await fetch_input(house, answer)
    assert stored_input["image_size"] == {"width": 1024, "height": 1024}
    assert stored_input["num_inference_steps"] == 25
    assert stored_input["format"] == "png"


@pytest.mark.parametrize(
    ("quality", "steps"), [("low", 12), ("medium", 25), ("standard", 25), ("max", 50)]
)
async def test_quality_is_a_number_of_steps_within_the_endpoints_bounds(
    house: House, client: httpx.AsyncClient, quality: str, steps: int
) -> None:
    answer = await generate_image(client, quality=quality)
    assert (await fetch_input(house, answer))["num_inference_steps"] == steps


async def test_a_number_of_steps_says_more_than_the_quality(
    house: House, client: httpx.AsyncClient
) -> None:
    answer = await generate_image(client, quality="high", num_inference_steps=9)
    assert (await fetch_input(house, answer))["num_inference_steps"] == 9


@pytest.mark.parametrize(
    ("asked", "given"), [(None, {"b64_json", "url"}), ("url", {"url"}), ("b64_json", {"b64_json"})]
)
async def test_an_image_comes_as_was_asked_or_in_both_ways(
    client: httpx.AsyncClient, asked: str | None, given: set[str]
) -> None:
    answer = await generate_image(client, response_format=asked)
    image = answer.json()["data"][0]
    assert set(image) == given
    if "url" in given:
        assert (await client.get(image["url"])).content == b"image"
    if "b64_json" in given:
        assert base64.b64decode(image["b64_json"]) == b"image"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 11}, "n"),
        ({"n": 9}, "n"),  # OpenAI allows it, the endpoint does not
        ({"size": "large"}, "size"),
        ({"size": "16x16"}, "size.width"),
        ({"size": "9000x9000"}, "size"),
        ({"quality": "best"}, "quality"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_format": 3}, "output_format"),
        ({"output_compression": 50}, "output_compression"),
        ({"background": "transparent"}, "background"),
        ({"partial_images": 4}, "partial_images"),
        ({"response_format": "png"}, "response_format"),
        ({"frame_count": 9}, "frame_count"),
        ({"svg": {"model": "x"}}, "svg"),
        ({"prompt": None}, "prompt"),
        ({"num_inference_steps": 99}, "num_inference_steps"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    house: House, client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    answer = await generate_image(client, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(param)
    assert house.replica.ran == []


async def test_a_size_that_the_endpoint_does_not_take_is_refused(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(
        EDITS,
        data={"prompt": "x", "model": "test/unserved", "size": "512x512"},
        files={"image": ("a.png", png())},
    )
    assert answer.status_code == 404
    assert "is not served here" in answer.json()["error"]["message"]


async def test_no_model_is_the_usual_one_and_an_alias_leads_to_its_endpoint() -> None:
    async with build_house(
        catalog=OTHERS, model_aliases={"gpt-image-1": "test/images", "mine": SDXL}
    ) as house:
        async with house.client() as client:
            usual = await client.post(GENERATIONS, json={"prompt": "x"})
            mine = await client.post(GENERATIONS, json={"prompt": "x", "model": "mine"})
            strange = await client.post(GENERATIONS, json={"prompt": "x", "model": "gpt-image-2"})
            models = (await client.get("/openai/v1/models")).json()["data"]
    assert usual.headers["x-darkroom-endpoint"] == "test/images"
    assert mine.headers["x-darkroom-endpoint"] == SDXL
    assert (strange.status_code, strange.json()["error"]["code"]) == (404, "model_not_found")
    by_name = {model["id"]: model["darkroom_endpoint"] for model in models}
    assert by_name["mine"] == by_name[SDXL] == SDXL
    assert "test/unserved" not in by_name


NAMED = {
    "gpt-image-2": "test/images",
    "gpt-image-2-2026-04-21": SDXL,
    "gpt-image-*": "test/images",
    "gpt-image-2.5-*": SDXL,
    "test/*": SDXL,
}


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        ("gpt-image-2-2026-04-21", SDXL),  # exactly this name
        ("gpt-image-2-2026-09-09", "test/images"),  # without the date
        ("gpt-image-9", "test/images"),
        ("gpt-image-2.5-flare-2026-09-08", SDXL),  # the longest pattern
        ("test/images", "test/images"),  # an id is no name of a family
        ("test/imagine", SDXL),
        ("gpt-image", None),
        ("gpt-image-", "test/images"),
    ],
)
def test_dated_names_and_families_of_names_lead_to_an_endpoint(
    name: str, endpoint: str | None
) -> None:
    assert endpoint_id_of(OTHERS, NAMED, name) == (endpoint or name)


async def test_built_in_aliases_have_the_names_to_come_and_lists_leave_patterns_out(
    client: httpx.AsyncClient,
) -> None:
    for name in ("gpt-image-2-2026-04-21", "gpt-image-2.6-flare"):
        shown = (await client.get(f"/openai/v1/models/{name}")).json()
        assert (shown["id"], shown["darkroom_endpoint"]) == (name, SDXL)
    names = [model["id"] for model in (await client.get("/openai/v1/models")).json()["data"]]
    assert "gpt-image-2" in names
    assert not [name for name in names if "*" in name]


@pytest.mark.parametrize("model", ["test/videos", "test/audio"])
async def test_what_makes_no_images_is_refused(
    house: House, client: httpx.AsyncClient, model: str
) -> None:
    drawn = await generate_image(client, model=model)
    edited = await client.post(
        EDITS, data={"prompt": "x", "model": model}, files={"image": ("a.png", png())}
    )
    for answer in (drawn, edited):
        assert answer.status_code == 400
        assert "does not make images" in answer.json()["error"]["message"]
    assert house.replica.ran == []


async def test_without_a_good_key_nothing_is_done(house: House) -> None:
    async with house.client("no:key") as stranger:
        answer = await stranger.post(GENERATIONS, json={"prompt": "x"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (401, "invalid_api_key")
    assert error["type"] == "authentication_error"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert house.replica.ran == []


async def test_too_many_waiting_is_a_429_that_says_when_to_come_back() -> None:
    async with (
        build_house(catalog=OTHERS, replica=False, max_waiting=1) as house,
        house.client() as client,
    ):
        await client.post("/queue/test/probe", json={})
        answer = await generate_image(client)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-should-retry"] == "true"


async def test_a_failed_attempt_is_not_tried_again_by_the_client(client: httpx.AsyncClient) -> None:
    answer = await generate_image(
        client, model="test/images", fail="pipeline_failed", message="Boom."
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["message"], error["type"]) == (500, "Boom.", "server_error")
    assert answer.headers["x-should-retry"] == "false"


async def test_a_field_at_fault_is_named_as_the_client_called_it(
    client: httpx.AsyncClient,
) -> None:
    answer = await generate_image(
        client, model="test/images", fail="invalid_input", field="image_url", message="Unread."
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")


async def test_the_same_idempotency_key_is_the_same_request(
    house: House, client: httpx.AsyncClient
) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"prompt": "x", "model": "test/images"}
    answers = [await client.post(GENERATIONS, json=body, headers=headers) for _ in range(2)]
    assert answers[0].headers["x-request-id"] == answers[1].headers["x-request-id"]
    assert answers[1].headers["x-darkroom-replayed"] == "1"
    assert len(house.replica.ran) == 1


async def test_an_image_is_edited_by_the_endpoints_sibling_at_its_own_shape(
    house: House, client: httpx.AsyncClient
) -> None:
    files = {"image": ("a.png", png(size=(2048, 1024)), "image/png")}
    data = {"prompt": "x", "model": SDXL, "n": "2", "strength": "0.5"}
    answer = await client.post(EDITS, data=data, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-darkroom-endpoint"] == f"{SDXL}/image-to-image"
    stored_input = await fetch_input(house, answer)
    assert stored_input["image_size"] == "auto"
    assert (stored_input["num_images"], stored_input["strength"]) == (2, 0.5)
    kind, _, content = stored_input["image_url"].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == files["image"][1]


@pytest.mark.parametrize("name", ["image", "images"])
@pytest.mark.parametrize("size", [{}, {"size": "auto"}])
async def test_an_edit_in_json_is_that_of_a_form(
    house: House, client: httpx.AsyncClient, name: str, size: dict[str, str]
) -> None:
    form = {"prompt": (None, "x"), "model": (None, SDXL), "image": ("a.png", png())}
    by_form = await fetch_input(house, await client.post(EDITS, files=form))
    image = {"image_url": by_form["image_url"]}
    body = {"prompt": "x", "model": SDXL, name: [image] if name == "images" else image, **size}
    answer = await client.post(EDITS, json=body)
    assert answer.status_code == 200, answer.text
    assert await fetch_input(house, answer) == by_form
    own = await client.post(EDITS, json=body | {"size": "512x640"})
    assert (await fetch_input(house, own))["image_size"] == {"width": 512, "height": 640}


async def test_a_variation_is_an_edit_without_a_prompt(
    house: House, client: httpx.AsyncClient
) -> None:
    files = {"image": ("a.png", png())}
    answer = await client.post(VARIATIONS, data={"model": SDXL, "n": "2"}, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-darkroom-endpoint"] == f"{SDXL}/image-to-image"
    by_form = await fetch_input(house, answer)
    assert (by_form["prompt"], by_form["num_images"], by_form["strength"]) == ("", 2, 0.95)
    body = {"model": SDXL, "n": 2, "image": by_form["image_url"]}
    assert await fetch_input(house, await client.post(VARIATIONS, json=body)) == by_form
    for refused in (
        await client.post(VARIATIONS, files={"model": (None, SDXL)}),
        await client.post(VARIATIONS, json={"model": SDXL}),
    ):
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "image")


async def test_an_endpoint_that_needs_a_prompt_makes_no_variations(tmp_path: Path) -> None:
    prompt = {"type": "string", "minLength": 1}
    async with app_served(tmp_path, prompt=prompt, image_url={"type": "string"}) as client:
        image = "https://example.org/a.png"
        answer = await client.post(VARIATIONS, json={"model": "apps/x", "image": image})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({}, "image"),
        ({"image": {"file_id": "file-1"}}, "image"),
        ({"image": []}, "image"),
        ({"image": "https://example.org/a.png", "mask": {"file_id": "x"}}, "mask"),
        ({"image": "no url"}, "image"),
        ({"image": "https://example.org/a.png", "n": 99}, "n"),
    ],
)
async def test_an_edit_in_json_is_refused_by_the_name_of_its_parameter(
    client: httpx.AsyncClient, more: dict[str, Any], param: str
) -> None:
    answer = await client.post(EDITS, json={"prompt": "x", "model": SDXL, **more})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


async def test_what_is_transparent_in_a_mask_is_white_for_the_endpoint(
    house: House, client: httpx.AsyncClient
) -> None:
    mask = Image.new("RGBA", (96, 64), (9, 9, 9, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 48, 64))
    file = io.BytesIO()
    mask.save(file, "PNG")
    files = {"image": ("a.png", png()), "mask": ("m.png", file.getvalue())}
    answer = await client.post(EDITS, data={"prompt": "x", "model": SDXL}, files=files)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-darkroom-endpoint"] == f"{SDXL}/inpainting"
    stored_input = await fetch_input(house, answer)
    content = base64.b64decode(stored_input["mask_url"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as white:
        assert (white.mode, white.size) == ("L", (96, 64))
        assert (white.getpixel((10, 10)), white.getpixel((90, 10))) == (255, 0)


async def test_a_mask_fits_a_photo_as_it_is_shown(house: House, client: httpx.AsyncClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored as 96×64, shown as 64×96
    mask = Image.new("RGBA", (64, 96), (9, 9, 9, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 64, 48))
    turned = mask.transpose(Image.Transpose.ROTATE_90)
    photo = png(exif=exif)
    for drawn in (image_file(mask), image_file(turned, exif=exif)):
        files = {"image": ("a.png", photo), "mask": ("m.png", drawn)}
        answer = await client.post(EDITS, data={"prompt": "x", "model": SDXL}, files=files)
        assert answer.status_code == 200, answer.text
        stored_input = await fetch_input(house, answer)
        assert stored_input["image_size"] == "auto"
        with Image.open(
            io.BytesIO(base64.b64decode(stored_input["mask_url"].partition(",")[2]))
        ) as white:
            assert white.size == (64, 96)
            assert (white.getpixel((10, 10)), white.getpixel((10, 90))) == (255, 0)
    files = {"image": ("a.png", photo), "mask": ("m.png", png("RGBA"))}
    refused = await client.post(EDITS, data={"prompt": "x", "model": SDXL}, files=files)
    assert "mask is 96×64 and the image 64×96" in refused.json()["error"]["message"]


@pytest.mark.parametrize("format", ["AVIF", "BMP", "TIFF"])
async def test_images_of_any_format_that_is_read_are_taken(
    house: House, client: httpx.AsyncClient, format: str
) -> None:
    files = {"image": ("a", png(format=format))}
    answer = await client.post(EDITS, data={"prompt": "x", "model": SDXL}, files=files)
    assert answer.status_code == 200, answer.text
    assert (await fetch_input(house, answer))["image_url"].startswith(
        f"data:image/{format.lower()};"
    )


async def test_several_images_go_to_an_endpoint_that_takes_them(
    house: House, client: httpx.AsyncClient
) -> None:
    files = [("image[]", ("a.png", png())), ("image[]", ("b.png", png("L")))]
    answer = await client.post(EDITS, data={"prompt": "x", "model": "test/images"}, files=files)
    assert len((await fetch_input(house, answer))["image_urls"]) == 2
    refused = await client.post(EDITS, data={"prompt": "x", "model": SDXL}, files=files)
    assert refused.status_code == 400
    assert "cannot edit several images at once" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ({}, "image"),
        ({"image": ("a.png", b"no image")}, "image"),
        ({"image": ("a.png", png()), "mask": ("m.png", b"no image")}, "mask"),
        ({"image": ("a.png", png()), "mask": ("m.png", png("RGBA", (8, 8)))}, "mask"),
        ({"image": ("a.png", png()), "mask": ("m.png", png())}, "mask"),
        ({"image": ("a.ico", png(format="ICO"))}, "image"),
        ({"image": ("a.avif", DAMAGED_AVIF)}, "image"),
        ({"image": ("a.png", png()), "mask": ("m.png", png("RGBA")[:-40])}, "mask"),
        ({"image": ("a.png", png()), "markup": ("m.png", png())}, "markup"),
    ],
)
async def test_files_that_cannot_be_used_are_refused_by_name(
    client: httpx.AsyncClient, files: dict[str, Any], param: str
) -> None:
    form = {"prompt": (None, "x"), "model": (None, SDXL)}
    answer = await client.post(EDITS, files=form | files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_mask_is_decoded_within_a_budget_of_pixels(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 5000
    monkeypatch.setattr(input_images, "MAX_MASK_PIXELS", most)
    form = {"prompt": (None, "x"), "model": (None, SDXL)}
    for width, status in ((100, 200), (101, 400)):
        size = (width, 50)
        files = {"image": ("a.png", png(size=size)), "mask": ("m.png", png("RGBA", size))}
        answer = await client.post(EDITS, files=form | files)
        assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == "mask"


async def test_masks_are_decoded_one_at_a_time(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[int] = []
    most = 0

    def slow(*_: Any) -> dict[str, Any]:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        time.sleep(0.02)
        running.pop()
        return {}

    monkeypatch.setattr(input_images, "fields_of", slow)
    form = {"prompt": (None, "x"), "model": (None, SDXL)}
    files = {"image": ("a.png", png()), "mask": ("m.png", png("RGBA"))}
    await asyncio.gather(*(client.post(EDITS, files=form | files) for _ in range(4)))
    assert most == 1


@pytest.mark.parametrize("body", [b"", b"--x", b"--x\r\nno form\r\n--x--"])
async def test_a_body_that_is_no_form_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await client.post(EDITS, content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    no_boundary = await client.post(
        EDITS, content=b"x", headers={"content-type": "multipart/form-data"}
    )
    assert no_boundary.status_code == 400
    assert (await client.post(EDITS, json={})).status_code == 400


@pytest.mark.parametrize("path", [EDITS, GENERATIONS])
@pytest.mark.parametrize("kind", ["", "application/json", "application/octet-stream"])
async def test_a_form_that_comes_under_another_type_is_recognised(
    client: httpx.AsyncClient, path: str, kind: str
) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na fox\r\n--x--'
    answer = await client.post(path, content=form, headers={"content-type": kind})
    assert answer.status_code == 400
    assert "its Content-Type does not say so" in answer.json()["error"]["message"]


async def test_an_image_without_a_file_name_is_edited(client: httpx.AsyncClient) -> None:
    parts = {"prompt": b"x", "model": SDXL.encode()}
    texts = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value
        for name, value in parts.items()
    ]
    head = b'--x\r\nContent-Disposition: form-data; name="image"\r\nContent-Type: image/png'
    form = b"\r\n".join([*texts, head, b"", png(), b"--x--"])
    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = await client.post(EDITS, content=form, headers=kind)
    assert answer.status_code == 200, answer.text


async def test_a_form_over_the_limit_is_refused() -> None:
    async with build_house(catalog=OTHERS, max_body_bytes=2048) as house, house.client() as client:
        answer = await client.post(
            EDITS, data={"prompt": "x"}, files={"image": ("a.png", b"x" * 4096)}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_what_is_not_there_is_said_in_openais_shape(client: httpx.AsyncClient) -> None:
    for method, path in (("POST", "/openai/v1/chat/completions"), ("GET", "/openai/v2")):
        answer = await client.request(method, path)
        assert answer.status_code == 404
        assert "images/generations" in answer.json()["error"]["message"]
    assert (await client.get("/openai/v1/models/nobody/nothing")).status_code == 404

"""What the input schema of an endpoint says about its files and fields."""

from pathlib import Path

import pytest

from serve_app.catalog.catalog import load
from serve_app.cli.generation.endpoint_input import EndpointInput, read_description
from serve_app.cli.generation.options import GenerateOptions
from serve_app.domain.errors import InvalidInput
from serve_app.domain.media.image_size import in_shape_of_image
from serve_app.ingress.app import create_app

CATALOG = load(None, demo=False, demo_dir=Path("/nowhere"))


def describe_endpoint(endpoint: str) -> EndpointInput:
    entry = CATALOG.get_listed(endpoint)
    document = create_app().state.document.of_endpoint(entry, "http://here")
    metadata = {"category": entry.endpoint.category}
    return read_description({"endpoint_id": endpoint, "openapi": document, "metadata": metadata})


@pytest.mark.parametrize(
    ("endpoint", "name", "file"),
    [
        ("fal-ai/flux/schnell", "output_format", "out.png"),
        ("fal-ai/fast-sdxl/inpainting", "format", "out.png"),
        ("fal-ai/flux-2/klein/realtime", None, "out.png"),
        ("fal-ai/wan-i2v", "output_format", "out.mp4"),
        ("fal-ai/stable-audio", "output_format", "out.wav"),
    ],
)
def test_the_schema_names_the_field_of_the_format_and_the_usual_file(
    endpoint: str, name: str | None, file: str
) -> None:
    description = describe_endpoint(endpoint)
    assert description.format_field == name
    assert description.default_output() == Path(file)
    description.check_format(description.default_output())


@pytest.mark.parametrize(
    ("category", "file"),
    [
        ("text-to-audio", "out.wav"),
        ("image-to-video", "out.mp4"),
        ("text-to-image", "out.png"),
        ("text-to-3d", "out.glb"),
        ("training", "out.png"),
        ("", "out.png"),
    ],
)
def test_without_formats_the_usual_file_follows_from_the_category(category: str, file: str) -> None:
    assert EndpointInput("me/mine", category, {}).default_output() == Path(file)


def test_a_file_that_the_endpoint_does_not_write_is_refused_with_those_that_it_does() -> None:
    with pytest.raises(InvalidInput, match=r"does not write \.png files.*\.wav or \.flac"):
        describe_endpoint("fal-ai/stable-audio").check_format(Path("a.png"))


def test_an_input_that_the_endpoint_does_not_have_is_named_by_its_option() -> None:
    sound = describe_endpoint("fal-ai/stable-audio")
    options = GenerateOptions("a", size="square", fields=("promt=1",))
    with pytest.raises(InvalidInput, match=r"^--size \(image_size\): .* has no such input"):
        sound.check_fields(["prompt", "image_size"], options)
    with pytest.raises(InvalidInput, match=r"^--field promt: .*Did you mean `prompt`"):
        sound.check_fields(["promt"], options)
    sound.check_fields(["prompt", "seed"], options)
    EndpointInput("me/mine", "", {}).check_fields(["anything"], options)


def test_an_image_without_a_size_keeps_its_shape_where_the_endpoint_offers_that() -> None:
    image = {"image_url": "https://example.test/a.png"}
    inpainting = describe_endpoint("fal-ai/fast-sdxl/inpainting").fields
    assert in_shape_of_image(image, inpainting) == {**image, "image_size": "auto"}
    for body, fields in [
        ({**image, "image_size": "square"}, inpainting),
        ({**image, "from_draft": "d1"}, inpainting),
        ({"prompt": "a circle"}, inpainting),
        (image, describe_endpoint("fal-ai/flux/schnell").fields),
        (image, {}),
    ]:
        assert in_shape_of_image(body, fields) == body


def test_an_image_goes_into_the_list_of_an_endpoint_that_takes_several() -> None:
    body = GenerateOptions("a", images=("https://example.test/a.png",)).body()
    several = EndpointInput("house/x", "", {"prompt": {}, "image_urls": {}})
    assert several.in_its_fields(body)["image_urls"] == ["https://example.test/a.png"]
    single = EndpointInput("house/x", "", {"prompt": {}, "image_url": {}})
    assert single.in_its_fields(body) == body
    both = GenerateOptions("a", images=("https://example.test/a.png",) * 2)
    with pytest.raises(InvalidInput, match=r"^--image \(image_urls\): house/x has no such input"):
        single.check_fields(single.in_its_fields(both.body()), both)

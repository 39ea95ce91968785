"""The same picture and the same mask, in files of many kinds, by every way in: a replica reads the
same pixels, and the output has the same shape. The clients are the official ones, unmodified."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client
import httpx
import numpy as np
import openai
import pytest
import replicate
from click.testing import CliRunner
from PIL import Image, ImageChops
from replicate import prediction

from darkroom.image_formats import FORMATS, ImageFormat
from serve_app.catalog.catalog import Catalog
from serve_app.cli.main import main
from tests.domain.media.pictures import (
    CELLS,
    ENCODINGS,
    Cell,
    Encode,
    as_file,
    canvas,
    circle,
    encode_scene,
    scene,
    tolerance,
)
from tests.ingress.comfyui.comfy import CATALOG as COMFYUI
from tests.ingress.comfyui.comfy import node
from tests.ingress.house import OTHERS
from tests.samples import sample_params
from tests.wire.reading import LOADER, Reading, Readings, reading
from tests.wire.served import Address, serve
from tests.wire.test_fal_python_uploads import GLOBALS, sync_client
from tests.wire.test_mcp_client import MODERN, connect
from tests.wire.test_openai_batches import line, start_batch, wait_for_end

pytestmark = pytest.mark.wire

SDXL = "fal-ai/fast-sdxl"
REDRAW, INPAINT = f"{SDXL}/image-to-image", f"{SDXL}/inpainting"
SIDE = 64  # of a patch: both sides of the picture are multiples of 16, and none is too small
SHAPE = (3 * SIDE, 2 * SIDE)
WAIT_S = 60.0


@dataclass(frozen=True)
class File:
    content: bytes
    format: str = "PNG"  # by Pillow's name

    @property
    def media_type(self) -> str:
        return self._format.media_type

    @property
    def name(self) -> str:
        return f"picture{self._format.suffixes[0]}"

    @property
    def _format(self) -> ImageFormat:
        return next(candidate for candidate in FORMATS if candidate.name.upper() == self.format)

    @property
    def uri(self) -> str:
        return fal_client.encode(self.content, self.media_type)

    @property
    def part(self) -> tuple[str, bytes, str]:
        return self.name, self.content, self.media_type

    def to_buffer(self) -> io.BytesIO:
        opened = io.BytesIO(self.content)
        opened.name = self.name
        return opened


@dataclass(frozen=True)
class Place:
    """A Darkroom, and clients of it."""

    address: Address
    readings: Readings
    folder: Path
    fal: fal_client.SyncClient
    openai: openai.OpenAI
    replicate: replicate.Client
    http: httpx.Client

    def read(self) -> Reading:
        """What the replica has read of the one request. Raises what it could not read."""
        outcome = self.readings.get(timeout=WAIT_S)
        if isinstance(outcome, Exception):
            raise outcome
        assert self.readings.empty()
        return outcome


Way = Callable[[Place, File, File | None], None]
"""Sends an image, and perhaps a mask."""


def endpoint(mask: File | None) -> str:
    return REDRAW if mask is None else INPAINT


def upload_file(place: Place, file: File) -> str:
    return place.fal.upload(file.content, file.media_type, file_name=file.name)


def by_fal(place: Place, image: File, mask: File | None, *, inline: bool, **more: Any) -> None:
    url = (lambda file: file.uri) if inline else partial(upload_file, place)
    fields = {"image_url": url(image)} | ({"mask_url": url(mask)} if mask else {})
    place.fal.subscribe(endpoint(mask), {"prompt": "x", **fields, **more})


def by_openais_form(place: Place, image: File, mask: File | None, *, white: bool = False) -> None:
    masked: dict[str, Any] = {"mask": mask.part} if mask else {}
    if white and mask:
        masked = {"extra_body": {"mask_url": mask.uri}}
    place.openai.images.edit(model=SDXL, prompt="x", image=image.part, size="auto", **masked)


def edit_body(image: str, mask: File | None) -> dict[str, Any]:
    """Edit of OpenAI's, as JSON."""
    masked = {"mask_url": mask.uri} if mask else {}
    return {"model": SDXL, "prompt": "x", "image": [{"image_url": image}], **masked}


def by_openais_json(place: Place, image: File, mask: File | None, *, inline: bool) -> None:
    url = image.uri if inline else upload_file(place, image)
    place.http.post("/openai/v1/images/edits", json=edit_body(url, mask)).raise_for_status()


def by_openais_batch(place: Place, image: File, mask: File | None) -> None:
    edits: Any = "/v1/images/edits"
    lines = [line("a", edit_body(image.uri, mask), edits)]
    batch = wait_for_end(place.openai, start_batch(place.openai, lines, edits))
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1, batch


def by_openais_responses(place: Place, image: File, mask: File | None) -> None:
    assert mask is None
    parts: Any = [
        {"type": "input_text", "text": "x"},
        {"type": "input_image", "image_url": image.uri, "detail": "auto"},
    ]
    tool: Any = {"type": "image_generation", "model": SDXL}
    turn: Any = {"role": "user", "content": parts}
    response = place.openai.responses.create(model="gpt-5", input=[turn], tools=[tool])
    assert response.status == "completed"


def by_replicate(place: Place, image: File, mask: File | None, *, strategy: Any) -> None:
    masked = {"mask": mask.to_buffer()} if mask else {}
    model_input = {"prompt": "x", "image": image.to_buffer(), **masked}
    place.replicate.run(SDXL, model_input, file_encoding_strategy=strategy)


def by_comfyui(place: Place, image: File, mask: File | None) -> None:
    sent = place.http.post("/comfyui/upload/image", files={"image": image.part})
    name = sent.raise_for_status().json()["name"]
    if mask is not None:
        original = json.dumps({"filename": name, "subfolder": "", "type": "input"})
        files, data = {"image": mask.part}, {"original_ref": original}
        sent = place.http.post("/comfyui/upload/mask", files=files, data=data)
        name = sent.raise_for_status().json()["name"]
    graph = {LOADER: node("LoadImage", image=name)}
    place.http.post("/comfyui/prompt", json={"prompt": graph}).raise_for_status()


def by_mcp(place: Place, image: File, mask: File | None) -> None:
    fields = {"image_url": image.uri} | ({"mask_url": mask.uri} if mask else {})
    arguments = {"model": endpoint(mask), "input": {"prompt": "x", **fields}}

    async def call() -> None:
        async with connect(place.address, MODERN) as client:
            result = await client.call_tool("generate", arguments)
            assert not result.is_error, result

    asyncio.run(call())


def by_the_command_line(place: Place, image: File, mask: File | None) -> None:
    words = ["generate", "x", "-m", endpoint(mask), "--data-dir", str(place.folder)]
    words += ["-o", str(place.folder / "out.png"), "--overwrite"]
    for option, file in (("--image", image), ("--mask", mask)):
        if file is not None:
            path = place.folder / f"{option}-{file.name}"
            path.write_bytes(file.content)
            words += [option, str(path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output


WHITE_WAYS: Mapping[str, Way] = {
    "fal, inline": partial(by_fal, inline=True),
    "fal, uploaded": partial(by_fal, inline=False),
    "OpenAI's edits, inline": partial(by_openais_json, inline=True),
    "OpenAI's edits, uploaded": partial(by_openais_json, inline=False),
    "OpenAI's batch": by_openais_batch,
    "Replicate, inline": partial(by_replicate, strategy="base64"),
    "Replicate, uploaded": partial(by_replicate, strategy=None),
    "MCP": by_mcp,
    "command line": by_the_command_line,
}
"""Ways whose masks are white where to redraw."""

WHITE_MASKS: Mapping[str, Way] = {
    **WHITE_WAYS,
    "OpenAI's form, with a URL": partial(by_openais_form, white=True),
}

CLEAR_WAYS: Mapping[str, Way] = {"OpenAI's form": by_openais_form, "ComfyUI": by_comfyui}
"""Ways whose masks are transparent there."""

WAYS: Mapping[str, Way] = {
    **WHITE_WAYS,
    **CLEAR_WAYS,
    "OpenAI's responses": by_openais_responses,
    "fal, in the shape of the image": partial(by_fal, inline=True, image_size="auto"),
}

SIZES: Mapping[str, tuple[int, int] | None] = {
    **dict.fromkeys(WAYS, SHAPE),
    **dict.fromkeys(("fal, inline", "fal, uploaded"), (512, 512)),  # fal's default
    "ComfyUI": None,  # its graph decides
}
"""Size of an output whose size the call does not say."""


@pytest.fixture(scope="module")
def readings() -> Readings:
    return Readings()


@pytest.fixture(scope="module")
def address(readings: Readings) -> Iterator[Address]:
    catalog = Catalog({entry.endpoint.id: entry for entry in (*OTHERS, *COMFYUI)})
    with serve(
        lambda house: reading(house, readings), catalog=catalog, replica=False, batches=True
    ) as address:
        yield address


@pytest.fixture(scope="module")
def place(
    address: Address, readings: Readings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "run.json").write_text(json.dumps({"url": address.url}))
    (folder / "api_key").write_text(address.key)
    headers = {"Authorization": f"Key {address.key}"}
    openais = openai.OpenAI(base_url=f"{address.url}/openai/v1", api_key=address.key)
    replicates = replicate.Client(api_token=address.key, base_url=f"{address.url}/replicate")
    http = httpx.Client(base_url=address.url, headers=headers, timeout=WAIT_S)
    with pytest.MonkeyPatch.context() as patch, http, openais, replicates._client:
        for name in GLOBALS:
            patch.setattr(fal_client.client, name, getattr(fal_client.client, name))
        patient = httpx.Timeout(WAIT_S)
        patch.setattr(prediction, "_create_prediction_timeout", lambda **_: patient)
        for fal in sync_client(address):
            yield Place(address, readings, folder, fal, openais, replicates, http)


def difference(image: Image.Image, want: Any) -> int:
    """Levels by which an image differs most."""
    return int(np.abs(np.asarray(image, int) - np.asarray(want, int)).max())


FILES = [*dict.fromkeys(cell[:2] for cell in CELLS)]
Case = tuple[Cell, str]


def diagonal() -> Iterator[Case]:
    """Each kind of file at least once, and each way twice. A TIFF was no image for ComfyUI."""
    for number, way in enumerate(2 * [*WAYS]):
        kind = FILES[number % len(FILES)]
        turned = (*kind, number % 8 + 1)
        yield (turned if turned in CELLS else (*kind, 1)), way
    yield ("TIFF", "sRGB", 6), "ComfyUI"


@pytest.mark.parametrize(
    "case", sample_params(itertools.product(CELLS, WAYS), *diagonal()), ids=str
)
def test_the_same_picture_is_the_same_pixels_and_shape_by_every_way(
    place: Place, case: Case
) -> None:
    cell, way = case
    body, want = encode_scene(*cell, side=SIDE)
    WAYS[way](place, File(body, cell[0]), None)
    read = place.read()
    assert (read.image.mode, read.image.size, read.size) == ("RGB", SHAPE, SIZES[way])
    assert difference(read.image, want) <= tolerance(cell)
    assert (read.mask, read.notes) == (None, ())


# Masks.


def hard(mask: Image.Image) -> Image.Image:
    return mask.point(lambda level: 255 * (level > 127))


def half(mask: Image.Image) -> Image.Image:
    return mask.point(lambda level: level // 2)


WHITE: Mapping[str, tuple[Encode, Encode]] = {
    **{name: (encode, lambda mask: mask) for name, encode in ENCODINGS.items()},
    "1 bit": (lambda mask: hard(mask).convert("1"), hard),
    "half opaque strokes": (lambda mask: canvas((255, 255, 255))(half(mask)), half),
}
"""Masks that are white, or drawn, where to redraw, and what they select."""


def with_hole(image: Image.Image, mask: Image.Image) -> Image.Image:
    holed = image.copy()
    holed.putalpha(ImageChops.invert(mask))
    return holed


def picture() -> Image.Image:
    return Image.fromarray(scene())


def in_clear_palette(mask: Image.Image) -> Image.Image:
    image = hard(mask).convert("P")
    image.putpalette([9] * 768)
    image.info["transparency"] = 255
    return image


CLEAR: Mapping[str, tuple[Encode, Encode]] = {
    "the picture with a hole": (lambda mask: with_hole(picture(), mask), lambda mask: mask),
    "black with a hole": (
        lambda mask: with_hole(Image.new("L", mask.size), mask),
        lambda mask: mask,
    ),
    "white with a hole": (
        lambda mask: with_hole(Image.new("L", mask.size, 255), mask),
        lambda mask: mask,
    ),
    "palette": (in_clear_palette, hard),
    "half transparent": (lambda mask: with_hole(picture(), half(mask)), half),
    "strokes around it": (
        lambda mask: canvas((255, 255, 255))(ImageChops.invert(mask)),
        lambda mask: mask,
    ),
}
"""Masks that are transparent where to redraw, and what they select."""

SHOWN = File(as_file(picture()))


def some(encodings: Mapping[str, Any], ways: Mapping[str, Way]) -> list[Any]:
    """Encodings with ways: each of both at least once, and the rest ``long``."""
    most = range(max(len(encodings), len(ways)))
    names, places = [*encodings], [*ways]
    always = [(names[number % len(names)], places[number % len(places)]) for number in most]
    return sample_params(itertools.product(encodings, ways), *always)


@pytest.mark.parametrize("case", some(WHITE, WHITE_MASKS), ids=str)
def test_masks_that_are_white_where_to_redraw_agree_by_every_way(
    place: Place, case: tuple[str, str]
) -> None:
    encoding, way = case
    check_mask(place, WHITE[encoding], WHITE_MASKS[way])


@pytest.mark.parametrize("case", some(CLEAR, CLEAR_WAYS), ids=str)
def test_masks_that_are_transparent_where_to_redraw_agree_by_every_way(
    place: Place, case: tuple[str, str]
) -> None:
    encoding, way = case
    check_mask(place, CLEAR[encoding], CLEAR_WAYS[way])


def check_mask(place: Place, encoding: tuple[Encode, Encode], send: Way) -> None:
    encode, selected = encoding
    send(place, SHOWN, File(as_file(encode(circle()))))
    read = place.read()
    assert read.mask is not None
    assert (read.mask.mode, read.notes) == ("L", ())
    assert difference(read.mask, selected(circle())) <= 2
    assert difference(read.image, scene()) <= 2


@pytest.mark.parametrize("way", sample_params(WHITE_MASKS, *[*WHITE_MASKS][::4]))
def test_a_mask_that_may_mean_two_things_is_said_by_every_way(place: Place, way: str) -> None:
    encode, _ = CLEAR["the picture with a hole"]
    WHITE_MASKS[way](place, SHOWN, File(as_file(encode(circle()))))
    (note,) = place.read().notes
    assert note.startswith("mask_url: the mask has transparent parts, and opaque parts that are")


@pytest.mark.parametrize("encoding", ["grey", "colours", "1 bit"])
def test_openais_form_refuses_a_mask_without_transparency(place: Place, encoding: str) -> None:
    encode, _ = WHITE[encoding]
    with pytest.raises(openai.BadRequestError, match="no transparency"):
        by_openais_form(place, SHOWN, File(as_file(encode(circle()))))

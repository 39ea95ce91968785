"""Files in inputs and outputs of apps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImages
from pydantic import BaseModel, ValidationError

from darkroom import App, AppError, Audio, File, Image, InvalidField, Video, endpoint, run
from darkroom.app import endpoints_of
from darkroom.calls import Call, context_of


class Layer(BaseModel):
    image: Image
    note: str = ""


class Layers(BaseModel):
    layers: list[Layer]
    cover: Image | None = None
    pair: tuple[Image, Video] | None = None


class Editor(App):
    @endpoint("/nested")
    def nested(self, body: Layers) -> Layers:
        return body

    @endpoint("/anything")
    def anything(self, image: Image) -> dict[str, Any]:
        return {"images": [image], "deeper": {"also": (image,)}}

    @endpoint("/files")
    def files(self, by_name: dict[str, File], sound: Audio | str = "none") -> dict[str, File]:
        return by_name

    @endpoint("/echo")
    def echo(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"options": options}


INPUT = {"generated": False}
"""What is said of a file that was an input: no model of the app has made it."""


def file_reference(path: str) -> dict[str, str]:
    return {"$file": path}


def test_files_are_found_in_models_lists_and_tuples() -> None:
    output = run(
        Editor(),
        "/nested",
        layers=[
            {"image": file_reference("/a/1.png")},
            {"image": file_reference("/a/2.jpg"), "note": "n"},
        ],
        pair=[file_reference("/a/3.webp"), file_reference("/a/4.mp4")],
    )
    assert output == {
        "layers": [
            {"image": {"$file": "/a/1.png", "media_type": "image/png", **INPUT}, "note": ""},
            {"image": {"$file": "/a/2.jpg", "media_type": "image/jpeg", **INPUT}, "note": "n"},
        ],
        "cover": None,
        "pair": [
            {"$file": "/a/3.webp", "media_type": "image/webp", **INPUT},
            {"$file": "/a/4.mp4", "media_type": "video/mp4", **INPUT},
        ],
    }


def test_files_are_also_sent_where_the_type_does_not_say_so() -> None:
    file = {"$file": "/a/1.png", "media_type": "image/png", **INPUT}
    output = run(Editor(), "/anything", image=file_reference("/a/1.png"))
    assert output == {"images": [file], "deeper": {"also": [file]}}


def test_an_input_may_be_a_file_of_the_test_itself() -> None:
    output = run(Editor(), "/files", by_name={"a": File("/a/b.unknown")})
    assert output == {"a": {"$file": "/a/b.unknown", "media_type": "application/octet-stream"}}


def test_a_text_of_a_client_never_becomes_a_file() -> None:
    with pytest.raises(AppError, match=r"\$file, whose name is reserved"):
        run(Editor(), "/echo", options={"deep": [file_reference("/etc/passwd")]})


@pytest.mark.parametrize("value", ["/a/1.png", 1, None, {"$file": 1}, {"url": "http://a/b.png"}])
def test_what_is_no_file_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="Input should be a file"):
        run(Editor(), "/anything", image=value)


def test_the_schemas_say_which_fields_are_files() -> None:
    methods = endpoints_of(Editor)
    nested = methods["/nested"]
    layer = nested.input_schema()["$defs"]["Layer"]["properties"]["image"]
    marks = {"format": "uri", "type": "string", "x-darkroom-file": "image"}
    assert layer == marks | {"title": "Image"}
    layer = nested.output_schema()["$defs"]["Layer"]["properties"]["image"]
    assert layer["type"] == "object"
    assert layer["x-darkroom-file"] == "image"
    assert {"url", "width", "height"} <= layer["properties"].keys()
    by_name = methods["/files"].input_schema()["properties"]["by_name"]["additionalProperties"]
    assert by_name["x-darkroom-file"] == "file"


def test_files_are_written_to_the_folder_of_the_call(tmp_path: Path) -> None:
    def draw() -> tuple[File, Image]:
        text = File.from_bytes(b"hello", "text/plain", words=1)
        return text, Image.from_pil(PillowImages.new("RGB", (4, 3)), "webp")

    text, image = context_of(Call(folder=tmp_path)).run(draw)
    assert text.read_bytes() == b"hello"
    assert text.path.suffix == ".txt"
    assert text.facts == {"words": 1}
    assert image.facts == {"width": 4, "height": 3}
    assert image.media_type == "image/webp"
    assert image.open().size == (4, 3)
    assert {text.path.parent, image.path.parent} == {tmp_path}


class Sketch(BaseModel):
    layers: list[Image] = []
    sketch_url: Image | None = None


class Painter(App):
    @endpoint("/")
    def paint(self, sketch: Sketch) -> None:
        for layer in sketch.layers:
            layer.open()
        if sketch.sketch_url is not None:
            sketch.sketch_url.open(most_pixels=11)


@pytest.mark.parametrize("content", [b"no image", b"", b"\x89PNG\r\n\x1a\n\0\0"])
def test_a_file_that_is_no_image_is_refused_by_its_field(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(InvalidField, match="image") as caught:
        run(Painter(), layers=[file_reference(str(tmp_path / "text.png"))])
    assert (caught.value.field, caught.value.type) == ("layers", "image_load_error")


def test_an_image_that_is_too_large_is_refused_with_the_limit(tmp_path: Path) -> None:
    PillowImages.new("RGB", (4, 3)).save(tmp_path / "large.png")
    with pytest.raises(InvalidField, match="more than 11 pixels") as caught:
        run(Painter(), sketch_url=file_reference(str(tmp_path / "large.png")))
    assert (caught.value.field, caught.value.type) == ("sketch_url", "image_too_large")
    assert caught.value.context == {"max_pixels": 11}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_or_stays_so(tmp_path: Path, mode: str) -> None:
    clear = PillowImages.new("RGBA", (4, 4), (0, 0, 0, 0)).convert(mode)
    clear.save(tmp_path / "clear.png", **({"transparency": 0} if mode == "P" else {}))
    image = Image(tmp_path / "clear.png")
    assert image.open().getpixel((1, 1)) == (255, 255, 255)
    assert image.open("RGBA").getchannel("A").getextrema() == (0, 0)


class Writer(App):
    @endpoint("/")
    def write(self) -> File:
        Path("here.txt").write_text("a")
        return File("here.txt", language="en", media_type="text/plain")


def test_a_relative_path_is_one_of_the_process_that_wrote_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(Writer()) == {
        "file": {
            "$file": str(tmp_path / "here.txt"),
            "media_type": "text/plain",
            "language": "en",
        }
    }

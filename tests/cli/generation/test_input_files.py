"""Output files of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.generation.files import outputs
from serve_app.cli.generation.options import GenerateOptions
from serve_app.domain.errors import InvalidInput
from serve_app.ingress.replicate.prediction import plain


def file(name: str, media_type: str) -> dict[str, Any]:
    return {"url": f"http://here/{name}", "content_type": media_type}


FIRST, SECOND = file("1.mp4", "video/mp4"), file("2.mp4", "video/mp4")
SEVERAL = {
    "video": FIRST,
    "poster": file("1.jpg", "image/jpeg"),
    "videos": [FIRST, SECOND],
    "posters": [file("1.jpg", "image/jpeg"), file("2.jpg", "image/jpeg")],
    "seeds": [1, 2],
}


def test_a_file_that_an_output_names_twice_is_one() -> None:
    names = [output["url"].rpartition("/")[2] for output in outputs(SEVERAL)]
    assert names == ["1.mp4", "2.mp4", "1.jpg", "2.jpg"]


def test_replicate_gets_all_videos_of_several_and_the_one_of_one() -> None:
    assert plain(SEVERAL) == [FIRST["url"], SECOND["url"]]
    assert plain({"video": FIRST}) == FIRST["url"]


@pytest.mark.parametrize(
    ("name", "begins"),
    [("a.mp4", "data:video/mp4;base64,"), ("a.wav", "data:audio/x-wav;base64,")],
)
def test_a_field_takes_the_content_of_a_video_or_an_audio_file(
    tmp_path: Path, name: str, begins: str
) -> None:
    (tmp_path / name).write_bytes(b"abc")
    body = GenerateOptions("a dog", fields=(f"its_url=@{tmp_path / name}",)).body()
    assert body == {"prompt": "a dog", "its_url": f"{begins}YWJj"}


def test_a_list_of_objects_takes_the_content_of_files_in_fields_for_urls(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"abc")
    value = f'[{{"image_url": "@{tmp_path / "a.png"}", "text": "@here", "index": 1}}]'
    body = GenerateOptions("a dog", fields=(f"conditions={value}",)).body()
    assert body["conditions"] == [
        {"image_url": "data:image/png;base64,YWJj", "text": "@here", "index": 1}
    ]


@pytest.mark.parametrize("name", ["secrets.txt", "nothing.mp4"])
def test_a_field_takes_no_file_that_is_none_of_these_or_is_not_there(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidInput, match=name):
        GenerateOptions("a dog", fields=(f"its_url=@{tmp_path / name}",)).body()

"""The files of an output on the command line."""

from __future__ import annotations

from typing import Any

from serve_app.cli.files import outputs
from serve_app.ingress.replicate.output import plain


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
    names = [each["url"].rpartition("/")[2] for each in outputs(SEVERAL)]
    assert names == ["1.mp4", "2.mp4", "1.jpg", "2.jpg"]


def test_replicate_is_told_all_clips_of_several_and_the_one_of_one() -> None:
    assert plain(SEVERAL) == [FIRST["url"], SECOND["url"]]
    assert plain({"video": FIRST}) == FIRST["url"]

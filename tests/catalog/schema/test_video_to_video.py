"""Inputs of video-to-video and audio-to-audio endpoints."""

from __future__ import annotations

import pytest

from serve_app.catalog.schema.registry import SCHEMAS
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput

KINDS = {
    "video-to-video": ("video_url", ("video/mp4", "image/jpeg")),
    "audio-to-audio": ("audio_url", ("audio/wav", "image/png")),
}


def schema(kind: str):
    return SCHEMAS[kind](Endpoint("me/again", "video", Weights("/"), kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_to_begin_with_is_needed_and_has_to_be_within_reach(kind: str) -> None:
    field, types = KINDS[kind]
    for body in ({}, {field: "file:///etc/passwd"}, {field: "video.mp4"}):
        with pytest.raises(InvalidInput) as raised:
            schema(kind).validate({"prompt": "x", **body})
        assert [each.loc for each in raised.value.problems] == [("body", field)]
    for url in ("https://example.org/a", "data:application/octet-stream;base64,AAAA"):
        checked, _ = schema(kind).validate({"prompt": "x", field: url})
        assert checked[field] == url
        assert schema(kind).media_types(checked) == types


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_said_is_left_to_the_file(kind: str) -> None:
    field, _ = KINDS[kind]
    checked, _ = schema(kind).validate({"prompt": "x", field: "https://example.org/a"})
    lengths = ("num_frames", "frames_per_second", "seconds_total")
    assert all(checked.get(each) is None for each in lengths)

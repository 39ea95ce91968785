"""Previews of requests that executors run, as their reports have them."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from deployments.executors.attempt import LatestPreview
from serve_app.domain.media.marking import is_marked


def picture() -> bytes:
    written = io.BytesIO()
    Image.new("RGBA", (640, 320), "teal").save(written, "PNG")
    return written.getvalue()


@pytest.mark.parametrize("marked", [True, False])
def test_a_wanted_preview_is_a_small_jpeg_which_is_taken_once(marked: bool) -> None:
    latest = LatestPreview(shown=True, marked=marked)
    latest.want()
    latest.offer(3, picture())
    taken = latest.take()
    assert taken is not None
    assert taken.step == 3
    with Image.open(io.BytesIO(taken.image)) as small:
        assert (small.format, small.size) == ("JPEG", (256, 128))
    assert is_marked(taken.image) is marked
    assert latest.take() is None


def test_a_preview_that_nobody_wants_is_not_kept() -> None:
    latest = LatestPreview(shown=True, marked=False)
    latest.offer(1, picture())
    assert latest.take() is None


@pytest.mark.parametrize(
    "unreadable",
    [
        pytest.param(b"no picture", id="text"),
        pytest.param(b"\0\0\0\1" * 6 + picture(), id="another header"),
        pytest.param(picture()[:60], id="cut off"),
    ],
)
def test_a_preview_that_cannot_be_read_is_left_out_and_the_next_one_is_shown(
    unreadable: bytes,
) -> None:
    latest = LatestPreview(shown=True, marked=False)
    latest.want()
    latest.offer(1, unreadable)
    assert latest.take() is None
    latest.offer(2, picture())
    taken = latest.take()
    assert taken is not None
    assert taken.step == 2


def test_what_a_policy_has_to_see_first_is_not_shown() -> None:
    latest = LatestPreview(shown=False, marked=False)
    latest.want()
    latest.offer(1, picture())
    assert latest.take() is None

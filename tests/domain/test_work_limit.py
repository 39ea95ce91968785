"""The largest work of a recipe: what is too large is refused, and the sentence says what is not."""

from __future__ import annotations

import pickle

import pytest

from serve_app.domain.endpoint import RequestedWork, WorkLimit
from serve_app.domain.errors import InvalidInput

IMAGES = WorkLimit(2.1, tile_above=1.1)
VIDEOS = WorkLimit(0.9216, 65)


def refusal(limit: WorkLimit, work: RequestedWork) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        limit.check(work, "a/b", 24)
    return caught.value


def test_work_up_to_the_limit_is_made_whatever_its_shape() -> None:
    for limit, work in (
        (IMAGES, RequestedWork(1024, 1024)),
        (IMAGES, RequestedWork(512, 512, images=8)),
        (IMAGES, RequestedWork(2112, 1008)),  # rounded up to what the model renders
        (VIDEOS, RequestedWork(1280, 720, 65)),
        (VIDEOS, RequestedWork(832, 480, 145)),
    ):
        limit.check(work, "a/b", 24)


def test_an_image_that_is_too_large_is_refused_with_the_largest() -> None:
    error = refusal(IMAGES, RequestedWork(2048, 2048))
    assert error.problems[0].loc == ("body", "image_size")
    assert error.problems[0].type == "work_too_large"
    assert "2048×2048 is 4.19 megapixels" in error.message
    assert "(24 GB), a/b makes at most 2.10 megapixels" in error.message


def test_too_many_images_at_once_are_refused_with_their_largest_number() -> None:
    error = refusal(IMAGES, RequestedWork(1024, 1024, images=4))
    assert error.problems[0].loc == ("body", "num_images")
    assert "at most 2 of 1024×1024 at once" in error.message


def test_a_video_that_is_too_long_is_refused_with_its_largest_length() -> None:
    error = refusal(VIDEOS, RequestedWork(1280, 720, 129))
    assert error.problems[0].loc == ("body", "num_frames")
    assert "1280×720 × 129 frames is 118.89 megapixels" in error.message
    assert "at most 65 frames of 1280×720" in error.message


def test_a_frame_that_is_too_large_alone_is_refused_by_its_size() -> None:
    error = refusal(WorkLimit(0.5, 2), RequestedWork(1920, 1080, 17))
    assert error.problems[0].loc == ("body", "resolution")


def test_tiles_begin_above_their_limit() -> None:
    assert not IMAGES.needs_tiles(RequestedWork(1024, 1024))
    assert IMAGES.needs_tiles(RequestedWork(1024, 1024, images=2))
    assert not VIDEOS.needs_tiles(RequestedWork(3840, 2160))


def test_a_limit_crosses_processes() -> None:
    assert pickle.loads(pickle.dumps(IMAGES)) == IMAGES  # noqa: S301

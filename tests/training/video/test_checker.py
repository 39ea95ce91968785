"""The checker of videos is right on rendered ones and says so where something is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from training.image.checker import UNKNOWN
from training.video.checker import judge, motion_of
from training.video.world import MOTIONS, Pose, Video, render_array, sample_video


def _frames(video: Video) -> np.ndarray:
    return (render_array(video) * 255.0).round().astype(np.uint8)


@pytest.mark.long
@pytest.mark.parametrize("free", [False, True])
def test_it_is_right_on_rendered_videos_of_both_splits(free: bool) -> None:
    rng = np.random.default_rng(1)
    videos = [sample_video(rng, free=free, held_out=i % 2 == 0) for i in range(12)]
    assert all(judge(_frames(video), video).everything for video in videos)


@pytest.mark.long
@pytest.mark.parametrize("motion", MOTIONS)
def test_every_other_motion_is_wrong(motion: str) -> None:
    rng = np.random.default_rng(2)
    video = next(
        candidate
        for candidate in iter(lambda: sample_video(rng), None)
        if candidate.motion == motion
    )
    frames = _frames(video)
    assert [
        candidate for candidate in MOTIONS if judge(frames, replace(video, motion=candidate)).motion
    ] == [motion]


def test_a_video_played_backwards_moves_the_other_way() -> None:
    video = Video("red", "circle", "left", "white", Pose(44, 32, 11), Pose(20, 32, 11))
    assert motion_of(_frames(video)) == "left"
    assert motion_of(_frames(video)[::-1]) == "right"


def test_another_colour_shape_or_background_is_wrong() -> None:
    video = Video("red", "circle", "left", "white", Pose(44, 32, 11), Pose(20, 32, 11))
    frames = _frames(video)
    assert not judge(frames, replace(video, colour="orange")).colour
    assert not judge(frames, replace(video, shape="square")).shape
    assert not judge(frames, replace(video, background="gray")).background


def _rounded(frames: np.ndarray, radius: float) -> np.ndarray:
    """The frames of a red object on white with its corners rounded, as soft decoders leave them."""
    blur = ImageFilter.GaussianBlur(radius)
    objects = [
        Image.fromarray(np.uint8(frame[..., 1] < 128) * 255).filter(blur) for frame in frames
    ]
    return np.where(np.stack(objects)[..., None] > 127, frames.min((0, 1, 2)), np.uint8(255))


def test_a_triangle_with_rounded_corners_is_a_triangle_until_it_is_a_drop() -> None:
    video = Video("red", "triangle", "left", "white", Pose(44, 32, 11), Pose(20, 32, 11))
    frames = (render_array(video, 2) * 255.0).round().astype(np.uint8)
    assert judge(_rounded(frames, 4), video).everything
    assert not judge(_rounded(frames, 12), video).shape


def test_an_object_that_goes_askew_or_vanishes_has_no_known_motion() -> None:
    askew = Video("red", "circle", "left", "white", Pose(20, 20, 11), Pose(44, 44, 11))
    assert motion_of(_frames(askew)) == UNKNOWN
    frames = _frames(replace(askew, last=askew.first))
    frames[8:] = 255
    assert motion_of(frames) == UNKNOWN
    assert motion_of(np.full_like(frames, 255)) == UNKNOWN

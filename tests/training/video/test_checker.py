"""The checker of clips is right on rendered ones and says so where something is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.checker import UNKNOWN
from training.video.checker import judge, motion_of
from training.video.world import MOTIONS, Clip, Pose, render_array, sample_clip


def _frames(clip: Clip) -> np.ndarray:
    return (render_array(clip) * 255.0).round().astype(np.uint8)


@pytest.mark.parametrize("free", [False, True])
def test_it_is_right_on_rendered_clips_of_both_splits(free: bool) -> None:
    rng = np.random.default_rng(1)
    clips = [sample_clip(rng, free=free, held_out=i % 2 == 0) for i in range(12)]
    assert all(judge(_frames(clip), clip).everything for clip in clips)


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_other_motion_is_wrong(motion: str) -> None:
    rng = np.random.default_rng(2)
    clip = next(each for each in iter(lambda: sample_clip(rng), None) if each.motion == motion)
    frames = _frames(clip)
    assert [each for each in MOTIONS if judge(frames, replace(clip, motion=each)).motion] == [
        motion
    ]


def test_a_clip_played_backwards_moves_the_other_way() -> None:
    clip = Clip("red", "circle", "left", "white", Pose(44, 32, 11), Pose(20, 32, 11))
    assert motion_of(_frames(clip)) == "left"
    assert motion_of(_frames(clip)[::-1]) == "right"


def test_another_colour_shape_or_background_is_wrong() -> None:
    clip = Clip("red", "circle", "left", "white", Pose(44, 32, 11), Pose(20, 32, 11))
    frames = _frames(clip)
    assert not judge(frames, replace(clip, colour="orange")).colour
    assert not judge(frames, replace(clip, shape="square")).shape
    assert not judge(frames, replace(clip, background="gray")).background


def test_an_object_that_goes_askew_or_vanishes_has_no_known_motion() -> None:
    askew = Clip("red", "circle", "left", "white", Pose(20, 20, 11), Pose(44, 44, 11))
    assert motion_of(_frames(askew)) == UNKNOWN
    frames = _frames(replace(askew, last=askew.first))
    frames[8:] = 255
    assert motion_of(frames) == UNKNOWN
    assert motion_of(np.full_like(frames, 255)) == UNKNOWN

"""The video world: its split, its videos and its wording."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.video.phrasing import known_words, motion_prompt, plain_prompt, sample_prompt
from training.video.world import (
    COLOURS,
    DIRECTIONS,
    FRAMES,
    MOTIONS,
    SHAPES,
    SIDE,
    UNSEEN,
    Pose,
    Video,
    is_held_out,
    render_array,
    sample_video,
)

seeds = st.integers(0, 2**32 - 1)


def test_every_colour_shape_and_motion_meets_some_others_in_training_and_some_never() -> None:
    every = {(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS}
    for some in (UNSEEN, every - UNSEEN):
        assert {colour for colour, _, _ in some} == set(COLOURS)
        assert {shape for _, shape, _ in some} == set(SHAPES)
        assert {motion for _, _, motion in some} == set(MOTIONS)


@given(seed=seeds, free=st.booleans(), held_out=st.booleans())
def test_a_video_is_of_the_wanted_split(seed: int, free: bool, held_out: bool) -> None:
    video = sample_video(np.random.default_rng(seed), free=free, held_out=held_out)
    assert is_held_out(video) == held_out


@given(seed=seeds, free=st.booleans())
def test_the_object_stays_inside_every_frame(seed: int, free: bool) -> None:
    video = sample_video(np.random.default_rng(seed), free=free)
    for pose in (video.pose(frame) for frame in range(FRAMES)):
        assert pose.radius < min(pose.x, pose.y, SIDE - pose.x, SIDE - pose.y)


@given(seed=seeds, free=st.booleans())
def test_the_object_does_what_the_motion_says_and_nothing_else(seed: int, free: bool) -> None:
    video = sample_video(np.random.default_rng(seed), free=free)
    first, last = video.pose(0), video.pose(FRAMES - 1)
    way = np.sign(np.round([last.x - first.x, last.y - first.y], 6))
    assert tuple(way) == DIRECTIONS.get(video.motion, (0, 0))
    growth = {"growing": 1, "shrinking": -1}.get(video.motion, 0)
    assert np.sign(round(last.radius - first.radius, 6)) == growth


def test_frames_are_painted_from_first_to_last() -> None:
    video = Video("red", "square", "right", "black", Pose(20, 32, 10), Pose(44, 32, 10))
    frames = render_array(video)
    assert frames.shape == (FRAMES, SIDE, SIDE, 3)
    red = frames[:, 32, :, 0] > 0.5
    assert list(red[0, [20, 44]]) == [True, False]
    assert list(red[-1, [20, 44]]) == [False, True]


def test_regular_wording_names_what_is_not_usual() -> None:
    poses = Pose(32, 32, 10), Pose(32, 32, 10)
    assert plain_prompt(Video("orange", "circle", "left", "white", *poses)) == (
        "an orange circle moving left"
    )
    assert plain_prompt(Video("blue", "square", "growing", "black", *poses)) == (
        "a blue square growing on a black background"
    )


@given(seed=seeds)
@pytest.mark.parametrize("wording", [sample_prompt, motion_prompt])
def test_every_prompt_of_a_moving_object_holds_a_word_that_says_how(seed, wording) -> None:
    rng = np.random.default_rng(seed)
    video = sample_video(rng)
    words = set(re.findall("[a-z]+", wording(rng, video)))
    assert video.motion == "still" or words & set(known_words())

"""The synthetic world: its split, its images, its wording and its tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.outline import OUTLINES, mask
from training.palette import BACKGROUND_COLOURS
from training.phrasing import plain_prompt, sample_nonsense, sample_prompt
from training.world import (
    COLOURS,
    SHAPES,
    SIDE,
    UNSEEN_LOOKS,
    Scene,
    Thing,
    is_held_out,
    masks,
    render,
    render_array,
    sample_scene,
)

SIZES_PX = [(128, 128), (128, 96), (96, 128), (128, 64), (64, 128)]

seeds = st.integers(0, 2**32 - 1)


def test_there_are_eight_colours_and_five_shapes() -> None:
    assert (len(COLOURS), len(SHAPES)) == (8, 5)


def test_every_colour_and_every_shape_has_both_seen_and_unseen_looks() -> None:
    looks = {(colour, shape) for colour in COLOURS for shape in SHAPES}
    for some in (UNSEEN_LOOKS, looks - UNSEEN_LOOKS):
        assert {colour for colour, _ in some} == set(COLOURS)
        assert {shape for _, shape in some} == set(SHAPES)


@given(seed=seeds, pair=st.booleans())
def test_a_scene_of_the_training_split_is_not_held_out(seed: int, pair: bool) -> None:
    scene = sample_scene(np.random.default_rng(seed), pair=pair)
    assert not is_held_out(scene)
    assert not any(thing.look in UNSEEN_LOOKS for thing in scene.things)


@given(seed=seeds)
def test_the_order_of_a_pair_does_not_move_it_across_the_split(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, pair=True, held_out=bool(rng.random() < 0.5))
    swapped = Scene(scene.things[::-1], scene.relation, "black")
    assert is_held_out(swapped) == is_held_out(scene)


@given(seed=seeds, pair=st.booleans())
@pytest.mark.parametrize(("width", "height"), SIZES_PX)
def test_things_lie_inside_the_image_and_apart(
    seed: int, pair: bool, width: int, height: int
) -> None:
    scene = sample_scene(np.random.default_rng(seed), pair=pair, width=width, height=height)
    for thing in scene.things:
        assert thing.radius <= min(thing.x, thing.y)
        assert thing.x + thing.radius <= width
        assert thing.y + thing.radius <= height
    if pair:
        first, second = (cover > 0 for cover in masks(scene))
        assert not (first & second).any()


@given(seed=seeds, pair=st.booleans())
def test_the_relation_holds_between_the_things(seed: int, pair: bool) -> None:
    scene = sample_scene(np.random.default_rng(seed), pair=pair)
    if not pair:
        assert scene.relation is None
        return
    first, second = scene.things
    holds = {
        "above": first.y < second.y,
        "below": first.y > second.y,
        "left of": first.x < second.x,
        "right of": first.x > second.x,
        "beside": first.x < second.x,
    }
    assert holds[scene.relation or ""]


def test_the_same_seed_makes_the_same_scene_and_image() -> None:
    one, other = (sample_scene(np.random.default_rng(7), pair=True) for _ in range(2))
    assert one == other
    assert render(one).tobytes() == render(other).tobytes()


@pytest.mark.parametrize("shape", OUTLINES)
def test_edges_are_antialiased_and_the_inside_is_full(shape: str) -> None:
    cover = mask(shape, centre=(64.3, 63.8), radius=30.0, side=SIDE)
    assert cover.max() == 1.0
    assert ((cover > 0.1) & (cover < 0.9)).sum() > 20


def test_an_image_has_the_background_of_its_scene() -> None:
    thing = Thing("red", "circle", "medium", 64.0, 64.0, 30.0)
    pixels = render_array(Scene((thing,), None, "gray"))
    assert np.allclose(pixels[0, 0] * 255.0, BACKGROUND_COLOURS["gray"])


def test_regular_wording_names_everything_once() -> None:
    circle = Thing("red", "circle", "small", 64.0, 32.0, 11.0)
    square = Thing("orange", "square", "medium", 64.0, 96.0, 18.0)
    scene = Scene((circle, square), "above", "gray")
    assert plain_prompt(scene) == ("a small red circle above an orange square on a gray background")


@given(seed=seeds, pair=st.booleans())
def test_free_wording_names_every_shape(seed: int, pair: bool) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, pair=pair)
    prompt = sample_prompt(rng, scene, noise=1.0)
    assert "  " not in prompt
    assert all(word in prompt for thing in scene.things for word in [_stem(prompt, thing)])


@given(seed=seeds)
def test_nonsense_says_nothing_of_the_world(seed: int) -> None:
    words = sample_nonsense(np.random.default_rng(seed)).split()
    assert not set(words) & {*COLOURS, *SHAPES}


def _stem(prompt: str, thing: Thing) -> str:
    names = {"circle": ("circle", "disc", "disk", "ball"), "square": ("square", "box")}
    choices = names.get(thing.shape, (thing.shape,))
    return next((name for name in choices if name in prompt), thing.shape)

"""The world of the images: its split, its images and its wording."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.image.outline import OUTLINES, cover
from training.image.phrasing import COUNT_WORDS, STRANGE, plain_prompt, plural, sample_prompt
from training.image.world import (
    BACKGROUNDS,
    COLOURS,
    LAYOUTS,
    RARE_LOOKS,
    SHAPES,
    SIDE,
    SIZES,
    Composition,
    Item,
    Relation,
    cover_of,
    is_held_out,
    render,
    render_array,
    sample,
    usual_radius,
)
from training.palette import BACKGROUND_COLOURS
from training.words import SHAPE_WORDS, sample_nonsense

SIZES_PX = [(256, 256), (256, 192), (192, 256), (256, 160), (160, 256), (256, 128), (128, 256)]
CIRCLE = Item("red", "circle", "small", 64.0, 64.0, 28.0)
SQUARE = Item("orange", "square", "medium", 64.0, 192.0, 40.0)
STAR = Item("white", "star", "medium", 192.0, 64.0, 40.0)

seeds = st.integers(0, 2**32 - 1)
layouts = st.sampled_from(LAYOUTS)


def test_there_are_ten_colours_and_nine_shapes() -> None:
    assert (len(COLOURS), len(SHAPES)) == (10, 9)
    assert {"white", "black"} <= set(COLOURS)


def test_every_colour_has_a_rare_look_and_every_shape_has_looks_of_both_kinds() -> None:
    looks = {(colour, shape) for colour in COLOURS for shape in SHAPES}
    for some in (RARE_LOOKS, looks - RARE_LOOKS):
        assert {colour for colour, _ in some} == set(COLOURS)
        assert {shape for _, shape in some} == set(SHAPES)


@given(seed=seeds, layout=layouts, held_out=st.booleans())
def test_a_composition_belongs_to_the_split_that_was_wanted(
    seed: int, layout: str, held_out: bool
) -> None:
    composition = sample(np.random.default_rng(seed), layout, held_out=held_out)
    assert is_held_out(composition) == held_out


@pytest.mark.parametrize("look", [(colour, shape) for colour in COLOURS for shape in SHAPES])
def test_alone_a_rare_look_is_trained_in_some_settings_and_others_in_all(
    look: tuple[str, str],
) -> None:
    held_out = {
        is_held_out(Composition("single", (Item(*look, size, 128.0, 128.0, 60.0),), (), background))
        for size in SIZES
        for background in BACKGROUNDS
    }
    assert held_out == ({True, False} if look in RARE_LOOKS else {False})


@given(seed=seeds, held_out=st.booleans())
def test_the_order_of_objects_does_not_move_them_across_the_split(
    seed: int, held_out: bool
) -> None:
    composition = sample(np.random.default_rng(seed), "corner", held_out=held_out)
    turned = Composition("corner", composition.items[::-1], composition.relations, "black")
    assert is_held_out(turned) == held_out


@given(seed=seeds, layout=layouts, size=st.sampled_from(SIZES_PX))
def test_objects_lie_inside_the_image_and_apart(
    seed: int, layout: str, size: tuple[int, int]
) -> None:
    width, height = size
    composition = sample(np.random.default_rng(seed), layout, width=width, height=height)
    for item in composition.items:
        assert item.radius <= min(item.x, item.y)
        assert item.x + item.radius <= width
        assert item.y + item.radius <= height
    covers = [cover_of(composition, item) > 0 for item in composition.items]
    assert np.sum(covers, axis=0).max() == 1


@given(seed=seeds, layout=st.sampled_from(["pair", "corner", "row"]), portrait=st.booleans())
def test_the_relations_hold_between_the_objects(seed: int, layout: str, portrait: bool) -> None:
    width, height = (192, 256) if portrait else (256, 192)
    composition = sample(np.random.default_rng(seed), layout, width=width, height=height)
    assert composition.relations
    for relation in composition.relations:
        first, second = composition.items[relation.first], composition.items[relation.second]
        holds = {
            "above": first.y < second.y,
            "below": first.y > second.y,
            "left of": first.x < second.x,
            "right of": first.x > second.x,
            "beside": first.x < second.x,
        }
        assert holds[relation.name]


@given(seed=seeds)
def test_a_group_is_of_two_to_four_that_look_the_same(seed: int) -> None:
    composition = sample(np.random.default_rng(seed), "group")
    ((_, count),) = Counter((item.look, item.size) for item in composition.items).items()
    assert 2 <= count <= 4


@given(seed=seeds, layout=layouts)
def test_an_object_has_the_usual_radius_of_its_size(seed: int, layout: str) -> None:
    composition = sample(np.random.default_rng(seed), layout)
    for item in composition.items:
        assert abs(item.radius / usual_radius(item.size, composition) - 1) < 0.02


@given(seed=seeds, layout=layouts)
def test_a_white_object_is_never_on_white(seed: int, layout: str) -> None:
    composition = sample(np.random.default_rng(seed), layout)
    assert composition.background not in {item.colour for item in composition.items}
    assert composition.default_background not in {item.colour for item in composition.items}


def test_the_same_seed_makes_the_same_composition_and_image() -> None:
    first, other = (sample(np.random.default_rng(7), "corner") for _ in range(2))
    assert first == other
    assert render(first).tobytes() == render(other).tobytes()


@pytest.mark.parametrize("shape", OUTLINES)
def test_edges_are_antialiased_and_the_inside_is_full(shape: str) -> None:
    covered = cover(shape, centre=(128.3, 127.8), radius=60.0, width=SIDE, height=SIDE)
    assert covered.max() == 1.0
    assert ((covered > 0.1) & (covered < 0.9)).sum() > 20
    rows, columns = np.nonzero(covered > 0.5)
    assert max(np.ptp(rows), np.ptp(columns)) == pytest.approx(120, abs=13)


def test_a_ring_has_a_hole_through_which_the_background_is_seen() -> None:
    ring = Item("red", "ring", "large", 128.0, 128.0, 92.0)
    pixels = render_array(Composition("single", (ring,), (), "gray")) * 255.0
    assert np.allclose(pixels[128, 128], BACKGROUND_COLOURS["gray"])
    assert np.allclose(pixels[128, 60], BACKGROUND_COLOURS["red"])


def test_regular_wording_names_everything_once() -> None:
    pair = Composition("pair", (CIRCLE, SQUARE), (Relation(0, 1, "above"),), "gray")
    assert plain_prompt(pair) == "a small red circle above an orange square on a gray background"
    relations = Relation(0, 1, "above"), Relation(0, 2, "left of")
    corner = Composition("corner", (CIRCLE, SQUARE, STAR), relations, "gray")
    assert plain_prompt(corner) == (
        "a small red circle above an orange square and to the left of a white star"
    )
    row = Composition("row", (SQUARE, CIRCLE, STAR), (), "black")
    assert plain_prompt(row) == (
        "an orange square, a small red circle and a white star on a black background"
    )
    group = Composition("group", (CIRCLE,) * 4, (), "white")
    assert plain_prompt(group) == "four small red circles"


@pytest.mark.parametrize(
    ("singular", "several"),
    [("star", "stars"), ("box", "boxes"), ("cross", "crosses"), ("rhombus", "rhombuses")],
)
def test_several_of_a_shape_have_an_english_plural(singular: str, several: str) -> None:
    assert plural(singular) == several


@given(seed=seeds, layout=layouts)
def test_free_wording_names_every_shape_without_gaps_or_spaces_before_commas(
    seed: int, layout: str
) -> None:
    rng = np.random.default_rng(seed)
    composition = sample(rng, layout)
    prompt = sample_prompt(rng, composition, noise=1.0)
    for item in composition.items:
        assert any(word in prompt for word in SHAPE_WORDS[item.shape])
    assert "  " not in prompt
    assert " ," not in prompt


@given(seed=seeds)
def test_nonsense_says_nothing_of_the_world(seed: int) -> None:
    words = sample_nonsense(np.random.default_rng(seed), STRANGE).split()
    assert not set(words) & {*COLOURS, *SHAPES, *COUNT_WORDS[1]}

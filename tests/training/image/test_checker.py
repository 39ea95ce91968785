"""The checker, against rendered truth and against images that are wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from training.image.checker import UNKNOWN, judge, read, relation_between
from training.image.exam import Answer, contact_sheet, figures, set_questions
from training.image.world import (
    LAYOUTS,
    SHAPES,
    SIDE,
    Composition,
    Item,
    Relation,
    is_held_out,
    render,
    sample,
)

CIRCLE = Item("red", "circle", "medium", 128.0, 64.0, 40.0)
SQUARE = Item("blue", "square", "medium", 128.0, 192.0, 40.0)
CIRCLE_ABOVE_SQUARE = Composition("pair", (CIRCLE, SQUARE), (Relation(0, 1, "above"),), "white")


@pytest.mark.long
def test_it_judges_at_least_199_of_200_rendered_images_right() -> None:
    rng = np.random.default_rng(11)
    compositions = [sample(rng, LAYOUTS[i % 5], held_out=i % 3 == 0) for i in range(200)]
    verdicts = [judge(render(composition), composition) for composition in compositions]
    assert sum(verdict.everything for verdict in verdicts) >= 199
    assert sum(verdict.size for verdict in verdicts) >= 199


@pytest.mark.long
@pytest.mark.parametrize(("width", "height"), [(256, 192), (192, 256), (256, 160), (160, 256)])
def test_it_judges_nearly_all_images_that_are_not_square_right(width: int, height: int) -> None:
    rng = np.random.default_rng(13)
    compositions = [sample(rng, LAYOUTS[i % 5], width=width, height=height) for i in range(50)]
    assert (
        sum(judge(render(composition), composition).everything for composition in compositions)
        >= 49
    )


@pytest.mark.long
def test_it_judges_an_image_of_half_the_size_by_the_same_measure() -> None:
    rng = np.random.default_rng(14)
    compositions = [sample(rng, LAYOUTS[i % 5]) for i in range(40)]
    small = [
        render(composition).resize((128, 128), Image.Resampling.LANCZOS)
        for composition in compositions
    ]
    rights = [
        judge(image, composition).shape
        for image, composition in zip(small, compositions, strict=True)
    ]
    assert sum(rights) >= 38


@pytest.mark.long
def test_it_judges_at_least_95_of_100_blurred_and_noisy_images_right() -> None:
    rng = np.random.default_rng(12)
    compositions = [sample(rng, LAYOUTS[i % 5]) for i in range(60)]
    rights = [
        judge(_worn(rng, render(composition)), composition).everything
        for composition in compositions
    ]
    assert sum(rights) >= 57


def test_the_wrong_relation_is_seen_though_the_looks_are_right() -> None:
    below = Composition("pair", (CIRCLE, SQUARE), (Relation(0, 1, "below"),), "white")
    verdict = judge(render(CIRCLE_ABOVE_SQUARE), below)
    assert (verdict.colour, verdict.shape, verdict.relation) == (True, True, False)
    assert not verdict.everything


def test_looks_that_changed_places_have_the_wrong_relation() -> None:
    circle, square = replace(CIRCLE, colour="blue"), replace(SQUARE, colour="red")
    swapped = replace(CIRCLE_ABOVE_SQUARE, items=(circle, square))
    assert judge(render(swapped), CIRCLE_ABOVE_SQUARE).relation is False


@given(
    first=st.tuples(st.integers(0, 127), st.integers(0, 127)),
    second=st.tuples(st.integers(0, 127), st.integers(0, 127)),
)
def test_relations_turn_round_with_their_order(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    opposite = {"above": "below", "left of": "right of"}
    opposite |= {v: k for k, v in opposite.items()}
    if first[0] != second[0]:
        assert relation_between(first, second) == opposite[relation_between(second, first)]


@given(seed=st.integers(0, 2**32 - 1))
def test_another_composition_of_other_looks_is_never_the_one_asked_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    composition, shown = (sample(rng, LAYOUTS[rng.integers(len(LAYOUTS))]) for _ in range(2))
    if {item.look for item in composition.items} != {item.look for item in shown.items}:
        assert not judge(render(shown), composition).everything


def test_of_two_relations_both_have_to_hold() -> None:
    star = Item("green", "star", "medium", 192.0, 64.0, 40.0)
    left = Item("red", "circle", "medium", 64.0, 64.0, 40.0)
    below = Item("blue", "square", "medium", 64.0, 192.0, 40.0)
    relations = Relation(0, 1, "above"), Relation(0, 2, "left of")
    composition = Composition("corner", (left, below, star), relations, "white")
    assert judge(render(composition), composition).everything
    other = relations[0], Relation(0, 2, "right of")
    assert (
        judge(
            render(composition), Composition("corner", composition.items, other, "white")
        ).relation
        is False
    )


def test_a_missing_object_is_counted() -> None:
    alone = Composition("single", (CIRCLE,), (), "white")
    assert not judge(render(alone), CIRCLE_ABOVE_SQUARE).count


def test_a_speck_in_a_corner_is_not_clean_and_no_object() -> None:
    image = render(CIRCLE_ABOVE_SQUARE)
    ImageDraw.Draw(image).rectangle((0, 0, 4, 4), fill=(0, 0, 0))
    verdict = judge(image, CIRCLE_ABOVE_SQUARE)
    assert (verdict.count, verdict.clean, verdict.everything) == (True, False, False)


def test_the_wrong_background_is_seen() -> None:
    black = Composition("pair", CIRCLE_ABOVE_SQUARE.items, CIRCLE_ABOVE_SQUARE.relations, "black")
    assert not judge(render(CIRCLE_ABOVE_SQUARE), black).background


def test_an_empty_image_shows_nothing() -> None:
    reading = read(Image.new("RGB", (SIDE, SIDE), (255, 255, 255)))
    assert (reading.background, reading.sights, reading.stray_pixels) == ("white", (), 0)


def test_noise_shows_no_known_composition() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    assert not judge(Image.fromarray(noise), CIRCLE_ABOVE_SQUARE).everything


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_of_no_palette_colour_has_an_unknown_colour(shape: str) -> None:
    item = Item("red", shape, "large", 128.0, 128.0, 90.0)
    pixels = np.asarray(render(Composition("single", (item,), (), "white"))).copy()
    pixels[pixels[..., 1] < 128] = (90, 110, 20)
    (sight,) = read(Image.fromarray(pixels)).sights
    assert sight.look == (UNKNOWN, shape)


@pytest.mark.parametrize("box", [(30, 100, 200, 140), (100, 30, 140, 200)])
def test_a_bar_is_no_shape(box: tuple[int, int, int, int]) -> None:
    image = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    ImageDraw.Draw(image).rectangle(box, fill=(36, 76, 222))
    (sight,) = read(image).sights
    assert (sight.colour, sight.shape) == ("blue", UNKNOWN)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [20.0, 92.0])
def test_every_shape_is_told_from_the_others_small_and_large(shape: str, radius: float) -> None:
    item = Item("purple", shape, "medium", 128.4, 127.7, radius)
    (sight,) = read(render(Composition("single", (item,), (), "yellow"))).sights
    assert sight.look == ("purple", shape)
    # A square's side is a little shorter, so that it looks as large as the others.
    assert sight.radius == pytest.approx(radius * (0.9 if shape == "square" else 1.0), abs=1.5)


def test_the_exam_asks_for_each_layout_and_only_for_what_training_never_saw() -> None:
    questions = set_questions(20, seed=1, width=256, height=192)
    assert {question.composition.layout for question in questions} == set(LAYOUTS)
    assert all(is_held_out(question.composition) for question in questions)
    assert questions == set_questions(20, seed=1, width=256, height=192)


def test_its_figures_are_the_parts_that_are_right() -> None:
    questions = set_questions(10, seed=2)
    answers = []
    for i, question in enumerate(questions):
        image = render(question.composition) if i >= 5 else Image.new("RGB", (SIDE, SIDE))
        answers.append(Answer(question, image, judge(image, question.composition)))
    marks = figures(answers)
    assert (marks["count"], marks["relation"], marks["group"]) == (0.5, 0.5, 0.5)
    assert marks["images"] == 10
    assert contact_sheet(answers, columns=5).size == (5 * 260, 2 * 260)


def _worn(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """The image a little smaller and back, with noise, as a weak decoder would give it."""
    side = image.width
    soft = image.resize((side * 3 // 4, side * 3 // 4), Image.Resampling.BILINEAR)
    pixels = np.asarray(soft.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)
    noisy = pixels + rng.normal(0.0, 6.0, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))

"""The checker, against rendered scenes whose truth is known and images that are wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.blobs import find_blobs
from training.checker import UNKNOWN, judge, read, relation_between
from training.palette import OBJECT_COLOURS
from training.world import SHAPES, SIDE, Scene, Thing, render, sample_scene

RED_CIRCLE = Thing("red", "circle", "medium", 64.0, 32.0, 18.0)
BLUE_SQUARE = Thing("blue", "square", "medium", 64.0, 96.0, 18.0)
CIRCLE_ABOVE_SQUARE = Scene((RED_CIRCLE, BLUE_SQUARE), "above", "white")


@pytest.mark.long
def test_it_judges_at_least_99_of_100_rendered_scenes_right() -> None:
    rng = np.random.default_rng(11)
    scenes = [sample_scene(rng, pair=i % 2 == 1, held_out=i % 3 == 0) for i in range(600)]
    verdicts = [judge(render(scene), scene) for scene in scenes]
    assert sum(verdict.everything for verdict in verdicts) >= 0.99 * len(scenes)
    assert sum(verdict.size for verdict in verdicts) >= 0.97 * len(scenes)


@pytest.mark.long
@pytest.mark.parametrize(("width", "height"), [(128, 96), (96, 128), (128, 64), (64, 128)])
def test_it_judges_at_least_97_of_100_scenes_that_are_not_square_right(
    width: int, height: int
) -> None:
    rng = np.random.default_rng(13)
    size = {"width": width, "height": height}
    scenes = [sample_scene(rng, pair=i % 2 == 1, **size) for i in range(100)]
    assert sum(judge(render(scene), scene).everything for scene in scenes) >= 97


@pytest.mark.long
def test_it_judges_at_least_95_of_100_blurred_and_noisy_scenes_right() -> None:
    rng = np.random.default_rng(12)
    scenes = [sample_scene(rng, pair=i % 2 == 1) for i in range(100)]
    rights = [judge(_worn(rng, render(scene)), scene).everything for scene in scenes]
    assert sum(rights) >= 95


@given(seed=st.integers(0, 2**32 - 1))
def test_another_scene_of_other_looks_is_never_the_one_asked_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked, shown = (sample_scene(rng, pair=bool(rng.random() < 0.5)) for _ in range(2))
    if {thing.look for thing in asked.things} != {thing.look for thing in shown.things}:
        assert not judge(render(shown), asked).everything


def test_the_wrong_relation_is_seen_though_the_looks_are_right() -> None:
    asked = Scene(CIRCLE_ABOVE_SQUARE.things, "below", "white")
    verdict = judge(render(CIRCLE_ABOVE_SQUARE), asked)
    assert (verdict.colour, verdict.shape, verdict.relation) == (True, True, False)
    assert not verdict.everything


def test_looks_that_changed_places_have_the_wrong_relation() -> None:
    swapped = Scene(
        (
            Thing("blue", "circle", "medium", 64.0, 32.0, 18.0),
            Thing("red", "square", "medium", 64.0, 96.0, 18.0),
        ),
        "above",
        "white",
    )
    assert judge(render(swapped), CIRCLE_ABOVE_SQUARE).relation is False


def test_a_missing_thing_is_counted() -> None:
    alone = Scene((RED_CIRCLE,), None, "white")
    assert not judge(render(alone), CIRCLE_ABOVE_SQUARE).count


def test_the_wrong_background_is_seen() -> None:
    asked = Scene((RED_CIRCLE,), None, "black")
    verdict = judge(render(Scene((RED_CIRCLE,), None, "white")), asked)
    assert (verdict.shape, verdict.background) == (True, False)


def test_an_empty_image_shows_nothing() -> None:
    reading = read(Image.new("RGB", (SIDE, SIDE), (255, 255, 255)))
    assert (reading.background, reading.sightings) == ("white", ())


def test_noise_shows_no_known_scene() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    assert not judge(Image.fromarray(noise), CIRCLE_ABOVE_SQUARE).everything


@pytest.mark.parametrize(("width", "height"), [(60, 20), (20, 60)])
def test_a_bar_is_no_shape(width: int, height: int) -> None:
    image = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    image.paste(OBJECT_COLOURS["red"], (30, 30, 30 + width, 30 + height))
    (sighting,) = read(image).sightings
    assert (sighting.colour, sighting.shape) == ("red", UNKNOWN)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_of_no_palette_colour_has_an_unknown_colour(shape: str) -> None:
    image = render(Scene((Thing("red", shape, "large", 64.0, 64.0, 45.0),), None, "white"))
    pixels = np.asarray(image).copy()
    pixels[pixels[..., 1] < 128] = (90, 110, 20)
    (sighting,) = read(Image.fromarray(pixels)).sightings
    assert (sighting.colour, sighting.shape) == (UNKNOWN, shape)


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


def test_regions_that_touch_at_a_corner_are_one_and_specks_are_none() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:6, 2:6] = mask[6:10, 6:10] = mask[15, 15] = True
    (blob,) = find_blobs(mask, smallest=2)
    assert (blob.area, blob.top, blob.left, blob.mask.shape) == (32, 2, 2, (8, 8))


def test_a_winding_region_is_one_region() -> None:
    mask = np.zeros((31, 31), dtype=bool)
    mask[::4] = True
    mask[1::8, -1] = mask[2::8, -1] = mask[3::8, -1] = True
    mask[5::8, 0] = mask[6::8, 0] = mask[7::8, 0] = True
    assert [blob.area for blob in find_blobs(mask, smallest=1)] == [int(mask.sum())]


def _worn(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """The image a little smaller and back, with noise, as a weak decoder would give it."""
    side = image.width
    soft = image.resize((side * 3 // 4, side * 3 // 4), Image.Resampling.BILINEAR)
    pixels = np.asarray(soft.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)
    noisy = pixels + rng.normal(0.0, 6.0, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))

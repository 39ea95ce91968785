"""Messages about unknown endpoints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.catalog import suggestions
from serve_app.catalog.catalog import Catalog, load
from serve_app.catalog.fal_types import fal_ids
from serve_app.catalog.suggestions import MAX_NAMED, WORDS
from serve_app.domain.errors import EndpointNotFound

DEMO = Path(__file__).parents[2] / "deployments" / "demo"
KINDS = [category for category, _ in WORDS]


def not_found_message(catalog: Catalog, endpoint_id: str) -> str:
    with pytest.raises(EndpointNotFound) as caught:
        catalog.get(endpoint_id)
    return caught.value.message


def test_a_slip_of_the_pen_gets_the_nearest_id(catalog: Catalog) -> None:
    assert "Did you mean fal-ai/flux/schnell" in not_found_message(catalog, "fal-ai/flux/schnel")
    assert "Did you mean fal-ai/fast-sdxl" in not_found_message(catalog, "fal-ai/fast-sdlx")


def test_a_part_of_an_id_gets_the_ids_that_have_it(catalog: Catalog) -> None:
    assert "Did you mean fal-ai/flux/dev, fal-ai/flux/dev/image-to-image, fal-ai/flux/schnell" in (
        not_found_message(catalog, "flux")
    )


def test_what_is_like_nothing_gets_a_short_list(catalog: Catalog) -> None:
    message = not_found_message(catalog, "zzz")
    assert "serves darkroom/qwen-image-lightning, darkroom/sdxs, " in message
    assert message.count(",") == MAX_NAMED - 1
    assert message.endswith(" more.")


def test_an_endpoint_of_fals_is_named_as_such_with_the_way_to_add_it(catalog: Catalog) -> None:
    message = not_found_message(catalog, "fal-ai/flux-pro/v1.1")
    assert "an endpoint of fal's that this installation does not have" in message
    assert "For text-to-image, this installation serves fal-ai/flux" in message
    assert "darkroom models add" in message


@pytest.mark.parametrize(
    ("endpoint_id", "category"),
    [
        ("fal-ai/nano-banana", "text-to-image"),
        ("fal-ai/nano-banana/edit", "image-to-image"),
        ("fal-ai/recraft-v3", "text-to-image"),
        ("fal-ai/kling-video/v2/master/image-to-video", "image-to-video"),
        ("fal-ai/veo3", "text-to-video"),
        ("fal-ai/elevenlabs/tts/turbo-v2.5", "text-to-audio"),
    ],
)
def test_the_suggestions_are_of_the_same_kind(
    catalog: Catalog, endpoint_id: str, category: str
) -> None:
    message = not_found_message(catalog, endpoint_id)
    match = re.search(rf"For {category}, this installation serves (.+?)\.( |$)", message)
    assert match is not None
    for suggestion in match[1].split(", "):
        assert catalog.get(suggestion).endpoint.category == category


def test_what_is_not_served_is_not_suggested() -> None:
    catalog = load(None, demo=True, demo_dir=DEMO)
    unserved = [entry.endpoint.id for entry in catalog if entry.missing]
    assert unserved
    for endpoint_id in (
        "fal-ai/nope",
        "fal-ai/wan-t2w",
        "zzz",
        "fal-ai/kling-video/v2/master/text-to-video",
    ):
        words = re.split(
            r"[\s,.?]+", not_found_message(catalog, endpoint_id).replace("v2.2", "v2_2")
        )
        assert not {word.replace("v2_2", "v2.2") for word in words} & set(unserved)


def test_a_kind_that_nothing_serves_is_said() -> None:
    message = suggestions.sentence("fal-ai/veo3", {"a/b": "text-to-image"}, ())
    assert message.endswith("Nothing for text-to-video is served here.")


@given(st.text(max_size=300), st.dictionaries(st.text(min_size=1), st.sampled_from(KINDS)))
def test_every_id_gets_a_sentence(endpoint_id: str, served: dict[str, str]) -> None:
    assert suggestions.sentence(endpoint_id, served, ()).endswith((".", "?"))


def test_an_unknown_workflow_can_be_registered(catalog: Catalog) -> None:
    assert "run `darkroom deploy` with its file" in not_found_message(
        catalog, "workflows/me/portrait"
    )


def test_a_comfy_workflow_of_fals_is_not_here(catalog: Catalog) -> None:
    assert "is a ComfyUI workflow of fal's" in not_found_message(catalog, "comfy/me/portrait")


@pytest.mark.parametrize(
    "endpoint_id",
    sorted(
        endpoint_id
        for endpoint_id in fal_ids()
        if "trainer" in endpoint_id or "training" in endpoint_id
    ),
)
def test_training_is_not_ours(catalog: Catalog, endpoint_id: str) -> None:
    assert "trains a model, and Darkroom trains none" in not_found_message(catalog, endpoint_id)


def test_an_image_of_trains_is_no_training(catalog: Catalog) -> None:
    assert "There is no endpoint" in not_found_message(catalog, "me/steam-trains")


def test_an_id_is_not_repeated_without_end(catalog: Catalog) -> None:
    assert len(not_found_message(catalog, "a/" + "b" * 10_000)) < 2000

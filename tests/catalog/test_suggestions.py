"""Messages about unknown endpoints."""

from __future__ import annotations

import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.suggestions import read_fal_ids
from serve_app.domain.errors import EndpointNotFound


def said(catalog: Catalog, endpoint_id: str) -> str:
    with pytest.raises(EndpointNotFound) as caught:
        catalog.get(endpoint_id)
    return caught.value.message


def test_a_slip_of_the_pen_gets_the_nearest_id(catalog: Catalog) -> None:
    assert "Did you mean fal-ai/flux/schnell" in said(catalog, "fal-ai/flux/schnel")
    assert "Did you mean fal-ai/fast-sdxl" in said(catalog, "fal-ai/fast-sdlx")


def test_what_is_like_nothing_gets_the_list(catalog: Catalog) -> None:
    assert "serves darkroom/qwen-image-lightning, fal-ai/ace-step, fal-ai/esrgan" in said(
        catalog, "zzz"
    )


def test_an_endpoint_of_fals_is_named_as_such_with_the_way_to_add_it(catalog: Catalog) -> None:
    message = said(catalog, "fal-ai/flux-pro/v1.1")
    assert "an endpoint of fal's that this installation does not have" in message
    assert "Nearest here: fal-ai/flux" in message
    assert "darkroom models add" in message


@pytest.mark.parametrize("endpoint_id", ["workflows/me/portrait", "comfy/me/portrait"])
def test_workflows_are_not_ours(catalog: Catalog, endpoint_id: str) -> None:
    assert "is a workflow, and Darkroom runs none" in said(catalog, endpoint_id)


@pytest.mark.parametrize(
    "endpoint_id",
    sorted(each for each in read_fal_ids() if "trainer" in each or "training" in each),
)
def test_training_is_not_ours(catalog: Catalog, endpoint_id: str) -> None:
    assert "trains a model, and Darkroom trains none" in said(catalog, endpoint_id)


def test_an_image_of_trains_is_no_training(catalog: Catalog) -> None:
    assert "There is no endpoint" in said(catalog, "me/steam-trains")


def test_an_id_is_not_repeated_without_end(catalog: Catalog) -> None:
    assert len(said(catalog, "a/" + "b" * 10_000)) < 2000


def test_the_list_of_fals_endpoints_is_one_id_a_line() -> None:
    ids = read_fal_ids()
    assert len(ids) > 1000
    assert all("/" in each and " " not in each for each in ids)

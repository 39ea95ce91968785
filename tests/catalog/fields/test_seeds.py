"""A list of seeds sets the number of outputs, and contradictions are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog, load
from serve_app.catalog.work import expected_quantities, work_of
from serve_app.domain.errors import InvalidInput

SCHNELL, SDXL = "fal-ai/flux/schnell", "fal-ai/fast-sdxl"
VIDEO, AUDIO = "fal-ai/wan/v2.2-5b/text-to-video", "fal-ai/stable-audio"
FOUR = [1, -2, 2**64 - 1, 0]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load(None, demo=False, demo_dir=Path("/nowhere"))


def validate_body(catalog: Catalog, endpoint_id: str, **fields: Any) -> dict[str, Any]:
    return catalog.get_listed(endpoint_id).schema.validate({"prompt": "x", **fields})[0]


@pytest.mark.parametrize("endpoint_id", [SCHNELL, SDXL, VIDEO, AUDIO])
def test_as_many_files_are_made_as_there_are_seeds(catalog: Catalog, endpoint_id: str) -> None:
    types = catalog.get_listed(endpoint_id).schema.media_types
    single = validate_body(catalog, endpoint_id, seed=1)
    four = validate_body(catalog, endpoint_id, seeds=FOUR)
    assert four["seeds"] == FOUR
    assert types(four) == types(single) * 4
    assert work_of(four) == pytest.approx(4 * work_of(single))
    endpoint = catalog.get_listed(endpoint_id).endpoint
    total, per_file = expected_quantities(endpoint, four), expected_quantities(endpoint, single)
    assert total.images == 4 * per_file.images
    assert total.seconds == (4 if endpoint_id in (VIDEO, AUDIO) else 1) * per_file.seconds


def test_a_count_that_agrees_may_be_given(catalog: Catalog) -> None:
    assert validate_body(catalog, SCHNELL, seeds=[1, 2], num_images=2)["num_images"] == 2


@pytest.mark.parametrize(
    ("endpoint_id", "fields", "at_fault"),
    [
        (SCHNELL, {"seeds": [1, 2], "num_images": 3}, "seeds"),
        (SCHNELL, {"seeds": [1, 2], "num_images": 1}, "seeds"),
        (SCHNELL, {"seeds": [1, 2], "seed": 1}, "seed"),
        (SCHNELL, {"seeds": [1, 2, 3, 4, 5]}, "seeds"),
        (SDXL, {"seeds": list(range(9))}, "seeds"),
        (VIDEO, {"seeds": [1, 2, 3, 4, 5]}, "seeds"),
        (AUDIO, {"seeds": [1, 2], "seed": 1}, "seed"),
        (VIDEO, {"seeds": []}, "seeds"),
        (VIDEO, {"seeds": 3}, "seeds"),
        (VIDEO, {"seeds": [2**64]}, "seeds"),
        (VIDEO, {"seeds": ["red"]}, "seeds"),
    ],
)
def test_what_disagrees_is_refused_by_its_name(
    catalog: Catalog, endpoint_id: str, fields: dict[str, Any], at_fault: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        validate_body(catalog, endpoint_id, **fields)
    assert refused.value.problems[0].loc[:2] == ("body", at_fault)


def test_a_long_list_of_wrong_seeds_has_one_problem(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput) as refused:
        validate_body(catalog, VIDEO, seeds=[1.5] * 1000)
    assert [problem.loc for problem in refused.value.problems] == [("body", "seeds", 0)]


def test_an_operator_who_allows_fewer_images_allows_fewer_seeds(tmp_path: Path) -> None:
    own = tmp_path / "models.yaml"
    own.write_text(
        "endpoints:\n"
        "  house/flux:\n"
        "    family: flux\n"
        "    schema: flux-text-to-image\n"
        "    weights: {directory: /nowhere}\n"
        "    bounds: {num_images: [1, 2]}\n"
    )
    catalog = load(own, demo=False, demo_dir=Path("/nowhere"))
    assert validate_body(catalog, "house/flux", seeds=[1, 2])["num_images"] == 2
    with pytest.raises(InvalidInput, match="at most 2 seeds"):
        validate_body(catalog, "house/flux", seeds=[1, 2, 3])


def test_who_has_no_seeds_does_not_see_any(catalog: Catalog) -> None:
    assert "seeds" not in validate_body(catalog, SCHNELL)
    assert "seeds" not in validate_body(catalog, SCHNELL, seeds=None, num_images=2)

"""fal's fields without effect here, and fields that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.domain.errors import InvalidInput

SDXL = "fal-ai/fast-sdxl"


def warnings(catalog: Catalog, endpoint_id: str = SDXL, **fields: Any) -> tuple[str, ...]:
    return catalog.validate(endpoint_id, {"prompt": "x"} | fields).warnings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable_safety_checker", True),
        ("safety_checker_version", "v2"),
        ("expand_prompt", True),
        ("request_id", "mine"),
    ],
)
def test_a_field_without_effect_is_reported_in_the_log_and_in_the_schema(
    catalog: Catalog, name: str, value: Any
) -> None:
    (warning,) = warnings(catalog, **{name: value})
    assert warning.startswith(f"{name} has no effect: ")
    shown = catalog.get(SDXL).schema.json_schema()["properties"][name]
    assert shown["x-darkroom-no-effect"] is True
    assert "Has no effect here: " in shown["description"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("enable_safety_checker", False), ("expand_prompt", False), ("request_id", "")],
)
def test_a_header_for_what_is_done_anyway_gets_no_remark(
    catalog: Catalog, name: str, value: Any
) -> None:
    assert warnings(catalog, **{name: value}) == ()


def test_a_default_without_effect_gives_no_warning(catalog: Catalog) -> None:
    assert warnings(catalog, "fal-ai/z-image/turbo") == ()


def test_fields_with_an_effect_are_not_marked(catalog: Catalog) -> None:
    shown = catalog.get(SDXL).schema.json_schema()["properties"]
    marked = {name for name, field in shown.items() if "x-darkroom-no-effect" in field}
    assert marked == {
        "enable_safety_checker",
        "safety_checker_version",
        "expand_prompt",
        "request_id",
    }


def test_what_would_change_the_image_is_refused_and_not_left_out(catalog: Catalog) -> None:
    name = "embeddings"
    with pytest.raises(InvalidInput, match=f"{name}: Not supported here") as caught:
        warnings(catalog, **{name: [{"path": "https://example.org/style.safetensors"}]})
    (problem,) = caught.value.problems
    assert (problem.loc, problem.type) == (("body", name), "feature_not_supported")
    assert warnings(catalog, **{name: []}) == ()
    shown = catalog.get(SDXL).schema.json_schema()["properties"][name]
    assert shown["x-darkroom-not-supported"] is True


def test_fields_of_the_items_of_a_list_are_marked_and_reported_too(catalog: Catalog) -> None:
    lora = {"path": "house/style"}
    assert warnings(catalog, loras=[lora, {**lora, "force": False}]) == ()
    (warning,) = warnings(catalog, loras=[lora, {**lora, "force": True}])
    assert warning.startswith("loras.1.force has no effect: ")
    shown = catalog.get(SDXL).schema.json_schema()["$defs"]["LoraWeight"]["properties"]
    assert shown["force"]["x-darkroom-no-effect"] is True
    assert "x-darkroom-no-effect" not in shown["path"]


def test_a_lora_that_is_wrong_in_itself_is_reported_as_such(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput) as caught:
        warnings(catalog, "fal-ai/flux-lora", loras=[{"scale": 1}])
    assert caught.value.problems[0].loc == ("body", "loras", 0, "path")


def test_of_a_choice_that_is_served_in_part_the_rest_is_refused(catalog: Catalog) -> None:
    lcm, other = "fal-ai/fast-lcm-diffusion", "runwayml/stable-diffusion-v1-5"
    with pytest.raises(InvalidInput, match="model_name: Not supported here"):
        warnings(catalog, lcm, model_name=other)
    served = "stabilityai/stable-diffusion-xl-base-1.0"
    assert warnings(catalog, lcm, model_name=served) == ()
    shown = catalog.get(lcm).schema.json_schema()["properties"]["model_name"]
    assert f"Refused unless {served}: " in shown["description"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "/etc/passwd"},
        {"path": "file:///srv/lora.safetensors"},
        {"path": "house/style", "scale": 4.1},
        {"path": "house/style", "scale": float("nan")},
    ],
)
def test_a_lora_that_cannot_be_had_is_refused_before_it_is_queued(
    catalog: Catalog, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        warnings(catalog, "fal-ai/flux-lora", loras=[{"path": "house/style"}, wrong])
    assert caught.value.problems[0].loc[:3] == ("body", "loras", 1)


def test_a_request_has_eight_loras_at_most(catalog: Catalog) -> None:
    loras = [{"path": "house/style", "scale": -1}] * 8
    assert warnings(catalog, "fal-ai/flux-lora", loras=loras) == ()
    with pytest.raises(InvalidInput, match="at most 8 items"):
        warnings(catalog, "fal-ai/flux-lora", loras=[*loras, loras[0]])

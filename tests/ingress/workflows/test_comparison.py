"""Comparisons: one call of several endpoints, with outputs, seconds and costs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.workflows.entry import definition_of, workflow_entry
from serve_app.catalog.workflows.reader import read
from serve_app.domain.errors import InvalidInput
from serve_app.ingress.workflows.worker import WorkflowWorker
from tests.ingress.house import OTHERS, House, build_house
from tests.ingress.workflows.test_running import (
    IMAGES,
    PROBE,
    register_workflow,
    result,
    run_until_ended,
    status,
    submit_request,
)

BOTH: Mapping[str, Any] = {
    "name": "both",
    "input": {"prompt": {"type": "string"}, "fail": {"type": "string"}},
    "compare": {
        "images": {"app": IMAGES, "input": {"prompt": "$input.prompt"}},
        "probe": PROBE,
    },
}
BAD: Mapping[str, Any] = {
    **BOTH,
    "compare": {name: {"app": PROBE, "input": {"fail": "oom"}} for name in "ab"},
}
PRICES = {
    IMAGES: {"unit": "request", "amount": "0.04", "currency": "EUR"},
    PROBE: {"unit": "request", "amount": "0.5", "currency": "EUR"},
}


def make_catalog() -> Catalog:
    definition = definition_of(read(BOTH))
    entry = workflow_entry("default", "both", definition, public=True, catalog=None)
    return OTHERS.with_private([entry]).of_tenant("default")


DOCUMENTED = make_catalog()


async def run_workflow(house: House, workflow: Mapping[str, Any], body: Mapping[str, Any]) -> Any:
    endpoint = await register_workflow(house, workflow)
    request_id = await submit_request(house, endpoint, body)
    await run_until_ended(house, endpoint, request_id, WorkflowWorker(house.services))
    return await status(house, endpoint, request_id), await result(house, endpoint, request_id)


async def test_one_call_has_the_results_of_all_endpoints_side_by_side() -> None:
    async with build_house(catalog=OTHERS, documented=DOCUMENTED, prices=PRICES) as house:
        told, answer = await run_workflow(
            house, BOTH, {"prompt": "a fox", "fail": "pipeline_failed"}
        )
    assert told["darkroom"]["workflow"]["cost"] == [{"amount": "0.04", "currency": "EUR"}]
    images, probe = answer.json()["results"]["images"], answer.json()["results"]["probe"]
    assert (images["endpoint"], images["error"], images["cost"]) == (IMAGES, None, "0.04")
    assert images["output"]["images"][0]["url"].startswith("http")
    assert images["run_s"] is not None
    assert (probe["endpoint"], probe["output"], probe["code"]) == (PROBE, None, "pipeline_failed")
    assert f"The step `probe` ({PROBE}, request {probe['request_id']}) failed" in probe["error"]


async def test_a_comparison_of_which_all_fail_has_failed() -> None:
    async with build_house(catalog=OTHERS, documented=DOCUMENTED) as house:
        _, answer = await run_workflow(house, BAD, {"prompt": "a fox", "fail": ""})
    assert answer.status_code >= 400
    assert "No endpoint of the comparison succeeded." in answer.text


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        ({"compare": {"a": IMAGES}}, "compare", "should name 2 to 16 endpoints"),
        ({"compare": [IMAGES, PROBE]}, "compare", "should name 2 to 16 endpoints"),
        ({"input": None}, "input", "should have the fields that all endpoints get"),
        ({"output": {}}, "output", "is not known; a comparison has compare, description"),
        ({"compare": {"a": IMAGES, "b": 7}}, "compare.b", "should be an object"),
        ({"compare": {"a": IMAGES, "b": {"app": PROBE, "depends": ["a"]}}}, "compare.b", "only"),
        ({"compare": {"a": IMAGES, "b": {"app": PROBE, "inputs": {}}}}, "compare.b.inputs", "not"),
    ],
)
def test_a_mistake_is_named(change: Any, place: str, words: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        read({**BOTH, **change})
    problem = raised.value.problems[0]
    assert ".".join(map(str, problem.loc[1:])) == place
    assert words in problem.message


async def test_an_endpoint_that_is_not_there_is_named_before_anything_is_stored() -> None:
    async with build_house(catalog=OTHERS, replica=False) as house, house.client() as client:
        comparison = {**BOTH, "compare": {"a": IMAGES, "b": "no/such"}}
        answer = await client.post("/v1/workflows", json=comparison)
    assert answer.status_code == 422
    assert "There is no endpoint `no/such`" in answer.text

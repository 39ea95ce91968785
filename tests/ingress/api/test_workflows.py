"""``/v1/workflows``: registration, what is refused, and who sees and calls what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve_app.tenants.scopes import READ, SUBMIT
from tests.ingress.house import House
from tests.ingress.workflows.test_running import IMAGES, POSTER, PROBE, house_with, steps_form

PATH, ENDPOINT = "/v1/workflows", "workflows/default/poster"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with house_with(replica=False) as house:
        yield house


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client(house.weak_key) as client:
        yield client


async def put(client: httpx.AsyncClient, definition: Any = POSTER, **query: Any) -> httpx.Response:
    return await client.post(PATH, json=definition, params=query)


async def test_a_workflow_is_an_endpoint_of_the_catalogue_and_the_document(
    house: House, client: httpx.AsyncClient
) -> None:
    stored = (await put(client)).raise_for_status().json()
    assert (stored["endpoint_id"], stored["served"], stored["public"]) == (ENDPOINT, True, False)
    assert stored["steps"] == {"draw": IMAGES, "big": PROBE}
    assert stored["source"] == POSTER
    models = (await client.get("/v1/models", params={"limit": 100})).json()["models"]
    assert ENDPOINT in [model["endpoint_id"] for model in models]
    document = (await client.get("/openapi.json")).json()
    assert f"/queue/{ENDPOINT}" in document["paths"]
    (schema,) = [
        definition
        for name, definition in document["components"]["schemas"].items()
        if name.endswith("PosterInput")
    ]
    assert schema["properties"]["idea"] == {"type": "string"}
    async with house.client(house.other_key) as other:
        assert (await other.get(PATH)).json()["workflows"] == []
        models = (await other.get("/v1/models", params={"limit": 100})).json()["models"]
        assert ENDPOINT not in [model["endpoint_id"] for model in models]
        answer = await other.post(f"/queue/{ENDPOINT}", json={"idea": "x"})
        assert answer.status_code == 404
        assert "There is no workflow" in answer.json()["message"]


async def test_it_is_listed_shown_replaced_and_deleted(
    house: House, client: httpx.AsyncClient
) -> None:
    await put(client)
    changed = steps_form({"one": {"app": PROBE}}, {"x": "$one.echo"})
    await put(client, {**changed, "name": "poster", "title": "Simple"})
    (listed,) = (await client.get(PATH)).json()["workflows"]
    shown = (await client.get(f"{PATH}/poster")).json()
    assert shown == listed
    assert (shown["title"], shown["steps"]) == ("Simple", {"one": PROBE})
    assert (await client.delete(f"{PATH}/poster")).status_code == 204
    for method in ("GET", "DELETE"):
        assert (await client.request(method, f"{PATH}/poster")).status_code == 404
    assert (await client.post(f"/queue/{ENDPOINT}", json={})).status_code == 404
    acts = [act.action for act in await house.queue.operations.audit(limit=9)]
    assert acts == ["workflow.remove", "workflow.put", "workflow.put"]


async def test_a_dry_run_checks_and_stores_nothing(client: httpx.AsyncClient) -> None:
    assert (await put(client, dry_run="true")).status_code == 200
    assert (await client.get(PATH)).json()["workflows"] == []
    refused = await put(client, {**POSTER, "name": "no good"}, dry_run="true")
    assert refused.status_code == 422


@pytest.mark.parametrize(
    ("given", "loc", "message"),
    [
        ([], [], "must be a JSON object"),
        (steps_form({"a": {"app": "x/y"}}, {"x": "$a"}), ["body", "steps", "a", "app"], "x/y"),
        (
            steps_form({"a": {"app": "test/unserved"}}, {"x": "$a"}),
            ["body", "steps", "a", "app"],
            "is not served here",
        ),
        (
            steps_form({"a": {"app": PROBE, "input": {"e": "$b.x"}}}, {"x": "$a"}),
            ["body", "steps", "a", "input", "e"],
            "no step",
        ),
        ({**POSTER, "public": "yes"}, ["body", "public"], "true or false"),
        (
            steps_form({"a": {"app": PROBE}}, {"x": "$a"}, input={"n": {"minimum": "x"}}),
            [],
            "schema is not valid",
        ),
    ],
)
async def test_a_mistake_is_a_422_that_names_its_place(
    client: httpx.AsyncClient, given: Any, loc: list[str], message: str
) -> None:
    answer = await put(client, given)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert message in str(answer.json())
    if loc:
        assert loc in [problem["loc"] for problem in detail]
    assert (await client.get(PATH)).json()["workflows"] == []


async def test_a_workflow_cannot_be_a_step(client: httpx.AsyncClient) -> None:
    await put(client)
    answer = await put(client, steps_form({"a": {"app": ENDPOINT}}, {"x": "$a"}))
    assert "a step cannot be a workflow" in answer.json()["message"]


async def test_a_public_workflow_needs_an_operator_and_is_called_by_all(
    house: House, client: httpx.AsyncClient
) -> None:
    assert (await put(client, {**POSTER, "public": True})).status_code == 403
    async with house.client() as operator:
        assert (await put(operator, {**POSTER, "public": True})).json()["public"] is True
    stranger = str(await house.keys.create("stranger"))
    async with house.client(stranger) as other:
        (listed,) = (await other.get(PATH)).json()["workflows"]
        assert (listed["tenant"], listed["source"], listed["served"]) == ("default", None, True)
        assert (await other.get(f"{PATH}/poster")).status_code == 404  # it is not its own
        answer = await other.post(f"/queue/{ENDPOINT}", json={"idea": "x"})
        assert answer.status_code == 200
        assert (await other.delete(f"{PATH}/poster")).status_code == 404


async def test_rights_of_keys_apply(house: House) -> None:
    reader = str(await house.keys.create("default", scopes=frozenset({READ})))
    limited = str(
        await house.keys.create(
            "default", scopes=frozenset({SUBMIT}), endpoints=("workflows/*", IMAGES)
        )
    )
    async with house.client(reader) as client:
        assert (await put(client)).status_code == 403
        assert (await client.get(PATH)).status_code == 200
    async with house.client(limited) as client:
        answer = await put(client)
        assert answer.status_code == 422
        assert f"does not allow {PROBE}" in answer.json()["message"]
        drawing = {"draw": {"app": IMAGES, "input": {"prompt": "x"}}}
        assert (await put(client, steps_form(drawing, {"x": "$draw"}))).status_code == 200


async def test_a_key_for_other_endpoints_neither_reads_nor_removes_a_workflow(
    house: House, client: httpx.AsyncClient
) -> None:
    await put(client)
    limited = str(await house.keys.create("default", endpoints=(IMAGES,)))
    async with house.client(limited) as other:
        assert (await other.get(PATH)).json()["workflows"] == []
        assert (await other.get(f"{PATH}/poster")).status_code == 403
        assert (await other.delete(f"{PATH}/poster")).status_code == 403
    allowed = str(await house.keys.create("default", endpoints=("workflows/*",)))
    async with house.client(allowed) as own:
        assert len((await own.get(PATH)).json()["workflows"]) == 1
        assert (await own.get(f"{PATH}/poster")).status_code == 200
        assert (await own.delete(f"{PATH}/poster")).status_code == 204


async def test_a_call_is_refused_while_a_steps_endpoint_is_gone(
    house: House, client: httpx.AsyncClient
) -> None:
    await put(client)
    rest = {
        model.endpoint.id: model for model in house.services.catalog if model.endpoint.id != PROBE
    }
    house.services.catalog.become(type(house.services.catalog)(rest))
    house.services.entries._version = ("", "")
    await house.services.entries.refresh()
    answer = await client.post(f"/queue/{ENDPOINT}", json={"idea": "x"})
    assert "Its step `big` needs test/probe" in answer.json()["message"]


async def test_steps_of_other_requests_are_none(house: House, client: httpx.AsyncClient) -> None:
    sent = (await client.post(f"/queue/{IMAGES}", json={"prompt": "x"})).json()
    url = f"/v1/requests/{sent['request_id']}/steps"
    assert (await client.get(url)).json()["workflow"] is None
    async with house.client(house.other_key) as other:
        assert (await other.get(url)).status_code == 404

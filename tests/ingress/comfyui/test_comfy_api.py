"""Comfy API v2, where its own packages do not reach: see ``tests/wire/test_comfy_clients.py``."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from serve_app.catalog.catalog import Catalog
from serve_app.domain.errors import BudgetExhausted
from serve_app.ingress.comfyui.v2.errors import error_response
from tests.ingress.comfyui.comfy import CATALOG, GRAPH, Place, node
from tests.ingress.house import build_house

API = "/comfyui/api/v2"


async def submit(client: httpx.AsyncClient, **body: Any) -> Any:
    answer = await client.post(f"{API}/jobs", json={"workflow": GRAPH, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def ended(place: Place, **body: Any) -> Any:
    """A job that has ended."""
    job = await submit(place.client, **body)
    await place.over(job["id"])
    return (await place.client.get(job["urls"]["self"])).json()


async def test_a_job_has_all_that_its_clients_read(place: Place) -> None:
    job = await ended(place)
    (output,) = job["outputs"]
    assert (job["status"], job["error"], job["queue_position"]) == ("succeeded", None, None)
    assert job["progress"] == {"value": 1.0, "nodes_done": 2, "nodes_total": 2}
    assert job["created_at"] <= job["started_at"] <= job["completed_at"] < job["expires_at"]
    assert job["metrics"]["execution_ms"] >= 0
    assert (output["node_id"], output["size_bytes"]) == ("2", len(b"image of 2"))
    assert (await place.client.get(output["url"])).content == b"image of 2"
    asset = (await place.client.get(f"{API}/assets/{output['id']}")).json()
    assert asset["job_id"] == job["id"]


async def test_a_part_of_an_output_can_be_read(place: Place) -> None:
    job = await ended(place)
    path = f"{API}/assets/{job['outputs'][0]['id']}/content"
    first = await place.client.get(path, headers={"range": "bytes=0-4"}, follow_redirects=True)
    assert (first.status_code, first.content) == (206, b"image")


async def test_an_output_ends_with_its_request(place: Place) -> None:
    job = await ended(place)
    path = f"{API}/assets/{job['outputs'][0]['id']}"
    refused = await place.client.delete(path)
    assert refused.status_code == 422
    assert f"DELETE /v1/requests/{job['id']}" in refused.json()["error"]["message"]
    assert (await place.client.delete(f"/v1/requests/{job['id']}")).status_code == 200
    for gone in (path, f"{path}/content", job["urls"]["self"], job["urls"]["events"]):
        answer = await place.client.get(gone)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_prompts_of_the_older_protocol_are_jobs_too(place: Place) -> None:
    body = {"prompt": GRAPH, "prompt_id": "my ? first"}
    answer = await place.client.post("/comfyui/prompt", json=body)
    assert answer.status_code == 200, answer.text
    (listed,) = (await place.client.get(f"{API}/jobs")).json()["jobs"]
    assert listed["id"] == "my ? first"
    await place.over("my%20%3F%20first")
    job = (await place.client.get(f"{API}/jobs/my%20%3F%20first")).json()
    assert (job["id"], job["status"]) == ("my ? first", "succeeded")
    again = await place.client.get(job["urls"]["self"])
    assert (again.status_code, again.json()["id"]) == (200, "my ? first")


async def test_prompts_that_another_protocol_did_not_check_leave_the_lists_readable(
    place: Place,
) -> None:
    """A graph may have anything for a node there, and the extra data anything for a label."""
    odd = {"prompt": {"": 5}, "extra_data": {"metadata": {"a": [1], "b": "text"}}}
    queued = (await place.client.post("/queue/studio/comfyui", json=odd)).json()["request_id"]
    await place.over(queued)
    assert queued in (await place.client.get("/comfyui/history")).json()
    for path in (f"/comfyui/history/{queued}", "/comfyui/jobs", f"/comfyui/jobs/{queued}"):
        assert (await place.client.get(path)).status_code == 200, path
    assert (await place.client.get(f"{API}/jobs/{queued}")).json()["metadata"] == {"b": "text"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"workflow": {}}, "workflow: Send a workflow in the API format"),
        ({"workflow": GRAPH, "extra_data": []}, "extra_data: Input should be an object"),
        ({"workflow": GRAPH, "metadata": ["x"]}, "metadata: Input should be at most 50 texts"),
        ({"workflow": GRAPH, "metadata": {"x": 1}}, "metadata: Input should be at most 50 texts"),
        ({"workflow": GRAPH, "metadata": {"x": "y" * 501}}, "metadata: Input should be at most"),
        ([], "workflow: Send a workflow in the API format"),
    ],
)
async def test_what_is_wrong_is_named(place: Place, body: Any, message: str) -> None:
    answer = await place.client.post(f"{API}/jobs", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "invalid_workflow")
    assert error["message"].startswith(message)


@pytest.mark.parametrize(
    "info", [None, {}, {"id": 5}, {"id": "x"}, {"id": "upload-!"}, {"id": "upload-Li4veA"}]
)
async def test_a_reference_to_no_asset_names_its_node(place: Place, info: Any) -> None:
    graph = {"5": node("LoadImage", image={"__type": "core/ASSET", "info": info})}
    answer = await place.client.post(f"{API}/jobs", json={"workflow": graph})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "missing_asset")
    assert error["details"]["node_errors"]["5"][0]["field"] == "image"


@pytest.mark.parametrize("value", [[0], {"a": [0]}])
async def test_a_reference_inside_of_a_value_is_refused(place: Place, value: Any) -> None:
    """ComfyUI's packages replace handles anywhere in a workflow."""
    hidden = json.loads(json.dumps(value).replace("0", '{"__type": "core/ASSET", "info": {}}'))
    answer = await place.client.post(
        f"{API}/jobs", json={"workflow": {"5": node("LoadImage", image=hidden)}}
    )
    assert answer.status_code == 422
    assert "not inside one" in answer.json()["error"]["message"]


def test_a_spent_budget_has_its_own_code() -> None:
    answer = error_response(BudgetExhausted("The budget of the tenant is spent."))
    error = json.loads(bytes(answer.body))["error"]
    assert (answer.status_code, error["code"]) == (402, "insufficient_credits")


async def test_a_wrong_cursor_is_named(place: Place) -> None:
    answer = await place.client.get(f"{API}/jobs?cursor=x")
    assert (answer.status_code, "cursor" in answer.json()["error"]["message"]) == (422, True)


async def test_files_of_another_tenant_are_not_there(place: Place) -> None:
    form = {"files": {"file": ("x.png", b"mine", "image/png")}}
    asset = (await place.client.post(f"{API}/assets", **form)).json()
    assert (await place.client.get(f"{API}/assets/{asset['id']}")).json()["size_bytes"] == 4
    graph = {"5": node("LoadImage", image={"__type": "core/ASSET", "info": {"id": asset["id"]}})}
    for answer in (
        await place.other.get(f"{API}/assets/{asset['id']}"),
        await place.other.delete(f"{API}/assets/{asset['id']}"),
    ):
        assert answer.status_code == 404
    answer = await place.other.post(f"{API}/jobs", json={"workflow": graph})
    assert answer.json()["error"]["code"] == "missing_asset"


async def test_an_upload_needs_a_file(place: Place) -> None:
    answer = await place.client.post(f"{API}/assets", json={})
    assert (answer.status_code, "multipart" in answer.text) == (422, True)
    answer = await place.client.post(f"{API}/assets", files={"other": b"x"})
    assert answer.json()["error"]["message"] == "file: Field required"


async def test_without_such_an_endpoint_it_says_so() -> None:
    others = {entry.endpoint.id: entry for entry in CATALOG if entry.endpoint.family != "comfyui"}
    async with build_house(catalog=Catalog(others)) as house, house.client() as client:
        answer = await client.post(f"{API}/jobs", json={"workflow": GRAPH})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")

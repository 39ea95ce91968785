"""Every call of an operator or of a tenant's admin that changes something is in the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from deployments.executors.describing import bundle
from serve_app.tenants.scopes import OPERATOR, TENANT_ADMIN
from tests.contract.waiting import eventually
from tests.fakes.jobs import FakeJobs
from tests.ingress.api.administration.test_jobs import JOB, given_up
from tests.ingress.api.registered.test_weights import add, made_ready
from tests.ingress.api.test_model_entries import ADDING, OPEN
from tests.ingress.house import House, build_house
from tests.ingress.http.test_route_scopes import scopes

PROBE = "test/probe"
ENTRY = "house/probe"
ACTIONS: dict[tuple[str, str], str] = {
    ("PUT", "/v1/requests/{request_id}/requeue"): "request.requeue",
    ("PUT", "/v1/requests/{request_id}/fail"): "request.fail",
    ("PUT", "/v1/requests/{request_id}/priority"): "request.prioritise",
    ("PUT", "/v1/webhooks/rotate"): "webhook.rotate",
    ("PUT", "/v1/tenants/{tenant}/disable"): "tenant.disable",
    ("PUT", "/v1/tenants/{tenant}/enable"): "tenant.enable",
    ("PUT", "/v1/endpoints/{endpoint_id:path}/pause"): "endpoint.pause",
    ("PUT", "/v1/endpoints/{endpoint_id:path}/drain"): "endpoint.drain",
    ("PUT", "/v1/endpoints/{endpoint_id:path}/resume"): "endpoint.resume",
    ("PUT", "/v1/models/entries/{entry:path}"): "model.add",
    ("DELETE", "/v1/models/entries/{entry:path}"): "model.remove",
    ("DELETE", "/v1/warm/{warm_target:path}"): "warm.end",
    ("DELETE", "/v1/keys/{key}"): "key.revoke",
    ("DELETE", "/v1/tenants/{tenant}"): "tenant.delete",
    ("POST", "/v1/keys"): "key.create",
    ("POST", "/v1/keys/{key}/rotate"): "key.rotate",
    ("POST", "/v1/sign-in/links"): "key.link",
    ("POST", "/v1/tenants"): "tenant.create",
    ("POST", "/v1/warm"): "warm.set",
    ("PATCH", "/v1/tenants/{tenant}"): "tenant.change",
    ("POST", "/v1/apps/code"): "app.store",
    ("POST", "/v1/jobs/{job:path}/restart"): "job.restart",
    ("PUT", "/v1/secrets/{secret}"): "secret.set",
    ("DELETE", "/v1/secrets/{secret}"): "secret.delete",
    ("PUT", "/v1/weights/{weights}/public"): "weights.publish",
}
NOT_RECORDED: dict[tuple[str, str], str] = {}
"""Calls that change something and are not in the audit log, with the reason."""

CHANGING = {
    (method, path)
    for (method, path), scope in scopes().items()
    if method not in ("GET", "HEAD", "QUERY") and scope in (OPERATOR, TENANT_ADMIN)
}


def test_each_call_that_changes_something_has_an_action_or_a_reason() -> None:
    assert ACTIONS.keys() | NOT_RECORDED.keys() == CHANGING
    assert not ACTIONS.keys() & NOT_RECORDED.keys()
    assert all(NOT_RECORDED.values())


def body_of(action: str) -> Any:
    return {
        "model.add": OPEN,
        "warm.set": {"endpoint_id": PROBE},
        "tenant.create": {"tenant": "new"},
        "tenant.change": {"name": "New name"},
        "key.create": {"alias": "new"},
        "key.rotate": {},
        "key.link": {},
        "tenant.disable": {},
        "secret.set": {"value": "sk-secret"},
        "weights.publish": {"public": True},
    }.get(action)


async def make_registered(action: str, house: House, client: httpx.AsyncClient) -> None:
    if action == "secret.delete":
        await client.put("/v1/secrets/FAL_KEY", json={"value": "sk-secret"})
    if action == "weights.publish":
        await add(client, base=PROBE)
        await made_ready(house)
    if action == "job.restart":
        await given_up(cast("FakeJobs", house.services.jobs))


async def url_of(path: str, action: str, house: House, client: httpx.AsyncClient) -> str:
    """URL of a call after what must be there for it."""
    endpoint = PROBE
    if action == "endpoint.resume":
        await client.put(f"/v1/endpoints/{PROBE}/pause")
    if action == "warm.end":
        await client.post("/v1/warm", json={"endpoint_id": PROBE})
    if action.startswith("model."):
        endpoint = ENTRY
    if action == "model.remove":
        await client.put(f"/v1/models/entries/{ENTRY}", json=OPEN)
    if action.startswith("tenant."):
        await client.post("/v1/tenants", json={"tenant": "ann"})
    await make_registered(action, house, client)
    request_id = ""
    if action.startswith("request."):
        answer = await client.post(f"/queue/{PROBE}", json={"sleep_s": 600})
        request_id = answer.json()["request_id"]
    if action == "request.requeue":

        async def runs() -> bool:
            return bool((await house.queue.operations.overview()).leases)

        await eventually(runs)
    key = str(await house.keys.create("default")).partition(":")[0]
    values = {"request_id": request_id, "tenant": "ann", "endpoint_id:path": endpoint}
    values |= {"weights": "style", "secret": "FAL_KEY", "warm_target:path": endpoint}
    values |= {"entry:path": endpoint, "job:path": JOB}
    for name, value in (values | {"key": key}).items():
        path = path.replace(f"{{{name}}}", value)
    return path + ("?priority=low" if action == "request.prioritise" else "")


@pytest.mark.parametrize(("method", "path"), sorted(ACTIONS))
async def test_the_call_is_recorded_with_its_key_and_address(method: str, path: str) -> None:
    action = ACTIONS[method, path]
    async with (
        build_house(replica=action == "request.requeue", **ADDING) as house,
        house.client() as at,
    ):
        url = await url_of(path, action, house, at)
        before = len(await house.queue.operations.audit(limit=500))
        sent: dict[str, Any] = {"json": body_of(action)}
        if action == "app.store":
            sent = {"content": bundle(Path(__file__), ())}
        answer = await at.request(method, url, **sent)
        assert answer.is_success, answer.text
        acts = await house.queue.operations.audit(limit=500)
        recorded = [act for act in acts[: len(acts) - before] if act.action == action]
        assert [act.actor for act in recorded] == [house.key.partition(":")[0]]
        assert all(act.address for act in recorded)

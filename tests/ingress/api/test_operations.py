"""Manual operations over HTTP."""

from __future__ import annotations

import httpx
import pytest

from tests.ingress.house import House

PROBE = "/v1/endpoints/test/probe"
UNKNOWN = "0190a0f0-0000-7000-8000-000000000000"


async def submit_request(client: httpx.AsyncClient) -> str:
    return str((await client.post("/queue/test/probe", json={})).json()["request_id"])


async def test_a_paused_endpoint_accepts_and_says_why_it_waits(idle: House) -> None:
    async with idle.client() as client:
        halt = (await client.put(f"{PROBE}/pause")).json()
        assert (halt["endpoint_id"], halt["kind"]) == ("test/probe", "paused")
        status = await client.get(
            f"/queue/test/probe/requests/{await submit_request(client)}/status"
        )
        assert status.json()["darkroom"]["reason"] == "paused"
        assert (await client.get("/v1/queue")).json()["halts"] == [halt]
        assert (await client.put(f"{PROBE}/resume")).json()["kind"] is None
        assert (await client.put(f"{PROBE}/resume")).status_code == 404


async def test_a_draining_endpoint_refuses_and_says_when_to_ask_again(
    idle_client: httpx.AsyncClient,
) -> None:
    await idle_client.put(f"{PROBE}/drain")
    for path in ("/queue/test/probe", "/run/test/probe"):
        refused = await idle_client.post(path, json={})
        assert (refused.status_code, refused.json()["code"]) == (503, "endpoint_draining")
        assert int(refused.headers["retry-after"]) > 1


async def test_an_endpoint_that_is_not_there_cannot_be_paused(
    idle_client: httpx.AsyncClient,
) -> None:
    assert (await idle_client.put("/v1/endpoints/test/prob/pause")).status_code == 404


async def test_any_tenants_request_is_requeued_and_failed(idle: House) -> None:
    async with idle.client(idle.other_key) as other, idle.client() as admin:
        request_id = await submit_request(other)
        answer = await admin.put(f"/v1/requests/{request_id}/requeue")
        assert answer.json() == {"request_id": request_id, "state": "queued"}
        path = f"/v1/requests/{request_id}/fail"
        assert (await admin.put(path, params={"reason": "x" * 1001})).status_code == 422
        answer = await admin.put(path, params={"reason": "Too big."})
        assert answer.json()["state"] == "failed"
        shown = (await other.get(f"/v1/requests/{request_id}")).json()
        assert "Too big." in shown["error"]["message"]
        assert (await admin.put(path)).json()["code"] == "already_final"
        assert (await admin.put(f"/v1/requests/{UNKNOWN}/fail")).status_code == 404
        acts = (await admin.get("/v1/audit")).json()["acts"]
        assert [(act["action"], act["subject"]) for act in acts] == [("request.fail", request_id)]
        assert acts[0]["actor"] == idle.key.split(":")[0]


async def test_the_priority_of_a_request_that_waits_is_changed(idle: House) -> None:
    async with idle.client(idle.other_key) as other, idle.client() as admin:
        request_id = await submit_request(other)
        path = f"/v1/requests/{request_id}/priority"
        refused = await admin.put(path, params={"priority": "realtime"})
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["loc"] == ["query", "priority"]
        assert (await admin.put(path)).status_code == 422
        answer = await admin.put(path, params={"priority": "high"})
        assert answer.json() == {"request_id": request_id, "state": "queued"}
        shown = (await other.get(f"/v1/requests/{request_id}")).json()
        assert shown["priority"] == "high"
        (act,) = (await admin.get("/v1/audit")).json()["acts"]
        assert (act["action"], act["detail"]) == ("request.prioritise", {"priority": "high"})


async def test_the_audit_comes_in_pages(idle_client: httpx.AsyncClient) -> None:
    for act in ("pause", "drain", "resume"):
        await idle_client.put(f"{PROBE}/{act}")
    page = (await idle_client.get("/v1/audit", params={"limit": 2})).json()
    assert [record["action"] for record in page["acts"]] == ["endpoint.resume", "endpoint.drain"]
    rest = await idle_client.get("/v1/audit", params={"before": page["next_before"]})
    assert [record["action"] for record in rest.json()["acts"]] == ["endpoint.pause"]
    assert rest.json()["next_before"] is None


async def test_the_queue_shows_lanes(idle_client: httpx.AsyncClient) -> None:
    await submit_request(idle_client)
    seen = (await idle_client.get("/v1/queue")).json()
    (lane,) = seen["lanes"]
    assert (lane["tenant"], lane["queued"], lane["running"]) == ("default", 1, 0)
    assert seen["leases"] == []


async def test_what_waits_longest_is_listed_page_by_page_of_one_tenant_or_all(idle: House) -> None:
    async with idle.client(idle.other_key) as other, idle.client() as admin:
        ids = [await submit_request(client) for client in (other, admin, other)]
        first = (await admin.get("/v1/queue/requests", params={"limit": 2})).json()
        assert [request["request_id"] for request in first["requests"]] == ids[:2]
        assert [request["tenant"] for request in first["requests"]] == ["other", "default"]
        rest = {"limit": 2, "after": first["next_after"]}
        last = (await admin.get("/v1/queue/requests", params=rest)).json()
        assert [request["request_id"] for request in last["requests"]] == ids[2:]
        assert last["next_after"] is None
        for chosen, expected in (
            ({"tenant": "other"}, ids[::2]),
            ({"tenant": "other", "endpoint_id": "test/none"}, []),
            ({"endpoint_id": "test/none,test/probe"}, ids),
        ):
            page = (await admin.get("/v1/queue/requests", params=chosen)).json()
            assert [request["request_id"] for request in page["requests"]] == expected
        for name, wrong in (("after", "x"), ("after", str(2**63)), ("limit", "501")):
            refused = await admin.get("/v1/queue/requests", params={name: wrong})
            assert refused.json()["detail"][0]["loc"] == ["query", name]


async def test_an_operator_cancels_the_request_of_any_tenant(idle: House) -> None:
    async with idle.client(idle.other_key) as other, idle.client() as admin:
        request_id = await submit_request(other)
        path = f"/v1/requests/{request_id}/cancel"
        assert (await admin.put(path)).status_code == 404
        async with idle.client(idle.weak_key) as weak:
            refused = await weak.put(path, params={"tenant": "other"})
            assert (refused.status_code, "scope `operator`" in refused.text) == (403, True)
        assert (await admin.put(path, params={"tenant": "default"})).status_code == 404
        answer = await admin.put(path, params={"tenant": "other"})
        assert answer.json() == {"verdict": "cancelled"}
        assert (await other.get(f"/v1/requests/{request_id}")).json()["state"] == "cancelled"
        (act,) = (await admin.get("/v1/audit")).json()["acts"]
        assert (act["action"], act["subject"]) == ("request.cancel", request_id)
        assert (act["actor"], act["detail"]) == (idle.key.split(":")[0], {"tenant": "other"})


async def test_a_key_that_only_operates_cancels_for_others_and_not_as_an_owner(
    idle: House,
) -> None:
    key = str(await idle.keys.create("default", scopes=frozenset({"operator"})))
    async with idle.client() as owner, idle.client(key) as operator:
        path = f"/v1/requests/{await submit_request(owner)}/cancel"
        assert (await operator.put(path)).status_code == 403
        assert (await operator.put(path, params={"tenant": "default"})).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/queue"),
        ("GET", "/v1/queue/requests"),
        ("PUT", f"/v1/requests/{UNKNOWN}/cancel?tenant=other"),
        ("GET", "/v1/audit"),
        ("PUT", f"{PROBE}/pause"),
        ("PUT", f"{PROBE}/drain"),
        ("PUT", f"{PROBE}/resume"),
        ("PUT", f"/v1/requests/{UNKNOWN}/requeue"),
        ("PUT", f"/v1/requests/{UNKNOWN}/fail"),
        ("PUT", f"/v1/requests/{UNKNOWN}/priority?priority=high"),
    ],
)
async def test_all_of_it_takes_the_scope_admin(idle: House, method: str, path: str) -> None:
    async with idle.client(idle.weak_key) as client:
        assert (await client.request(method, path)).status_code == 403
    async with idle.client() as client:
        assert (await client.get("/v1/audit")).json()["acts"] == []

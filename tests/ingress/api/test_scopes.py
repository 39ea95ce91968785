"""What a key may do, by its scopes and its endpoints, in every protocol."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from serve_app.ingress.http.route_scopes import ANY_KEY, BY_CALL, NO_KEY, OF_OWN_RIGHTS
from serve_app.tenants.scopes import SINGLE, TENANT_ADMIN
from tests.ingress.house import House
from tests.ingress.http.test_route_scopes import scopes

PROBE, DEEP = "test/probe", "test/deep/path/probe"


async def key(house: House, *scopes: str, endpoints: tuple[str, ...] = ()) -> str:
    credential = await house.keys.create("default", scopes=frozenset(scopes), endpoints=endpoints)
    return str(credential)


async def submit_request(client: httpx.AsyncClient, endpoint: str = PROBE, **input: Any) -> str:
    answer = await client.post(f"/queue/{endpoint}", json=input)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def calls_with_a_scope() -> list[tuple[str, str, str]]:
    return [
        (method, path, scope)
        for (method, path), scope in scopes().items()
        if method != "HEAD" and scope not in (NO_KEY, ANY_KEY, BY_CALL)
    ]


async def test_every_call_refuses_a_key_that_has_all_scopes_but_its_own(house: House) -> None:
    without = {
        tested: house.client(await key(house, *(set(SINGLE) - {tested, "operator"} or SINGLE)))
        for tested in SINGLE
    }
    skipped = re.compile(r"/files/.*(upload|multipart)")  # their URL is the credential
    for method, path, scope in calls_with_a_scope():
        if skipped.match(path):
            continue
        url = re.sub(r"\{[^}]*\}", "x", path)
        answer = await without[scope].request(method, url, json={})
        assert answer.status_code == 403, (method, path, answer.text)
        assert f"lacks the scope `{scope}`" in answer.text
    for client in without.values():
        await client.aclose()


async def test_a_key_that_submits_does_not_read(house: House) -> None:
    async with house.client(await key(house, "submit")) as submits:
        request_id = await submit_request(submits)
        answer = await submits.get(f"/queue/{PROBE}/requests/{request_id}/status")
        assert (answer.status_code, "`read`" in answer.text) == (403, True)
        assert (await submits.post(f"/{PROBE}", json={})).status_code == 200


async def test_a_key_that_reads_neither_submits_nor_cancels(house: House) -> None:
    async with house.client() as owner, house.client(await key(house, "read")) as reads:
        request_id = await submit_request(owner)
        assert (await reads.get(f"/queue/{PROBE}/requests/{request_id}/status")).is_success
        assert (await reads.get(f"/v1/requests/{request_id}")).is_success
        refused = await reads.post(f"/queue/{PROBE}", json={})
        assert (refused.status_code, "`submit`" in refused.text) == (403, True)
        refused = await reads.put(f"/queue/{PROBE}/requests/{request_id}/cancel")
        assert (refused.status_code, "`cancel`" in refused.text) == (403, True)


async def test_the_tools_of_assistants_need_scopes(house: House) -> None:
    async def call(client: httpx.AsyncClient, tool: str, **arguments: Any) -> str:
        params = {"name": tool, "arguments": arguments}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        accept = {"accept": "application/json, text/event-stream"}
        return (await client.post("/mcp", json=body, headers=accept)).text

    async with house.client(await key(house, "read")) as reads:
        assert "lacks the scope `submit`" in await call(reads, "generate", model=PROBE, input={})
        assert PROBE in await call(reads, "list_models")
        unknown = "0190a0a0-0000-7000-8000-000000000000"
        assert "no request" in await call(reads, "get_result", request_id=unknown)
        assert "lacks the scope `cancel`" in await call(reads, "cancel", request_id=unknown)


async def test_the_tasks_of_assistants_need_scopes(house: House) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {
            "extensions": {"io.modelcontextprotocol/tasks": {}}
        },
    }

    async def call(client: httpx.AsyncClient, method: str, task_id: str) -> httpx.Response:
        params = {"taskId": task_id, "_meta": meta}
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": method,
            "mcp-name": task_id,
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return await client.post("/mcp", json=body, headers=headers)

    async with house.client() as owner, house.client(await key(house, "read")) as reads:
        request_id = await submit_request(owner)
        shown = await call(reads, "tasks/get", request_id)
        assert (shown.status_code, shown.json()["result"]["taskId"]) == (200, request_id)
        assert "lacks the scope `cancel`" in (await call(reads, "tasks/cancel", request_id)).text
        assert (await call(owner, "tasks/cancel", request_id)).is_success
    async with house.client(await key(house, "submit")) as submits:
        for method in ("tasks/get", "tasks/update"):
            assert "lacks the scope `read`" in (await call(submits, method, request_id)).text


async def test_a_token_of_a_browser_has_no_more_rights_than_its_key(house: House) -> None:
    async with house.client(await key(house, "read")) as reads:
        answer = await reads.post("/rest/tokens", json={"allowed_apps": ["probe"]})
        assert answer.status_code == 403
    limited = await key(house, "api", endpoints=(DEEP,))
    async with house.client(limited) as client:
        token = (await client.post("/rest/tokens", json={"allowed_apps": [PROBE]})).json()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(house.app), base_url="http://testserver"
    ) as browser:
        answer = await browser.post(f"/{PROBE}/stream?fal_jwt_token={token}", json={})
        assert (answer.status_code, f"only {DEEP}" in answer.text) == (403, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"/queue/{PROBE}", {}),
        (f"/{PROBE}", {}),
        (f"/{PROBE}/stream", {}),
        ("/v1/estimate", {"endpoint_id": PROBE, "input": {}}),
        ("/replicate/v1/predictions", {"version": PROBE, "input": {}}),
        ("/openai/v1/images/generations", {"model": "fal-ai/flux/schnell", "prompt": "x"}),
    ],
)
async def test_a_limited_key_submits_and_estimates_only_for_its_endpoints(
    house: House, path: str, body: dict[str, Any]
) -> None:
    async with house.client(await key(house, "api", endpoints=("test/deep/*",))) as limited:
        refused = await limited.post(path, json=body)
        assert refused.status_code == 403, refused.text
        assert "only test/deep/*" in refused.text
        assert (await limited.post(f"/{DEEP}", json={})).status_code == 200


async def test_a_limited_key_lists_and_reads_only_requests_of_its_endpoints(house: House) -> None:
    limited_key = await key(house, "api", endpoints=("test/deep/*", "gone/model"))
    async with house.client() as owner, house.client(limited_key) as limited:
        other, own = await submit_request(owner), await submit_request(owner, DEEP)
        for path in ("/v1/requests", "/replicate/v1/predictions"):
            listed = (await limited.get(path)).json()
            shown = [item.get("request_id") or item["id"] for item in [*listed.values()][-1] or []]
            shown = shown or [item["request_id"] for item in listed["requests"]]
            assert shown == [own], path
        assert (await limited.get("/v1/requests/days")).is_success
        assert (await limited.get(f"/v1/requests/{own}")).is_success
        for path in (
            f"/v1/requests/{other}",
            f"/v1/requests/{other}/events",
            f"/queue/{PROBE}/requests/{other}",
            f"/queue/{PROBE}/requests/{other}/status",
            f"/replicate/v1/predictions/{other}",
            f"/v1/requests?endpoint_id={PROBE}",
            f"/v1/models/requests/by-endpoint?endpoint_id={PROBE}",
        ):
            refused = await limited.get(path)
            assert refused.status_code == 403, (path, refused.text)
            assert "only test/deep/*, gone/model" in refused.text, path
        for path in ("/v1/requests/delete", "/v1/requests/zip", "/v1/requests/favourites"):
            extra = {"favourite": True} if path.endswith("favourites") else {}
            refused = await limited.post(path, json={"request_ids": [own, other], **extra})
            assert refused.status_code == 403, path
        assert (await owner.get(f"/v1/requests/{other}")).is_success


async def test_a_tenants_admin_manages_the_keys_of_its_tenant_and_no_others(house: House) -> None:
    other_id = house.other_key.partition(":")[0]
    async with house.client(await key(house, "read", "tenant-admin")) as admin:
        created = await admin.post("/v1/keys", json={"scopes": ["read"]})
        assert created.status_code == 201
        assert (await admin.get("/v1/keys")).is_success
        assert (await admin.get("/v1/keys?tenant=other")).status_code == 403
        answer = await admin.post("/v1/keys", json={"scopes": ["read"], "tenant": "other"})
        assert answer.status_code == 403
        assert (await admin.delete(f"/v1/keys/{other_id}")).status_code == 404
        assert (await admin.post(f"/v1/keys/{other_id}/rotate", json={})).status_code == 404
        assert (await admin.delete(f"/v1/keys/{created.json()['key_id']}")).status_code == 204


async def test_a_tenants_admin_neither_makes_nor_takes_over_a_stronger_key(house: House) -> None:
    strong = house.key.partition(":")[0]
    async with house.client(await key(house, "read", "tenant-admin")) as admin:
        refused = await admin.post("/v1/keys", json={"scopes": ["submit"]})
        assert (refused.status_code, "`submit`" in refused.text) == (403, True)
        assert (await admin.post(f"/v1/keys/{strong}/rotate", json={})).status_code == 403
        assert (await admin.delete(f"/v1/keys/{strong}")).status_code == 403


async def test_a_key_is_rotated_with_an_overlap(house: House) -> None:
    old = await key(house, "read", endpoints=("test/*",))
    old_id = old.partition(":")[0]
    async with house.client() as admin:
        answer = await admin.post(f"/v1/keys/{old_id}/rotate", json={"overlap_s": 3600})
        assert answer.status_code == 201
        for secret in (old, answer.json()["key"]):
            async with house.client(secret) as client:
                assert (await client.get("/v1/keys/self")).json()["endpoints"] == ["test/*"]
        again = await admin.post(f"/v1/keys/{old_id}/rotate", json={})
        assert (again.status_code, "rotated before" in again.text) == (400, True)
        shown = {entry["key_id"]: entry for entry in (await admin.get("/v1/keys")).json()["keys"]}
        assert shown[old_id]["successor"] == answer.json()["key_id"]
        assert shown[old_id]["kind"] == "service"
        wrong = await admin.post(
            f"/v1/keys/{answer.json()['key_id']}/rotate", json={"overlap_s": -1}
        )
        assert wrong.status_code == 422


async def test_a_key_ends_at_once_without_an_overlap(house: House) -> None:
    old = await key(house, "read")
    async with house.client() as admin, house.client(old) as client:
        answer = await admin.post(f"/v1/keys/{old.partition(':')[0]}/rotate", json={"overlap_s": 0})
        assert answer.status_code == 201
        assert (await client.get("/v1/keys/self")).status_code == 401


async def test_an_operators_key_is_not_limited_to_endpoints(house: House) -> None:
    async with house.client() as admin:
        wish = {"scopes": ["operator"], "endpoints": ["test/*"]}
        answer = await admin.post("/v1/keys", json=wish)
        assert (answer.status_code, "cannot be limited" in answer.text) == (422, True)
        wrong = await admin.post("/v1/keys", json={"endpoints": ["test probe"]})
        assert wrong.status_code == 422


async def test_keys_of_a_disabled_tenant_are_refused_with_a_sentence(house: House) -> None:
    house.keys.disabled.add("default")
    async with house.client() as client:
        answer = await client.get("/v1/requests")
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_disabled")
    assert "tenant default is disabled" in answer.json()["detail"]


async def test_a_limited_key_of_a_tenants_admin_changes_and_sees_nothing_that_all_share(
    house: House,
) -> None:
    limited = await key(house, "tenant-admin", "api", endpoints=(PROBE,))
    calls = [
        (method, path) for method, path, scope in calls_with_a_scope() if scope == TENANT_ADMIN
    ]
    async with house.client(limited) as client:
        for method, path in calls:
            if path in OF_OWN_RIGHTS:
                continue
            url = re.sub(r"\{[^}]*\}", "default", path)
            answer = await client.request(method, url, json={"value": "x"})
            assert answer.status_code == 403, (method, path, answer.text)
            assert "what all endpoints of the tenant share" in answer.text


async def test_a_limited_key_of_a_tenants_admin_sees_the_keys_of_its_endpoints(
    house: House,
) -> None:
    limited = await key(house, "tenant-admin", endpoints=("test/*",))
    own = await key(house, "api", endpoints=(PROBE,))
    await key(house, "api", endpoints=("fal-ai/flux/dev",))
    async with house.client(limited) as client:
        seen = (await client.get("/v1/keys")).json()["keys"]
    assert {entry["key_id"] for entry in seen} == {
        secret.partition(":")[0] for secret in (limited, own)
    }


async def test_a_limited_key_sees_the_usage_of_its_endpoints(house: House) -> None:
    async with (
        house.client() as all_,
        house.client(await key(house, "api", endpoints=(PROBE,))) as limited,
    ):
        for endpoint in (PROBE, DEEP):
            assert (await all_.post(f"/{endpoint}", json={})).status_code == 200
        for url, path in (
            ("/v1/models/usage?expand=summary", "summary"),
            ("/v1/usage?by=endpoint", "results"),
        ):
            endpoints = {
                name: {row["endpoint_id"] for row in (await client.get(url)).json()[path]}
                for name, client in {"all": all_, "one": limited}.items()
            }
            assert endpoints == {"all": {PROBE, DEEP}, "one": {PROBE}}
        for path in ("/v1/models/usage", "/v1/models/analytics", "/v1/usage"):
            refused = await limited.get(path, params={"endpoint_id": DEEP})
            assert refused.status_code == 403, refused.text


async def test_a_limited_key_lists_only_models_links_and_webhooks_of_its_endpoints(
    house: House,
) -> None:
    limited_key = await key(house, "api", endpoints=("test/deep/*",))
    async with house.client() as owner, house.client(limited_key) as limited:
        other, own = await submit_request(owner), await submit_request(owner, DEEP)
        links = [
            (await owner.post(f"/v1/requests/{request_id}/share", json={})).json()["share_id"]
            for request_id in (other, own)
        ]
        models = (await limited.get("/v1/models")).json()["models"]
        assert [model["endpoint_id"] for model in models] == [DEEP]
        shares = (await limited.get("/v1/shares")).json()["shares"]
        assert [share["request_id"] for share in shares] == [own]
        assert (await limited.delete(f"/v1/shares/{links[0]}")).status_code == 403
        assert (await limited.delete(f"/v1/shares/{links[1]}")).status_code == 204
        refused = await limited.post(f"/v1/requests/{other}/share", json={})
        assert refused.status_code == 403


async def test_lists_of_models_have_only_the_endpoints_of_the_key(house: House) -> None:
    limited = await key(house, "api", endpoints=(DEEP,))
    async with house.client(limited) as client:
        models = (await client.get("/openai/v1/models")).json()["data"]
        assert {model["darkroom_endpoint"] for model in models} == {DEEP}
        for answer in (
            await client.get("/replicate/v1/models"),
            await client.request("QUERY", "/replicate/v1/models", content="probe"),
        ):
            results = answer.json()["results"]
            assert {model["darkroom_endpoint"] for model in results} == {DEEP}
        index = (await client.get("/llms.txt")).text
        assert (DEEP in index, f"/{PROBE}/" in index) == (True, False)
        for path in ("/openai/v1/models/{}", "/replicate/v1/models/{}", "/models/{}/llms.txt"):
            answer = await client.get(path.format(PROBE))
            assert (answer.status_code, f"only {DEEP}" in answer.text) == (403, True), path

"""Export of a tenant over HTTP."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from serve_app.ingress.api.administration import tenant_export
from serve_app.ingress.api.administration.tenant_export import TenantArchive
from serve_app.tenants.scopes import API, TENANT_ADMIN
from tests.ingress.house import House, build_house
from tests.ingress.http.test_other_tenants import made_by

PROBE = "test/probe"
EXPORT = "/v1/tenants/default/export"


async def run_probe(client: httpx.AsyncClient, **input: Any) -> None:
    answer = await client.post(f"/run/{PROBE}", json=input)
    assert answer.status_code == 200, answer.text


def read(content: bytes, name: str) -> list[dict[str, Any]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [json.loads(line) for line in archive.read(f"{name}.jsonl").splitlines()]


def names(content: bytes) -> Sequence[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return archive.namelist()


async def test_an_export_has_requests_files_uploads_usage_keys_webhooks_and_acts(
    house: House,
) -> None:
    async with house.client() as client, house.client(house.other_key) as other:
        await run_probe(client, prompt="mine", content="my image", artifacts=1, thumbnails=True)
        await run_probe(other, prompt="theirs", content="their image", artifacts=1, thumbnails=True)
        await client.post("/cdn/files/upload", content=b"my upload")
        await client.post("/v1/keys", json={"alias": "made"})
        answer = await client.get(EXPORT)
        assert answer.headers["content-type"] == "application/zip"
    content = answer.content
    (request,) = read(content, "requests")
    assert (request["state"], request["input"]["prompt"]) == ("succeeded", "mine")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        contents = [archive.read(file["file"]) for file in request["files"]]
        assert contents == [b"my image", b"my image"]  # and its thumbnail
        (upload,) = read(content, "uploads")
        assert archive.read(upload["file"]) == b"my upload"
        assert json.loads(archive.read("export.json"))["tenant"] == "default"
    assert names(content)[-1] == "export.json"
    assert {key["alias"] for key in read(content, "keys")} >= {"made"}
    assert "secret" not in json.dumps(read(content, "keys"))
    assert [act["action"] for act in read(content, "audit")] == ["key.create"]
    assert all(webhook["tenant"] == "default" for webhook in read(content, "webhooks"))
    assert b"their image" not in content
    assert b"theirs" not in content


async def test_a_large_input_is_exported_as_it_is_stored(house: House) -> None:
    """Lists show a summary of it."""
    image = f"data:image/png;base64,{'A' * 100_000}"
    async with house.client() as client:
        await run_probe(client, echo=1, prompt=image)
        (request,) = read((await client.get(EXPORT)).content, "requests")
    assert request["input"]["prompt"] == image


async def test_a_shared_file_is_exported_also_after_the_request_that_made_it_was_deleted(
    house: House,
) -> None:
    fields = {"content": "my image", "artifacts": 1, "seed": 1}
    async with house.client() as client:
        ids = []
        for _ in range(2):
            answer = await client.post(
                f"/run/{PROBE}", json=fields, headers={"x-darkroom-cache": "allow"}
            )
            ids.append(answer.headers["x-fal-request-id"])
        assert answer.headers["x-darkroom-cache"] == "hit"
        for _ in range(2):
            content = (await client.get(EXPORT)).content
            assert len([name for name in names(content) if name.startswith("files/")]) == 1
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                (file,) = read(content, "requests")[0]["files"]
                assert archive.read(file["file"]) == b"my image"
            assert (await client.delete(f"/v1/requests/{ids[0]}")).status_code in (200, 404)


async def test_files_may_be_left_out(house: House) -> None:
    async with house.client() as client:
        await run_probe(client, content="my image", artifacts=1, thumbnails=True)
        content = (await client.get(f"{EXPORT}?files=false")).content
    assert not [name for name in names(content) if name.startswith("files/")]
    assert read(content, "requests")[0]["files"]


async def test_a_file_that_is_gone_is_named(house: House) -> None:
    async with house.client() as client:
        await client.post("/cdn/files/upload", content=b"my upload")
        (kept,) = await house.services.files.uploads.all_of("default", None, 10)
        await house.storage.delete([kept.key])
        content = (await client.get(EXPORT)).content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read("missing.txt").decode() == f"files/{kept.key}\n"


async def test_an_admin_exports_its_own_tenant_only_and_operators_are_recorded(
    idle: House,
) -> None:
    scopes = frozenset({"api", "tenant-admin"})
    admin = str(await idle.keys.create("other", scopes=scopes))
    some = str(await idle.keys.create("other", scopes=scopes, endpoints=(PROBE,)))
    async with idle.client(admin) as own, idle.client(some) as limited, idle.client() as operator:
        assert (await own.get("/v1/tenants/other/export")).status_code == 200
        assert (await own.get(EXPORT)).status_code == 403
        assert (await limited.get("/v1/tenants/other/export")).status_code == 403
        assert (await operator.get("/v1/tenants/nobody/export")).status_code == 404
        assert (await operator.get("/v1/tenants/other/export")).status_code == 200
    acts = [(act.action, act.subject) for act in await idle.queue.operations.audit()]
    assert acts == [("tenant.read", "other")]


@pytest.mark.long
@pytest.mark.parametrize("number", [350])
async def test_memory_does_not_grow_with_the_requests(
    idle: House, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Pages are read one by one: what is held beside the store is the same for any number."""
    monkeypatch.setattr(tenant_export, "PAGE", 10)
    async with idle.client() as client:
        for _ in range(number):
            await client.post(f"/queue/{PROBE}", json={"prompt": "x" * 20_000})
    archive = TenantArchive(idle.services, "default", idle.services.clock.now(), files=True)
    size, largest = 0, 0
    tracemalloc.start()
    async for chunk in archive.chunks():
        size, largest = size + len(chunk), max(largest, len(chunk))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > number * 20_000
    assert largest < 20 * 21_000
    assert peak < size / 3


async def test_an_export_has_drafts_favourites_and_share_links(house: House) -> None:
    async with house.client() as client, house.client(house.other_key) as other:
        for caller in (client, other):
            body = {"prompt": "a circle", "draft": {"count": 1}}
            answer = await caller.post("/run/fal-ai/flux/schnell", json=body)
            assert answer.status_code == 200, answer.text
            request_id = answer.headers["x-fal-request-id"]
            marked = {"request_ids": [request_id], "favourite": True}
            await caller.post("/v1/requests/favourites", json=marked)
            await caller.post(f"/v1/requests/{request_id}/share", json={})
        mine = (await client.get("/v1/requests")).json()["requests"][0]["request_id"]
        content = (await client.get(EXPORT)).content
    (request,) = read(content, "requests")
    assert (request["id"], request["favourite"]) == (mine, True)
    (share,) = read(content, "shares")
    assert share["request_id"] == mine
    assert "digest" not in share
    (draft,) = read(content, "drafts")
    assert draft["request_id"] == mine
    assert draft["file"] in names(content)


async def test_an_export_has_weights_workflows_batches_rules_secrets_and_limits(
    house: House,
) -> None:
    scopes = frozenset({API, TENANT_ADMIN})
    mine, theirs = [str(await house.keys.create(owner, scopes=scopes)) for owner in ("me", "you")]
    async with house.client(mine) as client, house.client(theirs) as other:
        await made_by(client)
        await made_by(other)
        content = (await client.get("/v1/tenants/me/export")).content
    for name in ("weights", "workflows", "batches", "batch_files", "access_rules", "secrets"):
        (record, *_) = records = read(content, name)
        assert all(row.get("tenant", "me") == "me" for row in records), name
        assert record
    assert read(content, "weights")[0]["source"] == {"hub": "owner/lighthouse", "revision": "main"}
    assert read(content, "workflows")[0]["definition"]
    assert {rule["default"] for rule in read(content, "access_rules")} == {"hide"}
    (secret,) = read(content, "secrets")
    assert secret.keys() == {"name", "changed_at", "changed_by"}
    (tenant,) = read(content, "tenant")
    assert tenant["id"] == "me"
    assert "max_waiting" in tenant["limits_in_force"]


async def test_an_export_has_the_limits_and_the_budget_of_the_tenant() -> None:
    limits = {"default": {"max_waiting": 7, "budget": {"amount": 12}}}
    async with build_house(replica=False, tenant_limits=limits) as house, house.client() as client:
        content = (await client.get(EXPORT)).content
    (tenant,) = read(content, "tenant")
    assert tenant["limits"]["max_waiting"] == 7
    assert tenant["limits"]["budget"]["amount"] == "12"

"""Deletion of tenants over HTTP."""

from __future__ import annotations

from typing import cast

import httpx
import pytest

from tests.fakes.tenant_deletions import FakeTenantDeletions
from tests.ingress.house import House

OTHER = "/v1/tenants/other"


async def test_a_deletion_disables_at_once_and_shows_its_progress(idle: House) -> None:
    async with idle.client() as admin, idle.client(idle.other_key) as other:
        answer = await admin.delete(OTHER)
        assert answer.status_code == 202
        begun = answer.json()
        assert (begun["ended_at"], begun["left"]["keys"]) == (None, 1)
        assert (await other.get("/v1/models")).json()["code"] == "tenant_disabled"
        assert (await admin.get(f"{OTHER}/deletion")).json() == begun
        assert (await admin.delete(OTHER)).json() == begun
        acts = [act.action for act in await idle.queue.operations.audit()]
        assert acts.count("tenant.delete") == 1


async def test_until_the_end_the_name_is_taken_and_nothing_can_be_added(idle: House) -> None:
    async with idle.client() as admin:
        await admin.delete(OTHER)
        for method, path, body in (
            ("PUT", f"{OTHER}/enable", None),
            ("POST", "/v1/tenants", {"tenant": "other"}),
            ("POST", "/v1/keys", {"tenant": "other"}),
        ):
            refused = await admin.request(method, path, json=body)
            assert (refused.status_code, refused.json()["code"]) == (400, "tenant_being_deleted")
            assert "darkroom tenants deletion other" in refused.json()["message"]
        deletions = cast("FakeTenantDeletions", idle.services.identity.tenants.deletions)
        deletions.end("other")
        ended = (await admin.get(f"{OTHER}/deletion")).json()
        assert ended["ended_at"] is not None
        assert ended["usage_kept_as"].startswith("deleted:other:")
        assert (await admin.delete(OTHER)).status_code == 404
        assert (await admin.post("/v1/tenants", json={"tenant": "other"})).status_code == 201


async def test_the_own_tenant_and_that_of_the_first_key_are_not_deleted(idle: House) -> None:
    async with idle.client() as admin, idle.client(idle.other_key) as other:
        own = await admin.delete("/v1/tenants/default")
        assert (own.status_code, "own tenant" in own.json()["message"]) == (403, True)
        first = await other.delete("/v1/tenants/default")
        assert (first.status_code, "first key" in first.json()["message"]) == (403, True)


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/v1/tenants/nobody"), ("GET", "/v1/tenants/nobody/deletion")]
)
async def test_a_tenant_that_is_not_there_is_not_found(
    idle_client: httpx.AsyncClient, method: str, path: str
) -> None:
    assert (await idle_client.request(method, path)).status_code == 404

"""The audit log over HTTP: pages of a tenant, the export of the chain, and anchors."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from serve_app.cli.administration.audit import read_anchors
from serve_app.domain.audit.chain import verify
from serve_app.domain.errors import Misconfigured
from serve_app.ingress.api.administration import audit as route
from serve_app.ingress.services.audit import AuditTrail
from serve_app.telemetry.clock import SystemClock
from tests.ingress.house import House

PAUSE = "/v1/endpoints/test/probe/pause"


async def admin_of(house: House, tenant: str) -> httpx.AsyncClient:
    scopes = frozenset({"api", "tenant-admin"})
    return house.client(str(await house.keys.create(tenant, scopes=scopes)))


async def test_the_export_is_a_chain_over_several_pages(
    idle: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "EXPORT_PAGE", 3)
    async with idle.client() as client:
        for _ in range(10):
            await client.put(PAUSE)
        answer = await client.get("/v1/audit/export")
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = answer.text.splitlines()
        head = (await client.get("/v1/audit/head")).json()
        assert verify(lines, {head["sequence"]: head["hash"]}).entries == len(lines) >= 10
        rest = (await client.get("/v1/audit/export?after=8")).text.splitlines()
        assert rest == lines[8:]
        assert json.loads(lines[-1])["action"] == "tenant.read"  # the export itself


async def test_a_tenants_admin_sees_the_acts_about_its_tenant_only(idle: House) -> None:
    async with idle.client() as operator, await admin_of(idle, "other") as admin:
        await operator.put(PAUSE)
        await operator.get("/v1/requests?tenant=other")
        created = (await admin.post("/v1/keys", json={"alias": "mine"})).json()
        await operator.post("/v1/keys", json={"alias": "not theirs"})
        acts = (await admin.get("/v1/audit")).json()["acts"]
        assert [act["action"] for act in acts] == ["key.create", "tenant.read"]
        assert acts[0]["subject"] == created["key_id"]
        for path in ("/v1/audit?tenant=default", "/v1/audit/export", "/v1/audit/head"):
            assert (await admin.get(path)).status_code == 403
        seen = (await operator.get("/v1/audit?tenant=other")).json()["acts"]
        expected = ["tenant.read", "key.create", "tenant.read"]  # two different calls
        assert [act["action"] for act in seen] == expected


async def test_a_page_of_all_tenants_acts_is_itself_in_the_log(idle: House) -> None:
    async with idle.client() as operator:
        assert (await operator.get("/v1/audit")).json()["acts"] == []
        (act,) = (await operator.get("/v1/audit")).json()["acts"]
        assert (act["action"], act["subject"]) == ("tenant.read", "*")


async def test_the_end_of_an_empty_log_has_no_hash(idle: House) -> None:
    async with idle.client() as client:
        assert (await client.get("/v1/audit/head")).json() == {"sequence": 0, "hash": None}
        assert (await client.get("/v1/audit?limit=5")).json()["acts"] == []


async def test_anchors_are_appended_when_there_are_new_acts(idle: House, tmp_path: Path) -> None:
    file = tmp_path / "anchors"
    trail = AuditTrail(idle.queue.operations, SystemClock(), anchors=file)
    await trail.write_anchor()
    assert not file.exists()
    async with idle.client() as client:
        for _ in range(2):
            await client.put(PAUSE)
            await trail.write_anchor()
            await trail.write_anchor()
        lines = (await client.get("/v1/audit/export")).text.splitlines()
    anchors = read_anchors(file.read_text().splitlines())
    assert anchors.keys() == {1, 2}
    assert verify(lines, anchors).last == 3


async def test_an_anchor_file_that_cannot_be_written_is_named(idle: House, tmp_path: Path) -> None:
    trail = AuditTrail(idle.queue.operations, SystemClock(), anchors=tmp_path / "no" / "file")
    async with idle.client() as client:
        await client.put(PAUSE)
    with pytest.raises(Misconfigured, match="DARKROOM_AUDIT_ANCHOR_FILE"):
        await trail.write_anchor()

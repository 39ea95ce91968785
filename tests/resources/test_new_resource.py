"""A resource of tenants that is only declared has everything that the others have."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from serve_app.cli.connection.resources import plain_group
from serve_app.domain.audit.acts import Actor
from serve_app.ingress.api.administration.tenant_export import TenantArchive
from serve_app.jobs.jobs import Job
from serve_app.postgres.database import Database
from serve_app.queue.tenant_deletion import TenantDeletionJob
from serve_app.resources.postgres_table import PostgresTables
from serve_app.resources.table import Table, Tables
from serve_app.telemetry.clock import SystemClock
from serve_app.tenants.deletions import PostgresTenantDeletions, UsageKept
from serve_app.tenants.key_ring import KeyRing
from serve_app.tenants.scopes import CANCEL, READ, SUBMIT
from tests.fakes.tables import FakeTables
from tests.ingress.house import House, build_house
from tests.ingress.http import test_other_tenants as other_tenants
from tests.queue.database import Ingress
from tests.resources.notes import NOTES, TABLE, WITH_NOTES, Note
from tests.wire.served import serve

ME = Actor("key-1", "192.0.2.1")


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(replica=False, resources=WITH_NOTES) as house:
        yield house


@pytest.fixture
async def tables(database: Database) -> AsyncIterator[Tables]:
    await database.rows(TABLE)
    yield PostgresTables(database)
    await database.rows("DROP TABLE notes")


async def put(client: httpx.AsyncClient, name: str, query: str = "", **fields: object) -> None:
    answer = await client.put(f"/v1/notes/{name}{query}", json={"text": "x", **fields})
    assert answer.status_code == 200, answer.text


async def test_notes_are_set_shown_listed_in_pages_and_deleted(house: House) -> None:
    async with house.client() as client:
        for name in ("b", "a", "c"):
            await put(client, name)
        await put(client, "b", text="changed", pinned=True)
        shown = (await client.get("/v1/notes/b")).json()
        assert (shown["text"], shown["pinned"]) == ("changed", True)
        first = (await client.get("/v1/notes?limit=2")).json()
        assert [note["name"] for note in first["notes"]] == ["a", "b"]
        rest = (await client.get(f"/v1/notes?cursor={first['next_cursor']}")).json()
        assert ([note["name"] for note in rest["notes"]], rest["has_more"]) == (["c"], False)
        assert (await client.delete("/v1/notes/b")).status_code == 204
        gone = await client.get("/v1/notes/b")
        assert (gone.status_code, "There is no note b" in gone.text) == (404, True)


async def test_what_tables_show_of_notes_is_what_their_declaration_says(house: House) -> None:
    async with house.client() as client:
        kinds = (await client.get("/v1/resources")).json()["resources"]
    (notes,) = [kind for kind in kinds if kind["name"] == "note"]
    shown = [(column["heading"], column["format"]) for column in notes["table_columns"]]
    assert shown == [("Name", "code"), ("Text", "sentence"), ("Pinned", "yes_no")]
    assert (notes["empty"], notes["delete_verb"]) == ("There are no notes.", "delete")


async def test_bodies_keys_and_the_number_of_notes_are_checked(house: House) -> None:
    async with house.client() as client:
        for path, body in (("a", {}), ("a", {"text": "x", "colour": 1}), ("%20", {"text": "x"})):
            assert (await client.put(f"/v1/notes/{path}", json=body)).status_code == 422
        for name in ("a", "b", "c"):
            await put(client, name)
        full = await client.put("/v1/notes/d", json={"text": "x"})
        assert (full.status_code, "There are 3 notes already" in full.text) == (422, True)


async def test_scopes_and_owners_are_those_of_the_declaration(house: House) -> None:
    reader = await house.keys.create("default", scopes=frozenset({READ}))
    writer = await house.keys.create("default", scopes=frozenset({CANCEL}))
    sender = await house.keys.create("default", scopes=frozenset({SUBMIT}))
    async with house.client(str(writer)) as client:
        await put(client, "a")
        assert (await client.get("/v1/notes")).status_code == 403
    async with house.client(str(reader)) as client:
        assert (await client.get("/v1/notes/a")).status_code == 200
        assert (await client.delete("/v1/notes/a")).status_code == 403
        assert (await client.get("/v1/notes?tenant=other")).status_code == 403
    async with house.client(str(sender)) as client:
        assert (await client.get("/v1/notes/a")).status_code == 403
    async with house.client() as operator:
        await house.services.identity.tenants.create("ann", "", {}, ME)
        await put(operator, "theirs", "?tenant=ann")
        assert (await operator.get("/v1/notes/theirs")).status_code == 404
        assert (await operator.get("/v1/notes/theirs?tenant=ann")).status_code == 200
    read, *_, created = (entry.action for entry in await house.queue.operations.audit(limit=3))
    assert (read, created) == ("tenant.read", "tenant.create")


async def test_another_tenant_learns_nothing_of_notes() -> None:
    for check in (
        other_tenants.test_ids_of_another_tenant_are_answered_like_invented_ones,
        other_tenants.test_no_list_shows_anything_of_another_tenant,
    ):
        async with other_tenants.scene_of(WITH_NOTES) as scene:
            assert ("PUT", "/v1/notes/{note}") in other_tenants.calls(scene.resources)
            await check(scene)


def test_commands_list_and_delete_notes(tmp_path: Path) -> None:
    notes = plain_group(NOTES)
    with serve(replica=False, resources=WITH_NOTES) as address:
        key = {"Authorization": f"Key {address.key}"}
        for name in ("a", "b"):
            body = {"text": "two words"}
            httpx.put(f"{address.url}/v1/notes/{name}", json=body, headers=key).raise_for_status()
        at = ("--data-dir", str(tmp_path))
        (tmp_path / "run.json").write_text(json.dumps({"url": address.url}))
        (tmp_path / "api_key").write_text(address.key)
        listed = CliRunner().invoke(notes, ["list", "--limit", "1", *at])
        assert listed.stdout.split("\n")[:2] == ["NAME  TEXT       PINNED", "a     two words  no"]
        shown = CliRunner().invoke(notes, ["show", "a", *at])
        assert shown.stdout.split("\n")[:3] == [
            "Name        a",
            "Text        two words",
            "Pinned      no",
        ]
        deleted = CliRunner().invoke(notes, ["delete", "a", *at])
        assert deleted.output == "The note a is deleted.\n"
        left = CliRunner().invoke(notes, ["list", "--json", *at])
        assert [note["name"] for note in json.loads(left.output)["notes"]] == ["b"]


async def test_an_export_of_the_tenant_has_its_notes(house: House) -> None:
    table = house.services.tables.of(NOTES)
    for owner in ("default", "other"):
        await table.put(owner, "a", {"text": f"of {owner}", "pinned": False}, ME)
    archive = TenantArchive(house.services, "default", datetime.now(UTC), files=False)
    content = b"".join([chunk async for chunk in archive.chunks()])
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        lines = opened.read("notes.jsonl").decode().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["of default"]


async def test_the_deletion_of_a_tenant_deletes_its_notes(
    ingress: Ingress, database: Database, tables: Tables
) -> None:
    queue, table = await ingress(), tables.of(NOTES)
    for owner in ("ann", "bob"):
        await KeyRing(database, SystemClock()).create(owner)
        await table.put(owner, "a", {"text": "x", "pinned": False}, ME)
    deletions = PostgresTenantDeletions(database, SystemClock())
    await deletions.ask("ann", UsageKept.NOTHING, ME)
    parts = queue.parts
    job = TenantDeletionJob(
        *(database, parts.removal, parts.operations, parts.garbage, parts.after),
        resources=WITH_NOTES,
    )
    assert not await job.run([Job(job.kind.name, "ann", "", 1)])
    assert await database.rows("SELECT tenant FROM notes") == [("bob",)]
    ended = await deletions.find("ann")
    assert ended is not None
    assert ended.ended_at is not None


async def changed_and_deleted(table: Table[Note]) -> None:
    for text in ("first", "second"):
        note = await table.put("ann", "a", {"text": text, "pinned": True}, ME)
        assert note is not None
        assert (note.name, note.text, note.pinned, note.changed_by) == ("a", text, True, "key-1")
    assert [note.text for note in await table.list("ann")] == ["second"]
    assert not await table.delete("bob", "a", ME)
    assert await table.delete("ann", "a", ME)


async def test_each_change_of_a_note_is_in_the_audit_log(
    ingress: Ingress, tables: Tables, house: House
) -> None:
    acts = (await ingress()).parts.operations
    await changed_and_deleted(tables.of(NOTES))
    await changed_and_deleted(FakeTables(house.queue.operations.note).of(NOTES))
    for log in (acts, house.queue.operations):
        entries = [(act.action, act.subject, act.detail) for act in await log.audit()]
        about = {"tenant": "ann"}
        assert entries == [
            ("note.delete", "a", about),
            *[("note.set", "a", about)] * 2,
        ]

"""Entries of the catalogue that operators add over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.catalog.catalog import StoredEntry, combine_entries, read_file
from serve_app.catalog.entries import EntryBuilder
from serve_app.postgres.database import Database
from serve_app.queue.transactions.catalog_entries import PostgresCatalogEntries
from serve_app.settings import PoolConfig
from tests.contract.waiting import eventually
from tests.ingress.house import DEMO, MODELS, House, build_house
from tests.queue.database import conninfo, database, server

__all__ = ["conninfo", "database", "server"]

ENTRIES = "/v1/models/entries"
PROBE = f"{ENTRIES}/house/probe"
OPEN: dict[str, Any] = {"family": "probe", "schema": "open"}
FLUX: dict[str, Any] = {
    "family": "flux",
    "schema": "flux-text-to-image",
    "weights": {"directory": "/srv/weights/portraits"},
    "licence": "ours",
}
DOCUMENTED = combine_entries(
    read_file(MODELS),
    EntryBuilder(demo=True, demo_dir=DEMO),
    [StoredEntry("house/probe", OPEN), StoredEntry("house/portraits", FLUX)],
)
ADDING: dict[str, Any] = {"models": MODELS, "documented": DOCUMENTED}


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with build_house(**ADDING) as house:
        yield house


@pytest.fixture
async def admin(house: House) -> AsyncIterator[httpx.AsyncClient]:
    async with house.client() as client:
        yield client


async def test_an_added_endpoint_is_served_at_once(admin: httpx.AsyncClient) -> None:
    assert (await admin.post("/run/house/probe", json={})).status_code == 404
    answer = await admin.put(PROBE, json=OPEN)
    assert answer.json() == {
        "endpoint_id": "house/probe",
        "origin": "database",
        "replaces": [],
        "served": True,
        "reason": None,
        "pool": "studio",
        "entry": OPEN,
    }
    ran = await admin.post("/run/house/probe", json={"echo": {"a": 1}})
    assert ran.status_code == 200, ran.text


async def test_it_is_listed_wherever_models_are(admin: httpx.AsyncClient) -> None:
    await admin.put(f"{ENTRIES}/house/portraits", json=FLUX)
    (model,) = (await admin.get("/v1/models?endpoint_id=house/portraits")).json()["models"]
    assert model["metadata"]["license"] == "ours"
    assert model["darkroom"]["origin"] == "database"
    document = (await admin.get("/openapi.json")).json()
    assert "/run/house/portraits" in document["paths"]
    named = {listed["id"] for listed in (await admin.get("/openai/v1/models")).json()["data"]}
    assert "house/portraits" in named
    called = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    tool = {"name": "list_models", "arguments": {}}
    headers = {"accept": "application/json, text/event-stream"}
    answer = await admin.post("/mcp", json=called | {"params": tool}, headers=headers)
    assert "house/portraits" in answer.text
    replicate = await admin.get("/replicate/v1/models/house/portraits")
    assert replicate.status_code == 200


async def test_a_mistake_names_the_key_and_the_nearest_known_one(admin: httpx.AsyncClient) -> None:
    entry = {**OPEN, "famly": "flux", "recipes": [{"memory_gb": 9, "precison": "float16"}]}
    answer = await admin.put(PROBE, json=entry)
    assert answer.status_code == 422
    problems = {tuple(problem["loc"][1:]): problem["msg"] for problem in answer.json()["detail"]}
    assert problems["famly",] == "unknown key `famly`; did you mean `family`?"
    assert problems["recipes", 0, "precison"] == "unknown key `precison`; did you mean `precision`?"
    assert ("recipes", 0, "precision") in problems
    options = {**FLUX, "options": {"natve_size": 128}}
    answer = await admin.put(PROBE, json=options)
    assert "did you mean `native_size`?" in answer.json()["detail"][0]["msg"]
    for endpoint, words in {
        "house": "should be owner/name",
        "v1/x": "is reserved",
        "a/requests": "begins a request's URL",
    }.items():
        refused = await admin.put(f"{ENTRIES}/{endpoint}", json=OPEN)
        assert (refused.status_code, words in refused.text) == (422, True), refused.text
    assert (await admin.put(PROBE, json=[])).status_code == 422
    assert (await admin.get(ENTRIES)).json()["entries"] == []


async def test_an_entry_that_should_be_new_replaces_none(admin: httpx.AsyncClient) -> None:
    new = {"if-none-match": "*"}
    path = "/v1/models/entries/house/new"
    assert (await admin.put(path, json=OPEN, headers=new)).status_code == 200
    changed = OPEN | {"display_name": "Another"}
    for taken in (path, "/v1/models/entries/test/probe"):
        refused = await admin.put(taken, json=changed, headers=new)
        assert (refused.status_code, refused.json()["code"]) == (412, "entry_exists")
        assert "already" in refused.json()["detail"]
    assert "display_name" not in (await admin.get(path)).json()["entry"]
    assert (await admin.put(path, json=changed, headers={"if-none-match": "x"})).status_code == 422
    assert (await admin.put(path, json=changed)).status_code == 200


async def test_a_dry_run_stores_nothing(admin: httpx.AsyncClient) -> None:
    answer = await admin.put(f"{PROBE}?dry_run=true", json=OPEN)
    assert answer.json()["served"]
    assert (await admin.get(ENTRIES)).json()["entries"] == []
    assert (await admin.get(PROBE)).status_code == 404


async def test_an_entry_of_the_file_is_replaced_and_comes_back(admin: httpx.AsyncClient) -> None:
    path = f"{ENTRIES}/test/deep/path/probe"
    written = (await admin.get(path)).json()
    assert (written["origin"], written["entry"]["cache"]) == ("file", True)
    replaced = (await admin.put(path, json=OPEN)).json()
    assert (replaced["origin"], replaced["replaces"]) == ("database", ["file"])
    assert (await admin.get(ENTRIES)).json()["conflicts"] == ["test/deep/path/probe"]
    removed = (await admin.delete(path)).json()
    assert removed == {"endpoint_id": "test/deep/path/probe", "unfinished": 0, "now": "file"}
    assert (await admin.get(path)).json()["entry"]["cache"]
    again = await admin.delete(path)
    assert again.status_code == 404
    assert "is in the file of DARKROOM_MODELS, not in the database" in again.text


async def test_an_endpoint_with_unfinished_requests_is_removed_only_by_force() -> None:
    async with build_house(replica=False, **ADDING) as idle, idle.client() as admin:
        await admin.put(PROBE, json=OPEN)
        submitted = (await admin.post("/queue/house/probe", json={})).json()
        refused = await admin.delete(PROBE)
        assert (refused.status_code, refused.json()["code"]) == (400, "request_active")
        assert "house/probe has 1 queued or running requests" in refused.json()["message"]
        assert (await admin.delete(f"{PROBE}?force=true")).json()["unfinished"] == 1
        await idle.replica.start()

        async def ended() -> bool:
            shown = await admin.get(f"/v1/requests/{submitted['request_id']}")
            return bool(shown.json()["error"])

        await eventually(ended)
        shown = (await admin.get(f"/v1/requests/{submitted['request_id']}")).json()
        assert "is no longer in this installation's catalogue" in shown["error"]["message"]


async def test_a_pool_that_cannot_run_it_is_named() -> None:
    pools = {"small": PoolConfig(families=("probe",)), "large": PoolConfig(families=("probe",))}
    async with build_house(pools=pools, **ADDING) as house, house.client() as admin:
        assert (await admin.put(PROBE, json=OPEN)).json()["pool"] == "small"
        named = await admin.put(PROBE, json={**OPEN, "pool": "large"})
        assert (named.json()["served"], named.json()["pool"]) == (True, "large")
        other = (await admin.put(PROBE, json={**FLUX, "pool": "large"})).json()
        assert "No pool of this installation hosts its family `flux`" in other["reason"]


async def test_a_pool_that_does_not_exist_is_refused_by_its_name_and_nothing_is_stored() -> None:
    pools = {"small": PoolConfig(families=("probe",))}
    async with build_house(pools=pools, **ADDING) as house, house.client() as admin:
        refused = await admin.put(PROBE, json={**OPEN, "pool": "huge"})
        assert (await admin.get(PROBE)).status_code == 404
    assert refused.status_code == 422
    (problem,) = refused.json()["detail"]
    assert problem["loc"] == ["body", "pool"]
    assert "`huge` does not exist" in problem["msg"]
    assert problem["msg"].endswith("may name are small")


async def test_only_operators_see_and_change_entries(house: House) -> None:
    async with house.client(house.weak_key) as client:
        for method, path in (
            ("GET", ENTRIES),
            ("GET", PROBE),
            ("PUT", PROBE),
            ("DELETE", PROBE),
        ):
            answer = await client.request(method, path)
            assert answer.status_code == 403, path


async def test_two_ingress_processes_serve_what_one_of_them_was_given(database: Database) -> None:
    first = PostgresCatalogEntries(database)
    second = PostgresCatalogEntries(database)
    async with (
        build_house(entries=first, **ADDING) as local,
        build_house(entries=second, **ADDING) as other,
        local.client() as here,
        other.client() as there,
    ):
        local.services.entries.follow()
        other.services.entries.follow()
        try:
            await here.put(PROBE, json=OPEN)

            async def both() -> bool:
                return (await there.post("/run/house/probe", json={})).status_code == 200

            assert (await here.post("/run/house/probe", json={})).status_code == 200
            await eventually(both)
            await there.delete(PROBE)

            async def neither() -> bool:
                return (await here.post("/run/house/probe", json={})).status_code == 404

            await eventually(neither)
            acts = await database.rows("SELECT action, subject FROM audit ORDER BY id")
            assert acts == [("model.add", "house/probe"), ("model.remove", "house/probe")]
        finally:
            await local.services.entries.aclose()
            await other.services.entries.aclose()


async def test_an_entry_that_a_later_version_does_not_know_is_left_out_and_named(
    database: Database,
) -> None:
    entry = '{"family": "probe", "schema": "gone"}'
    await database.rows(
        "INSERT INTO catalog_entries (endpoint, entry, changed_by) "
        f"VALUES ('house/probe', '{entry}', 'key')"
    )
    stored = PostgresCatalogEntries(database)
    async with build_house(entries=stored, **ADDING) as house, house.client() as admin:
        (broken,) = (await admin.get(ENTRIES)).json()["entries"]
        assert "there is no schema `gone`" in broken["problem"]
        assert (await admin.post("/run/house/probe", json={})).status_code == 404
        assert (await admin.post("/run/test/probe", json={})).status_code == 200


async def test_entries_change_while_the_file_is_not_valid(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(MODELS.read_text())
    async with build_house(models=file, documented=DOCUMENTED) as house, house.client() as admin:
        file.write_text("endpoints: [")
        assert (await admin.put(PROBE, json=OPEN)).json()["served"]
        assert (await admin.post("/run/test/probe", json={})).status_code == 200

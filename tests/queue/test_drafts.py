"""Drafts are stored with the end of their request, stay while they are used, and are deleted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from serve_app.domain.artifact import Artifact
from serve_app.domain.audit.acts import Actor
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest
from serve_app.postgres.database import Database
from serve_app.queue.drafts import PostgresDrafts
from serve_app.queue.store.config import QueueLimits, Retention
from serve_app.queue.transactions.deletion import Deletion, PostgresLifecycles
from serve_app.settings import Config
from tests.queue.database import Ingress
from tests.queue.requests import TENANT, lease, make_finish, new

DAY_S = 86_400.0
SEED = 2**64 - 1


async def unwanted_keys(database: Database) -> set[str]:
    return {key for (key,) in await database.rows("SELECT key FROM jobs WHERE kind = 'file'")}


async def later(database: Database, seconds: float) -> None:
    await database.rows(
        "UPDATE drafts SET expires_at = expires_at - make_interval(secs => %(s)s), "
        "held_until = held_until - make_interval(secs => %(s)s)",
        {"s": seconds},
    )


async def end_earlier(database: Database, seconds: float) -> None:
    """As if all requests had ended ``seconds`` before."""
    await database.rows(
        "UPDATE requests SET finished_at = finished_at - make_interval(secs => %(s)s)",
        {"s": seconds},
    )


def key_of(request: NewRequest, number: int = 0) -> str:
    return f"d/{request.id}/1/{number}.bin"


async def finish_with_drafts(
    queue: Queue, request: NewRequest, *ids: str, size: int = 7
) -> dict[str, Any]:
    """Let a request end with drafts of these ids. Returns its output."""
    await queue.submit(request)
    lease_key = (await lease(queue)).key
    facts = [{"id": id_, "seed": SEED, "step": 5, "steps": 20, "noise": 0.75} for id_ in ids]
    files = tuple(
        Artifact(key_of(request, number), "application/vnd.darkroom.draft", size, "ab")
        for number in range(len(ids))
    )
    outcome = Outcome(output={"images": [], "drafts": facts}, drafts=files)
    await queue.finish(make_finish(lease_key, outcome))
    ended = await queue.get(request.tenant, request.id)
    assert ended.outcome is not None
    assert ended.outcome.output is not None
    return dict(ended.outcome.output)


async def test_a_replica_can_name_only_files_of_its_own_attempt(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    request = new()
    await queue.submit(request)
    lease_key = (await lease(queue)).key
    stolen = Artifact(f"d/{new().id}/1/0.bin", "application/vnd.darkroom.draft", 7, "ab")
    facts = {"id": "one", "seed": 1, "step": 1, "steps": 4, "noise": None}
    await queue.finish(
        make_finish(lease_key, Outcome(output={"drafts": [facts]}, drafts=(stolen,)))
    )
    assert await database.rows("SELECT id FROM drafts") == []


async def test_drafts_expire(ingress: Ingress, database: Database) -> None:
    queue, drafts = await ingress(), PostgresDrafts(database)
    request = new()
    await finish_with_drafts(queue, request, "one")
    await later(database, DAY_S - 60)
    await drafts.expire()
    assert await drafts.get(TENANT, "one") is not None
    await later(database, 61)
    assert await drafts.get(TENANT, "one") is None
    assert await drafts.open(TENANT, "one") is None
    assert await drafts.used_bytes(TENANT) == 0
    await drafts.expire()
    assert await unwanted_keys(database) == {key_of(request)}
    assert await database.rows("SELECT * FROM drafts") == []


async def test_only_a_submit_of_its_tenant_holds_a_draft(
    ingress: Ingress, database: Database
) -> None:
    queue, drafts = await ingress(), PostgresDrafts(database)
    await finish_with_drafts(queue, new(), "one")
    query = "SELECT held_until IS NOT NULL FROM drafts"
    assert await drafts.look(TENANT, "one") is not None
    assert await drafts.open("bob", "one") is None
    assert await database.rows(query) == [(False,)]
    assert await drafts.open(TENANT, "one") is not None
    assert await database.rows(query) == [(True,)]


async def test_their_time_is_a_setting(ingress: Ingress, database: Database) -> None:
    assert QueueLimits.of(Config(keep_drafts_s=60)).keep_drafts_s == 60
    queue, drafts = await ingress(QueueLimits(keep_drafts_s=60)), PostgresDrafts(database)
    await finish_with_drafts(queue, new(), "one")
    draft = await drafts.get(TENANT, "one")
    assert draft is not None
    assert draft.expires_at - draft.created_at < timedelta(seconds=90)


async def test_a_draft_stays_until_the_request_that_goes_on_from_it_has_ended(
    ingress: Ingress, database: Database
) -> None:
    queue, drafts = await ingress(), PostgresDrafts(database)
    first = new()
    await finish_with_drafts(queue, first, "one")
    await queue.submit(new(draft_key=key_of(first)))
    await later(database, DAY_S + 1)
    await drafts.expire()
    assert await unwanted_keys(database) == set()
    granted = await lease(queue)
    assert granted.draft_url == f"memory://files/{key_of(first)}"
    await drafts.expire()
    assert await unwanted_keys(database) == set()
    await queue.finish(make_finish(granted.key))
    await drafts.expire()
    assert await unwanted_keys(database) == {key_of(first)}


async def test_a_draft_that_was_found_does_not_expire_before_its_request_is_stored(
    ingress: Ingress, database: Database
) -> None:
    queue, drafts = await ingress(), PostgresDrafts(database)
    first = new()
    await finish_with_drafts(queue, first, "one")
    await later(database, DAY_S - 30)
    await drafts.open(TENANT, "one")
    await later(database, 60)
    await drafts.expire()
    assert await unwanted_keys(database) == set()
    await later(database, 600)
    await drafts.expire()
    assert await unwanted_keys(database) == {key_of(first)}


async def test_another_attempt_gets_the_draft_too(ingress: Ingress, database: Database) -> None:
    queue = await ingress()
    first = new()
    await finish_with_drafts(queue, first, "one")
    await queue.submit(new(draft_key=key_of(first)))
    granted = await lease(queue)
    await queue.hand_back(granted.key, "r1", "It closes.")
    again = await lease(queue, "r2")
    assert (again.attempt, again.draft_url) == (2, granted.draft_url)


async def test_drafts_are_deleted_with_their_request(ingress: Ingress, database: Database) -> None:
    queue, drafts = await ingress(), PostgresDrafts(database)
    plain, keyed = new(), new(idempotency_key="k")
    await finish_with_drafts(queue, plain, "one")
    await finish_with_drafts(queue, keyed, "two")
    for request in (plain, keyed):
        await queue.delete(TENANT, request.id)
    assert await unwanted_keys(database) == {key_of(plain), key_of(keyed)}
    assert await drafts.newest(TENANT, 10) == []


async def test_a_draft_in_use_outlasts_its_deletion_and_its_requests(
    ingress: Ingress, database: Database
) -> None:
    queue, drafts = await ingress(), PostgresDrafts(database)
    dropped, plain, keyed = new(), new(), new(idempotency_key="k")
    for request, id_ in ((dropped, "one"), (plain, "two"), (keyed, "three")):
        await finish_with_drafts(queue, request, id_)
    for request in (dropped, plain, keyed):
        await queue.submit(new(draft_key=key_of(request)))
    assert await drafts.delete(TENANT, "one", Actor("key-1", "192.0.2.1"))
    for request in (plain, keyed):
        await queue.delete(TENANT, request.id)
    await drafts.expire()
    assert await unwanted_keys(database) == set()
    for _ in range(3):
        await queue.finish(make_finish((await lease(queue)).key))
    await drafts.expire()
    assert await unwanted_keys(database) == {key_of(owner) for owner in (dropped, plain, keyed)}
    assert await database.rows("SELECT * FROM drafts") == []
    rows = await database.rows("SELECT actor, subject FROM audit WHERE action = 'draft.delete'")
    assert rows == [("key-1", "one")]


async def test_a_draft_that_was_found_outlasts_its_deletion_until_its_request_is_stored(
    ingress: Ingress, database: Database
) -> None:
    queue, drafts = await ingress(), PostgresDrafts(database)
    dropped, deleted = new(), new()
    for request, id_ in ((dropped, "one"), (deleted, "two")):
        await finish_with_drafts(queue, request, id_)
        assert await drafts.open(TENANT, id_) is not None  # a submit is under way
    assert await drafts.delete(TENANT, "one")
    await queue.delete(TENANT, deleted.id)
    await drafts.expire()
    assert await unwanted_keys(database) == set()
    await later(database, 601)
    await drafts.expire()
    assert await unwanted_keys(database) == {key_of(dropped), key_of(deleted)}


async def test_a_draft_in_use_outlasts_the_retention_of_its_request(
    ingress: Ingress, database: Database
) -> None:
    queue, drafts = await ingress(), PostgresDrafts(database)
    first = new()
    await finish_with_drafts(queue, first, "one")
    await queue.submit(new(draft_key=key_of(first)))
    await Deletion(database, Retention()).delete_of_tenant(TENANT)
    assert await drafts.get(TENANT, "one") is None
    await drafts.expire()
    assert await unwanted_keys(database) == set()
    await queue.finish(make_finish((await lease(queue)).key))
    await drafts.expire()
    assert await unwanted_keys(database) == {key_of(first)}


async def test_drafts_go_with_the_files_of_a_request_whose_client_limited_their_time(
    ingress: Ingress, database: Database
) -> None:
    queue, lifecycles = await ingress(), PostgresLifecycles(database)
    request = new()
    await lifecycles.keep(request.id, 60.0)
    await finish_with_drafts(queue, request, "one")
    await end_earlier(database, 61)
    await lifecycles.expire()
    assert await queue.drafts.get(TENANT, "one") is None
    await queue.drafts.expire()
    assert await unwanted_keys(database) == {key_of(request)}


async def test_a_draft_in_use_outlasts_the_time_of_the_files_of_its_request(
    ingress: Ingress, database: Database
) -> None:
    queue, lifecycles = await ingress(), PostgresLifecycles(database)
    used, opened = new(), new()
    for request, id_ in ((used, "one"), (opened, "two")):
        await lifecycles.keep(request.id, 60.0)
        await finish_with_drafts(queue, request, id_)
    await queue.submit(new(draft_key=key_of(used)))
    assert await queue.drafts.open(TENANT, "two") is not None  # a submit is under way
    await end_earlier(database, 61)
    await lifecycles.expire()
    await queue.drafts.expire()
    assert await unwanted_keys(database) == set()
    granted = await lease(queue)
    assert granted.draft_url == f"memory://files/{key_of(used)}"
    await queue.finish(make_finish(granted.key))
    await later(database, 600)
    await queue.drafts.expire()
    assert await unwanted_keys(database) == {key_of(used), key_of(opened)}


async def test_a_tenant_deletes_a_draft(ingress: Ingress, database: Database) -> None:
    queue, drafts = await ingress(), PostgresDrafts(database)
    request = new()
    await finish_with_drafts(queue, request, "one")
    assert await drafts.delete(TENANT, "one", Actor("key-1", "192.0.2.1"))
    assert not await drafts.delete(TENANT, "one")
    assert await unwanted_keys(database) == {key_of(request)}
    rows = await database.rows("SELECT actor, subject FROM audit WHERE action = 'draft.delete'")
    assert rows == [("key-1", "one")]

"""Files that an attempt uploaded without handing them in are deleted, whichever process died."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from serve_app.domain.media.file_access import AccessDecision, FileAccess
from serve_app.domain.request import State
from serve_app.postgres.database import Database
from serve_app.queue.transactions.redaction import Redaction
from serve_app.telemetry.clock import SystemClock
from tests.contract.test_reuse_contract import image
from tests.fakes.liveness import FakeLiveness
from tests.fakes.storage import FakeStorage
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import TENANT, ask, failure, lease, make_finish, new, report
from tests.queue.unwanted_files import delete_files

UNCOLLECTED = "SELECT 1 FROM attempts WHERE ended <> 'undo' AND NOT collected"


async def once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def unwanted_delays(database: Database) -> dict[str, float]:
    """Delay in seconds by key. Waits until nothing is left to collect."""
    while await database.rows(UNCOLLECTED):
        pass
    rows = await database.rows(
        "SELECT key, extract(epoch FROM due_at - now()) FROM jobs WHERE kind = 'file'"
    )
    return {key: float(after_s) for key, after_s in rows}


async def test_the_thumbnails_of_an_attempt_that_did_not_end_its_request_are_deleted_too(
    ingress: Ingress, database: Database, terms: FakeTerms
) -> None:
    terms.thumbnails = True
    queue = await ingress(LONG_LEASES)
    await queue.submit(new())
    (granted,) = (await queue.ask(ask(1))).leases
    (ticket,) = granted.upload_tickets
    assert ticket.thumbnail is not None
    await queue.finish(make_finish(granted.key, failure()))
    assert (await unwanted_delays(database)).keys() == {ticket.key, ticket.thumbnail.key}


async def test_private_files_of_such_an_attempt_are_deleted_by_their_own_keys(
    ingress: Ingress, database: Database
) -> None:
    access = FileAccess(TENANT, AccessDecision.FORBID)
    queue = await ingress(LONG_LEASES)
    stored = await queue.submit(new(file_access=access))
    (granted,) = (await queue.ask(ask(1))).leases
    (ticket,) = granted.upload_tickets
    assert ticket.key.startswith(f"p/{access.id}/")
    assert granted.files_token == f"reader of {TENANT}"
    await queue.finish(make_finish(granted.key, failure()))
    assert (await unwanted_delays(database)).keys() == {ticket.key}
    assert (await queue.get(TENANT, stored.id)).file_access == access.id


async def test_the_files_of_a_replica_that_died_before_it_handed_in_are_deleted(
    ingress: Ingress, database: Database, liveness: FakeLiveness
) -> None:
    queue = await ingress(LONG_LEASES)
    storage = FakeStorage(b"key", "http://here", SystemClock())
    request = await queue.submit(new())
    (first,) = (await queue.ask(ask(1))).leases
    await queue.report(report(first.key))
    (ticket,) = first.upload_tickets
    await storage.put(ticket.key, "image/png", once(b"half a day's work"))
    liveness.buried.add("actor-r1")
    while (await queue.wait_for_change(TENANT, request.id, 0.1)).state is State.RUNNING:
        pass
    (second,) = (await queue.ask(ask(1, replica="r2"))).leases
    (own_ticket,) = second.upload_tickets
    await storage.put(own_ticket.key, "image/png", once(b"the image"))
    await queue.finish(make_finish(second.key, image(request.id), replica="r2"))
    assert (await unwanted_delays(database)).keys() == {ticket.key}
    await database.rows("UPDATE jobs SET due_at = now() WHERE kind = 'file'")
    await delete_files(database, storage)
    assert set(storage.objects) == {own_ticket.key}


@pytest.mark.parametrize(
    ("how", "at_least_s", "at_most_s"), [("lost", 21_000, 21_600), ("failed", 200, 300)]
)
async def test_who_may_still_upload_has_the_time_of_its_ticket(
    ingress: Ingress,
    database: Database,
    liveness: FakeLiveness,
    how: str,
    at_least_s: float,
    at_most_s: float,
) -> None:
    queue = await ingress(LONG_LEASES)
    request = await queue.submit(new())
    granted = await lease(queue)
    if how == "lost":
        liveness.buried.add("actor-r1")
        while (await queue.wait_for_change(TENANT, request.id, 0.1)).state is State.RUNNING:
            pass
    else:
        await queue.finish(make_finish(granted.key, failure()))
    ((key, after_s),) = (await unwanted_delays(database)).items()
    assert key == granted.upload_tickets[0].key
    assert at_least_s < after_s <= at_most_s


async def test_what_succeeded_left_nothing(ingress: Ingress, database: Database) -> None:
    queue = await ingress(LONG_LEASES)
    await queue.submit(new())
    await queue.finish(make_finish((await lease(queue)).key))
    assert await unwanted_delays(database) == {}


async def test_they_are_known_also_when_the_request_is_deleted_or_forgotten_at_once(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(replace(LONG_LEASES, check_interval_s=600.0))
    keys: set[str] = set()
    ids: list[str] = []
    for store_io in (True, False):
        ids.append((await queue.submit(new(store_io=store_io))).id)
        granted = await lease(queue)
        keys |= {ticket.key for ticket in granted.upload_tickets}
        await queue.finish(make_finish(granted.key, failure()))
    assert await Redaction(queue._database).redact_due() == []
    await queue.delete(TENANT, ids[0])
    assert (await unwanted_delays(database)).keys() == keys
    assert await Redaction(queue._database).redact_due() == [ids[1]]


async def test_an_endpoint_that_is_gone_holds_no_one_up(
    ingress: Ingress, database: Database, terms: FakeTerms
) -> None:
    queue = await ingress(replace(LONG_LEASES, check_interval_s=600.0))
    for endpoint in ("a/gone", "a/here"):
        await queue.submit(new(endpoint=endpoint))
        granted = await lease(queue)
        await queue.finish(make_finish(granted.key, failure()))
    terms.gone.add("a/gone")
    await queue.parts.garbage.collect()
    assert (await unwanted_delays(database)).keys() == {granted.upload_tickets[0].key}

"""Files are deleted at the time their request's client set."""

from __future__ import annotations

from dataclasses import replace

from serve_app.domain.artifact import Artifact
from serve_app.domain.outcome import Outcome
from serve_app.postgres.database import Database
from serve_app.queue.transactions.deletion import MAX_PAGES, PAGE_SIZE, PostgresLifecycles
from tests.queue.database import Ingress
from tests.queue.requests import lease, make_finish, new


async def unwanted_keys(database: Database) -> set[str]:
    return {key for (key,) in await database.rows("SELECT key FROM jobs WHERE kind = 'file'")}


async def later(database: Database, seconds: float) -> None:
    await database.rows(
        "UPDATE requests SET finished_at = finished_at - make_interval(secs => %(s)s)",
        {"s": seconds},
    )
    await database.rows(
        "UPDATE lifecycles SET created_at = created_at - make_interval(secs => %(s)s), "
        "due_at = due_at - make_interval(secs => %(s)s)",
        {"s": seconds},
    )


async def finish_with_file(queue, request) -> str:
    """Key of the file that the request ends with."""
    await queue.submit(request)
    lease_key = (await lease(queue)).key
    key = f"r/{request.id}/1/a.png"
    outcome = Outcome(output={}, artifacts=(Artifact(key, "image/png", 3, "00"),))
    await queue.finish(replace(make_finish(lease_key), outcome=outcome))
    return key


async def test_the_files_go_and_the_request_stays(ingress: Ingress, database: Database) -> None:
    queue, lifecycles = await ingress(), PostgresLifecycles(database)
    hasty, patient = new(), new()
    await lifecycles.keep(hasty.id, 60.0)
    gone, kept = await finish_with_file(queue, hasty), await finish_with_file(queue, patient)
    await later(database, 55)
    await lifecycles.expire()
    assert await unwanted_keys(database) == set()
    await later(database, 10)
    await lifecycles.expire()
    assert await unwanted_keys(database) == {gone}
    assert await database.rows("SELECT key FROM artifacts") == [(kept,)]
    assert (await queue.get(hasty.tenant, hasty.id)).outcome is not None
    assert await database.rows("SELECT * FROM lifecycles") == []


async def test_the_time_begins_with_the_end(ingress: Ingress, database: Database) -> None:
    queue, lifecycles = await ingress(), PostgresLifecycles(database)
    request = new()
    await lifecycles.keep(request.id, 60.0)
    await queue.submit(request)
    await later(database, 3 * 86400)
    await lifecycles.expire()
    assert len(await database.rows("SELECT * FROM lifecycles")) == 1


async def test_what_was_said_of_a_request_that_never_came_is_forgotten(
    database: Database,
) -> None:
    lifecycles = PostgresLifecycles(database)
    await lifecycles.keep(new().id, 60.0)
    await lifecycles.expire()
    assert len(await database.rows("SELECT * FROM lifecycles")) == 1
    await later(database, 86400 + 60)
    await lifecycles.expire()
    assert await database.rows("SELECT * FROM lifecycles") == []


async def test_a_round_looks_at_some_of_many_requests_that_have_not_ended_and_the_next_goes_on(
    ingress: Ingress, database: Database
) -> None:
    queue, lifecycles = await ingress(), PostgresLifecycles(database)
    in_a_round = MAX_PAGES * PAGE_SIZE
    await database.rows(
        "INSERT INTO lifecycles (request_id, keep_s) "
        "SELECT lpad(to_hex(n), 32, '0')::uuid, 60 FROM generate_series(1, %(n)s::integer) n",
        {"n": in_a_round + 10},
    )
    last = new()  # its id is the highest
    await lifecycles.keep(last.id, 60.0)
    await finish_with_file(queue, last)
    due = "SELECT request_id::text FROM lifecycles WHERE due_at IS NOT NULL"
    await lifecycles.expire()
    assert await database.rows(due) == []
    await lifecycles.expire()
    assert await database.rows(due) == [(last.id,)]
    await lifecycles.expire()  # begins again
    second = new()
    await lifecycles.keep(second.id, 60.0)
    await finish_with_file(queue, second)
    await lifecycles.expire()
    assert len(await database.rows(due)) == 2

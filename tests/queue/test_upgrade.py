"""Upgrade of an installation of the first release to the tables of the next version.

Every migration must pass this. The installation has rows in every state in every table:
``data/make_installation.py`` says how they were made. The next version is this one with two
made-up migrations, so that there is always an upgrade to test. This version runs on its tables, as
it does during an update.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import (
    EndpointDraining,
    RequestDeleted,
    RequestNotFound,
    TenantDisabled,
    Unauthenticated,
)
from serve_app.domain.lease import Lease, LeaseKey, Verdict
from serve_app.domain.operations import PauseKind
from serve_app.domain.outcome import Usage
from serve_app.domain.request import Priority, Redacted, Retries, State, WaitReason
from serve_app.domain.webhook import DeliveryChannel, DeliveryState
from serve_app.postgres.database import Database
from serve_app.postgres.installation import shared_secret
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store.config import Retention
from serve_app.queue.store.migrations import Migration, check_applied, list_migrations, migrate
from serve_app.queue.transactions.signing_keys import PostgresSigningSeeds
from serve_app.queue.transactions.uploads import PostgresUploads
from serve_app.queue.transactions.webhook_outbox import PostgresOutbox
from serve_app.telemetry.clock import SystemClock
from serve_app.tenants.key_ring import KeyRing
from serve_app.tenants.scopes import ADMIN, API
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.data.stories import (
    DISABLED_KEY,
    DISABLED_TENANT,
    DRAINING,
    ENDED,
    EXPIRED_KEY,
    FOLLOWING,
    KEY,
    LOST_BODY,
    OTHER_POOL,
    OTHER_TENANT,
    PAUSED,
    QUEUED,
    REPLAYING_KEY,
    REVOKED_KEY,
    RUNNING,
    host,
    id_of,
    reuse_digest,
    story,
    upload_key,
    webhook,
)
from tests.queue.database import LONG_LEASES, Ingress, new_database, superuser_of
from tests.queue.dump import dump
from tests.queue.next_version import migrations_of_next_version
from tests.queue.requests import POOL, TENANT, ask, make_finish, new, report

DATA = Path(__file__).parent / "data"

COLUMNS = """
SELECT table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public' ORDER BY table_name, ordinal_position
"""
ALLOWED = r"""
SELECT conrelid::regclass::text, found[1], found[2] FROM pg_constraint
CROSS JOIN LATERAL regexp_match(
    pg_get_constraintdef(oid), '^CHECK \(\((\w+) = ANY \(ARRAY\[(.+)\]\)\)\)$') found
WHERE contype = 'c' AND found IS NOT NULL AND connamespace = 'public'::regnamespace
"""
"""Columns with the values that a CHECK allows in them."""


@pytest.fixture
async def released_conninfo(empty: str) -> str:
    """Connection string of an installation of the first release, which ran a moment ago."""
    await migrate(empty, list_migrations()[:1])
    with psycopg.connect(superuser_of(empty)) as connection:
        # Rows as they are: no triggers.
        connection.execute("SET session_replication_role = replica")
        connection.execute((DATA / "queue.sql").read_bytes())
        (age,) = connection.execute("SELECT now() - max(at) FROM events").fetchone() or (None,)
        for table, columns in columns_of(empty, "timestamp with time zone").items():
            if table != "migrations":
                moved = ", ".join(f"{column} = {column} + %(age)s" for column in columns)
                connection.execute(f"UPDATE {table} SET {moved}".encode(), {"age": age})
        connection.execute((DATA / "parts.sql").read_bytes())
    return empty


@pytest.fixture
def next_version(tmp_path: Path) -> Sequence[Migration]:
    return migrations_of_next_version(tmp_path)


@pytest.fixture
async def upgraded_conninfo(released_conninfo: str, next_version: Sequence[Migration]) -> str:
    await migrate(released_conninfo, next_version)
    return released_conninfo


@pytest.fixture
async def database(upgraded_conninfo: str) -> AsyncIterator[Database]:
    opened = Database(upgraded_conninfo)
    await opened.start()
    yield opened
    await opened.aclose()


@pytest.fixture
async def queue(
    upgraded_conninfo: str, terms: FakeTerms, liveness: FakeLiveness
) -> AsyncIterator[PostgresQueue]:
    ingress = Ingress(upgraded_conninfo, terms, liveness)
    yield await ingress(LONG_LEASES)
    await ingress.aclose()


def columns_of(conninfo: str, data_type: str | None = None) -> Mapping[str, Sequence[str]]:
    """Columns by table: all, or those of one type."""
    columns: dict[str, list[str]] = {}
    with psycopg.connect(conninfo) as connection:
        for table, column, its_type in connection.execute(COLUMNS.encode()):
            if data_type in {None, its_type}:
                columns.setdefault(table, []).append(column)
    return columns


def rows_of(conninfo: str, columns: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[object]]:
    """All rows of these tables, in these columns."""
    with psycopg.connect(conninfo) as connection:
        return {
            table: sorted(
                connection.execute(
                    f"SELECT {', '.join(f'{name}::text' for name in names)} FROM {table}".encode()
                ).fetchall(),
                key=str,
            )
            for table, names in columns.items()
        }


def test_the_dump_has_rows_in_every_state(released_conninfo: str) -> None:
    columns = columns_of(released_conninfo)
    assert [table for table, rows in rows_of(released_conninfo, columns).items() if not rows] == []
    with psycopg.connect(released_conninfo) as connection:
        allowed = connection.execute(ALLOWED).fetchall()
        assert {("requests", "state"), ("attempts", "ended")} <= {
            constraint[:2] for constraint in allowed
        }
        for table, column, values in allowed:
            rows = connection.execute(f"SELECT DISTINCT {column} FROM {table}".encode())
            assert {row[0] for row in rows} >= {*re.findall(r"'(\w+)'", values)}, (table, column)


async def test_an_upgrade_keeps_every_row(
    released_conninfo: str, next_version: Sequence[Migration]
) -> None:
    columns = columns_of(released_conninfo)
    before = rows_of(released_conninfo, columns)
    await migrate(released_conninfo, next_version)
    after = rows_of(released_conninfo, columns)
    applied = after["migrations"]
    assert {**after, "migrations": applied[:1]} == before
    assert len(applied) == len(next_version)
    await migrate(released_conninfo, next_version)
    assert rows_of(released_conninfo, columns) == after


async def test_an_upgrade_makes_the_tables_of_a_new_installation(
    server: str, upgraded_conninfo: str, next_version: Sequence[Migration]
) -> None:
    async with new_database(server, "fresh") as fresh:
        await migrate(fresh, next_version)
        assert dump(upgraded_conninfo, "--schema-only") == dump(fresh, "--schema-only")


async def test_several_processes_that_start_apply_each_migration_once(
    released_conninfo: str, next_version: Sequence[Migration]
) -> None:
    before = rows_of(released_conninfo, columns := columns_of(released_conninfo))
    for _ in range(2):
        await asyncio.gather(*(migrate(released_conninfo, next_version) for _ in range(4)))
        with psycopg.connect(released_conninfo) as connection:
            colours = connection.execute("SELECT DISTINCT colour FROM requests").fetchall()
            applied = connection.execute(
                "SELECT name, compatible_since FROM migrations ORDER BY number"
            ).fetchall()
        assert colours == [("red!",)]
        assert applied == [
            (migration.name, migration.compatible_since) for migration in next_version
        ]
    assert rows_of(released_conninfo, columns)["requests"] == before["requests"]
    await migrate(released_conninfo)  # the version before starts again during the update


async def test_this_version_fits_the_tables_of_the_next_one(database: Database) -> None:
    await check_applied(database)


async def test_waiting_and_running_requests_are_leased_and_finished(
    queue: PostgresQueue, database: Database, terms: FakeTerms, liveness: FakeLiveness
) -> None:
    interrupted = await lease_of("running", database)
    assert await queue.operations.resume(PAUSED, Actor(KEY.id))
    liveness.buried.update(f"actor-r{n}" for n in range(1, 5))
    names = [*RUNNING, *QUEUED, *FOLLOWING]
    async with serving(queue) as leases:
        for name in names:
            ended = await queue.wait(tenant_of(name), id_of(name), 20.0)
            expected = State.CANCELLED if name == "cancel requested" else State.SUCCEEDED
            assert (ended.state, name) == (expected, name)
    ran = {*names} - {"cancel requested", *FOLLOWING}
    assert {*leases} == {id_of(name) for name in ran}
    for name in ran:
        assert leases[id_of(name)].input == {"prompt": name}
    for name in ("running", "handed back"):
        again = leases[id_of(name)]
        assert again.attempt == 2
        assert again.snapshot_url == terms.state_url(f"s/{id_of(name)}/1/0.bin")
    for state in ("running", "queued"):
        follower = await queue.get(TENANT, id_of(f"following a {state} request"))
        assert follower.reuses == id_of(f"{state} leader")
    late = await queue.finish(make_finish(interrupted, replica="r1"))
    assert late is Verdict.FENCED


async def test_a_replica_that_ran_during_the_upgrade_keeps_its_leases(
    queue: PostgresQueue, database: Database
) -> None:
    running = await lease_of("running", database)
    cancelled = await lease_of("cancel requested", database)
    preview = await queue.preview(TENANT, running.request_id)
    assert preview is not None
    assert preview.step == 12
    reply = await queue.report(report(running))
    assert (reply.fenced, reply.watched) == ((), (running,))
    progress = (await queue.get(TENANT, cancelled.request_id)).progress
    assert progress is not None
    assert (progress.step, progress.steps) == (3_000_000_000, 23_000_000_000)
    assert (await queue.report(report(cancelled, replica="r2"))).cancelled == (cancelled,)
    assert await queue.finish(make_finish(running)) is Verdict.ACCEPTED


async def test_queued_requests_are_read_as_they_were_submitted(queue: PostgresQueue) -> None:
    queued = await queue.get(TENANT, id_of("queued"))
    assert queued.state is State.QUEUED
    assert (queued.priority, queued.work) == (Priority.HIGH, 30.0)
    assert queued.retries_left == Retries(1, 2, 0)
    lines = await queue.lines(TENANT, queued.id)
    assert [line.level for line in lines] == ["INFO", "WARNING"]
    deadlines = await queue.get(TENANT, id_of("with deadlines"))
    assert deadlines.end_by is not None
    assert timedelta(0) < deadlines.end_by - datetime.now(UTC) < timedelta(hours=2)
    assert not deadlines.previews
    large = await queue.get(TENANT, id_of("with a large input"))
    assert str(large.input["image"]).endswith(" characters)")
    suspect = await queue.get(TENANT, id_of("suspect"))
    assert (suspect.failures, suspect.alone) == (1, True)
    forgotten = await queue.get(TENANT, id_of("to be forgotten"))
    assert forgotten.forgetting is Redacted.INPUT
    async with asyncio.timeout(120):  # at first the position is a guess
        while (await queue.waiting(queued)).position > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    paused = await queue.get(TENANT, id_of("paused"))
    assert (await queue.waiting(paused)).reason is WaitReason.PAUSED


async def test_operators_find_their_pauses_and_the_audit(queue: PostgresQueue) -> None:
    halts = {halt.endpoint: halt.kind for halt in (await queue.operations.overview()).halts}
    assert halts == {PAUSED: PauseKind.PAUSED, DRAINING: PauseKind.DRAINING}
    with pytest.raises(EndpointDraining):
        await queue.submit(new(endpoint=DRAINING))
    acts = await queue.operations.audit()
    assert [act.action for act in acts] == [
        "endpoint.drain", "endpoint.pause", "request.requeue", "webhook.redeliver",
        "request.fail", "request.requeue", "webhook.rotate", "key.revoke", "key.create",
    ]  # fmt: skip
    await queue.operations.fail(id_of("paused"), Actor(KEY.id), "Enough.")
    assert (await queue.operations.audit())[0].id > acts[0].id


async def test_history_and_usage_are_read_as_they_were(queue: PostgresQueue) -> None:
    requests = {request.id: request for request in await queue.page(None, limit=100)}
    assert {*requests} == {id_of(name) for name in (*ENDED, *RUNNING, *QUEUED, *FOLLOWING)}
    for name in ENDED:
        assert requests[id_of(name)].state is state_of(name), name
    succeeded = requests[id_of("succeeded")]
    assert succeeded.outcome is not None
    assert succeeded.input == {"prompt": "succeeded"}
    assert succeeded.outcome.usage == Usage(1.5, 4, 1.0)
    assert succeeded.outcome.output is not None
    assert succeeded.outcome.output["text"] == "not for jsonb: \0 \ud800"
    assert [artifact.key for artifact in succeeded.outcome.artifacts] == [f"{succeeded.id}/1/0.png"]
    assert requests[id_of("follower")].reuses == id_of("leader")
    assert requests[id_of("all forgotten")].forgetting is Redacted.DONE
    attempts = requests[id_of("many attempts")]
    assert (attempts.attempt, attempts.failures) == (8, 2)
    lines = await queue.lines(TENANT, attempts.id)
    assert [line.sequence for line in lines] == [*range(1, 18)]
    edges = [datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)]
    (consumed,) = await queue.ledger.usage_totals(TENANT, edges)
    assert consumed.requests == 17  # of which 2 are frames, and 1 was deleted
    used = consumed.usage
    assert (used.run_s, used.steps, used.units) == (pytest.approx(11.4), 26, 6.5)


async def test_repeated_and_reused_requests_are_found(queue: PostgresQueue) -> None:
    key = {"body_digest": LOST_BODY, "id": id_of("queued")}
    repeat = story("queued", idempotency_key="queued", **key)
    assert (await queue.submit(repeat)).id == id_of("queued")
    with pytest.raises(RequestDeleted):
        await queue.find_earlier(story("deleted", idempotency_key="deleted", **key))
    with pytest.raises(RequestNotFound):
        await queue.get(TENANT, id_of("deleted"))
    lost = await queue.find_earlier(new(replay_key=REPLAYING_KEY.id, body_digest=LOST_BODY))
    assert lost is not None
    assert lost.id == id_of("queued")
    again = await queue.submit(new(reuse_digest=reuse_digest("succeeded")))
    assert again.reuses == id_of("succeeded")
    follower = await queue.submit(new(reuse_digest=reuse_digest("running leader")))
    assert follower.follows == id_of("running leader")


async def test_keys_and_secrets_are_the_same(database: Database) -> None:
    keys = KeyRing(database, SystemClock())
    identity = await keys.authenticate(f"Key {KEY}")
    assert (identity.tenant, identity.scopes) == (TENANT, {API, ADMIN})
    assert (await keys.authenticate(f"Key {REPLAYING_KEY}")).replay_undelivered
    for refused in (EXPIRED_KEY, REVOKED_KEY):
        with pytest.raises(Unauthenticated):
            await keys.authenticate(f"Key {refused}")
    with pytest.raises(TenantDisabled):
        await keys.authenticate(f"Key {DISABLED_KEY}")
    assert [key.key_id for key in await keys.list(TENANT)] == [KEY.id, REPLAYING_KEY.id]
    assert [key.key_id for key in await keys.list(DISABLED_TENANT)] == [DISABLED_KEY.id]
    ((stored),) = await database.rows("SELECT value FROM installation WHERE key = 'tickets'")
    assert (await shared_secret(database, "tickets")).hex() == stored[0]
    seeds = await PostgresSigningSeeds(database).all()
    assert [seed.signs for seed in seeds] == [True, False]


async def test_webhooks_go_on(database: Database) -> None:
    outbox = PostgresOutbox(database)
    names = ("succeeded", "failed", "many attempts", "reused", "cancelled", "follower", "queued")
    deliveries = {name: await outbox.get(TENANT, id_of(name)) for name in names}
    assert {name: delivery.state for name, delivery in deliveries.items()} == {
        "succeeded": DeliveryState.DELIVERED,
        "failed": DeliveryState.DEAD,
        "many attempts": DeliveryState.PENDING,
        "reused": DeliveryState.PENDING,
        "cancelled": DeliveryState.PENDING,
        "follower": DeliveryState.PENDING,
        "queued": DeliveryState.AWAITED,
    }
    assert deliveries["queued"].url == webhook("queued").url
    assert (deliveries["failed"].status, deliveries["failed"].error) == (None, "It did not answer.")
    (tried,) = await outbox.tries(TENANT, id_of("many attempts"))
    assert (tried.status, tried.error) == (503, "It answered 503.")
    due = await outbox.claim({DeliveryChannel(TENANT, host(name)): 9 for name in names})
    assert {delivery.request_id: delivery.body for delivery in due} == {
        id_of("many attempts"): b'{"status": "OK"}',
        id_of("follower"): b'{"status": "OK"}',
        id_of("reused"): None,
    }  # not the one that is claimed


async def test_uploads_go_on(database: Database) -> None:
    uploads = PostgresUploads(database, Retention())
    used = await uploads.usage(TENANT)
    assert (used.size, used.open) == (3 * 2**30 + 1000 + 2 * 5 * 2**20, 2)
    opened = await uploads.find(upload_key("parts"), "parts" * 4)
    assert opened is not None
    assert opened.parts_id == "storage-7"
    parts = await uploads.parts(opened.key)
    assert {number: part.size for number, part in parts.items()} == {1: 5 * 2**20, 2: 5 * 2**20}
    assert await uploads.finish(opened.key, 10 * 2**20)
    whole = {upload_key(name) for name in ("whole", "whole for an hour", "parts")}
    assert {upload.key for upload in await uploads.page(TENANT)} == whole
    assert [upload.key for upload in await uploads.take_unwanted(9)] == [upload_key("given up")]


@asynccontextmanager
async def serving(queue: PostgresQueue) -> AsyncGenerator[Mapping[str, Lease]]:
    """A replica of each pool that succeeds with everything. Collects the leases by request."""
    leases: dict[str, Lease] = {}

    async def serve(pool: str) -> None:
        while True:
            for granted in (await queue.ask(ask(4, replica=pool, pool=pool))).leases:
                leases[granted.request_id] = granted
                verdict = await queue.finish(make_finish(granted.key, replica=pool))
                assert verdict is Verdict.ACCEPTED

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(serve(pool)) for pool in (POOL, OTHER_POOL)]
        yield leases
        for task in tasks:
            task.cancel()


async def lease_of(name: str, database: Database) -> LeaseKey:
    """The lease that a replica held when the installation was updated."""
    rows = await database.rows(
        "SELECT attempt, lease_nonce FROM requests WHERE id = %(id)s::uuid", {"id": id_of(name)}
    )
    ((attempt, nonce),) = rows
    return LeaseKey(id_of(name), attempt, nonce)


def tenant_of(name: str) -> str:
    return OTHER_TENANT if "of another tenant" in name else TENANT


def state_of(name: str) -> State:
    """State of an ended request, which its name begins with; the others succeeded."""
    return next((state for state in State if name.startswith(state)), State.SUCCEEDED)

"""Generator of ``queue.sql``: the rows of an installation, made by the real queue.

    python -m tests.queue.data.make_installation

They stand for the databases of the first release, so they are not made again once there is a
migration after the baseline. Rows that the queue does not write itself, or only after hours, are
written by the statements in ``BY_HAND``, and those of the other parts are in ``parts.sql``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serve_app.domain.artifact import Artifact
from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import ReplicaDied
from serve_app.domain.lease import LeaseKey, Presence, ReplicaStage, Report
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.progress import Preview, Progress, Stage, StoredSnapshot
from serve_app.domain.request import Priority, Request, Retries, State
from serve_app.domain.upload import Upload, UploadPart
from serve_app.domain.webhook import ClaimedDelivery, DeliveryChannel, ReceiverResponse
from serve_app.postgres.database import Database
from serve_app.postgres.installation import shared_secret
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store import messages
from serve_app.queue.store.config import Retention
from serve_app.queue.store.migrations import list_migrations, migrate
from serve_app.queue.transactions.deletion import PostgresLifecycles
from serve_app.queue.transactions.end_attempt import AttemptEnd, EndAttempts, EndReason
from serve_app.queue.transactions.insert import LARGE_CHARACTERS
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
    EXPIRED_KEY,
    KEY,
    LOST_BODY,
    OTHER_POOL,
    OTHER_TENANT,
    PAUSED,
    REPLAYING_KEY,
    REVOKED_KEY,
    SESSION_POOL,
    host,
    id_of,
    reuse_digest,
    story,
    upload_key,
    webhook,
)
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.dump import dump, temporary_server
from tests.queue.requests import POOL, TENANT, ask, failure, lease, make_finish, new_id, report

FILE = Path(__file__).parent / "queue.sql"
HEADER = """\
-- Rows of the queue in every state, for the tables of 0001_baseline.sql.
-- Made by `python -m tests.queue.data.make_installation`: do not edit.\
"""
INSERTS = "--column-inserts", "--rows-per-insert=1000"
JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffd9")
BY_HAND = {
    "a tenant is disabled": f"""
        UPDATE tenants SET disabled_at = now() WHERE id = '{DISABLED_TENANT}'""",
    "two hours pass for a request that is forgotten": f"""
        UPDATE requests SET finished_at = finished_at - interval '2 hours'
        WHERE id = '{id_of("all forgotten")}'""",
    "a large input is cut, so that the dump stays readable": f"""
        UPDATE requests SET input = '{{"prompt": "with a large input"}}'
        WHERE id = '{id_of("with a large input")}'""",
}


class Installation:
    """The queue and what belongs to it, on one database."""

    def __init__(
        self, database: Database, queue: PostgresQueue, liveness: FakeLiveness, keys: KeyRing
    ) -> None:
        self.database = database
        self.queue = queue
        self.liveness = liveness
        self.keys = keys
        self.outbox = PostgresOutbox(database)
        self.uploads = PostgresUploads(database, Retention())
        self.lifecycles = PostgresLifecycles(database)
        self.endings = EndAttempts(database, LONG_LEASES)

    async def by_hand(self, what: str) -> None:
        await self.database.rows(BY_HAND[what])

    async def submit(self, name: str, **changes: Any) -> Request:
        return await self.queue.submit(story(name, **changes))

    async def run(self, name: str, *, replica: str = "r1", **changes: Any) -> LeaseKey:
        """Submit and lease."""
        request = await self.submit(name, **changes)
        return await self.lease_request(name, replica=replica, pool=request.pool)

    async def lease_request(self, name: str, *, replica: str = "r1", pool: str = POOL) -> LeaseKey:
        lease_key = (await lease(self.queue, replica, pool)).key
        assert lease_key.request_id == id_of(name), f"{name} is not next"
        return lease_key

    async def finish(self, lease_key: LeaseKey, outcome: Outcome, replica: str = "r1") -> None:
        await self.queue.finish(make_finish(lease_key, outcome, replica))

    async def succeed(self, name: str, **changes: Any) -> None:
        await self.finish(await self.run(name, **changes), image_of(id_of(name)))

    async def claim_delivery(self, name: str) -> ClaimedDelivery:
        (claimed,) = await self.outbox.claim({DeliveryChannel(TENANT, host(name)): 1})
        return claimed

    async def until(self, name: str, state: State, tenant: str = TENANT) -> None:
        await until(lambda: self._is(tenant, name, state))

    async def _is(self, tenant: str, name: str, state: State) -> bool:
        return (await self.queue.get(tenant, id_of(name))).state is state

    async def until_row(self, condition: str) -> None:
        """Wait for rows that the queue writes in the background: ``table WHERE …``."""
        await until(lambda: self.database.rows(f"SELECT 1 FROM {condition} LIMIT 1"))


async def until(true: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(120):
        while not await true():  # noqa: ASYNC110 - the database notifies no one
            await asyncio.sleep(0.05)


def image_of(request_id: str) -> Outcome:
    artifact = Artifact(f"{request_id}/1/0.png", "image/png", 3, "ab" * 32, width=8, height=8)
    output = {"images": [{"artifact": artifact.key}], "text": "not for jsonb: \0 \ud800"}
    return Outcome(output=output, artifacts=(artifact,), usage=Usage(1.5, 4, 1.0))


async def make_keys(here: Installation) -> None:
    at_once = datetime.now(UTC)
    both = frozenset({API, ADMIN})
    await here.keys.create(
        TENANT, name="valid", scopes=both, credential=KEY, actor=Actor("operator")
    )
    await here.keys.create(TENANT, credential=REPLAYING_KEY, replay_undelivered=True)
    await here.keys.create(OTHER_TENANT, credential=EXPIRED_KEY, expires_at=at_once)
    await here.keys.create(OTHER_TENANT, credential=REVOKED_KEY)
    await here.keys.revoke(REVOKED_KEY.id, actor=Actor(KEY.id))
    await here.keys.create(DISABLED_TENANT, credential=DISABLED_KEY)
    await here.by_hand("a tenant is disabled")
    await shared_secret(here.database, "tickets")
    seeds = PostgresSigningSeeds(here.database)
    await seeds.all()
    await seeds.rotate(Actor(KEY.id), at_once=False)


async def make_ended(here: Installation) -> None:
    reusable = reuse_digest("succeeded")
    await here.lifecycles.keep(id_of("succeeded"), 3600.0)
    await here.succeed("succeeded", reuse_digest=reusable, webhook=webhook("succeeded"))
    await here.lifecycles.expire()
    await make_many_attempts(here)
    await here.submit("reused", reuse_digest=reusable, webhook=webhook("reused"))
    leader = await here.run("leader", reuse_digest=reuse_digest("leader"))
    await here.submit("follower", reuse_digest=reuse_digest("leader"), webhook=webhook("follower"))
    await here.finish(leader, image_of(leader.request_id))
    await here.until("follower", State.SUCCEEDED)
    died = failure(ReplicaDied.code, retryable=True)
    await here.finish(await here.run("failed", webhook=webhook("failed")), died)
    await here.finish(await here.lease_request("failed"), failure())
    await here.submit("failed by hand")
    await here.queue.operations.fail(
        id_of("failed by hand"), Actor(KEY.id), "It blocks the others."
    )
    await here.succeed("of another tenant", tenant=OTHER_TENANT)


async def make_many_attempts(here: Installation) -> None:
    """All ways in which an attempt can end before the request does."""
    name = "many attempts"
    await here.finish(await here.run(name, webhook=webhook(name)), failure(retryable=True))
    await here.queue.hand_back(await here.lease_request(name), "r1", "It drains.")
    undone = await here.lease_request(name)
    await here.endings.end([AttemptEnd(undone, EndReason.UNDELIVERED, "The replica disconnected")])
    await here.lease_request(name)
    await here.queue.operations.requeue(id_of(name), Actor(KEY.id))
    await here.lease_request(name, replica="stopped")
    here.liveness.stopped.add("actor-stopped")
    await here.until(name, State.QUEUED)
    await here.lease_request(name, replica="dead")
    here.liveness.buried.add("actor-dead")
    await here.until(name, State.QUEUED)
    await here.lease_request(name, replica="cut off")
    here.liveness.cut_off.add("actor-cut off")
    await here.until(name, State.QUEUED)
    await here.finish(await here.lease_request(name), image_of(id_of(name)))


async def make_cancelled_and_expired(here: Installation) -> None:
    await here.submit("cancelled", webhook=webhook("cancelled"))
    await here.queue.cancel(TENANT, id_of("cancelled"))
    lease_key = await here.run("cancelled while it ran")
    await here.queue.cancel(TENANT, lease_key.request_id)
    await here.finish(lease_key, messages.cancellation())
    await here.submit("expired", start_within_s=0.01)
    await here.until("expired", State.EXPIRED)
    lease_key = await here.run("expired while it ran", end_within_s=600.0)
    await here.finish(lease_key, messages.not_in_time())


async def make_deleted_and_forgotten(here: Installation) -> None:
    await here.succeed("deleted", idempotency_key="deleted", body_digest=LOST_BODY)
    await here.queue.delete(TENANT, id_of("deleted"))
    await here.succeed("all forgotten", store_io=False)
    await here.by_hand("two hours pass for a request that is forgotten")
    await here.until_row("requests WHERE forgetting = 'done'")
    await here.succeed("input forgotten", store_io=False)
    await here.until_row("requests WHERE forgetting = 'outcome'")


async def make_session(here: Installation) -> None:
    lease_key = await here.run("session", pool=SESSION_POOL, priority=Priority.REALTIME)
    for _ in range(2):
        frame = new_id()
        await here.queue.record_frame(lease_key, frame, State.SUCCEEDED, Usage(0.2, 1, 0.25))
    await here.finish(lease_key, Outcome(output={}, usage=Usage(2.0, 0, 0.0)))


async def make_webhooks(here: Installation) -> None:
    """One of each: delivered, tried, dead, claimed at this moment, sent again, never tried."""
    body = b'{"status": "OK"}'
    for name in ("succeeded", "follower"):
        claimed = await here.claim_delivery(name)
        await here.outbox.keep_body(claimed, body)
        await here.outbox.record_success(claimed, ReceiverResponse(0.12, 200))
    await here.outbox.redeliver(TENANT, id_of("follower"), Actor(KEY.id))
    claimed = await here.claim_delivery("many attempts")
    await here.outbox.keep_body(claimed, body)
    await here.outbox.record_failure(claimed, ReceiverResponse(1.0, 503, "It answered 503."), 0.0)
    claimed = await here.claim_delivery("failed")
    await here.outbox.record_failure(
        claimed, ReceiverResponse(30.0, None, "It did not answer."), None
    )
    await here.claim_delivery("cancelled")


async def make_uploads(here: Installation) -> None:
    def upload(name: str, **changes: Any) -> Upload:
        return Upload(upload_key(name), name * 4, TENANT, "image/png", **changes)

    for opening in (
        upload("open"),
        upload("parts", parts_id="storage-7"),
        upload("whole"),
        upload("whole for an hour", keep_s=3600.0),
        upload("given up"),
    ):
        await here.uploads.open(opening)
    for number in (1, 2):
        await here.uploads.add_part(upload_key("parts"), UploadPart(number, "ab" * 16, 5 * 2**20))
    await here.uploads.finish(upload_key("whole"), 3 * 2**30)
    await here.uploads.finish(upload_key("whole for an hour"), 1000)
    await here.uploads.abandon(upload_key("given up"))


async def make_running(here: Installation) -> None:
    lease_key = await here.run("running", webhook=webhook("running"))
    message = Report(
        replica_id="r1",
        renewals=(lease_key,),
        progress=((lease_key, Progress(Stage.DENOISING, 12, 30, 2.5)),),
        previews=((lease_key, Preview(12, JPEG)),),
        snapshots=((lease_key, StoredSnapshot(snapshot_of(lease_key), 10)),),
        wants_tickets=(lease_key,),
    )
    await here.queue.report(message)
    await here.queue.preview(TENANT, lease_key.request_id)
    lease_key = await here.run("cancel requested", replica="r2")
    downloading = Progress(Stage.DOWNLOADING, 3_000_000_000, 23_000_000_000, 1e8)
    await here.queue.report(report(lease_key, replica="r2", progress=((lease_key, downloading),)))
    await here.queue.cancel(TENANT, lease_key.request_id)
    await here.run("running leader", replica="r3", reuse_digest=reuse_digest("running leader"))
    await here.submit("unconfirmed")
    (granted,) = (await here.queue.ask(ask(1, replica="r4"))).leases
    assert granted.request_id == id_of("unconfirmed")


async def make_replicas(here: Installation) -> None:
    loading = ({"endpoints": ["a"], "stage": "downloading", "done": 1, "total": 2**35},)
    starting = Presence("r5", "actor-r5", POOL, ReplicaStage.STARTING, "downloading a", loading)
    await here.queue.announce(starting)
    await here.queue.announce(Presence("r6", "actor-r6", POOL, ReplicaStage.DRAINING))


async def make_requeued(here: Installation) -> None:
    """Requests that are queued again. All are leased first, so that none gets another's lease."""
    suspect = await here.run("suspect", replica="dead too")
    handed_back = await here.run("handed back")
    requeued = await here.run("requeued by hand")
    assert suspect.attempt == requeued.attempt == 1
    here.liveness.buried.add("actor-dead too")
    snapshot = StoredSnapshot(snapshot_of(handed_back), 7)
    await here.queue.hand_back(handed_back, "r1", "It drains.", snapshot)
    await here.queue.operations.requeue(requeued.request_id, Actor(KEY.id))
    await here.until("suspect", State.QUEUED)


async def make_queued(here: Installation) -> None:
    await here.lifecycles.keep(id_of("queued"), 60.0)
    queued = story(
        "queued",
        priority=Priority.HIGH,
        work=30.0,
        warnings=("The seed was rounded.",),
        retries=Retries(1, 2, 0),
        idempotency_key="queued",
        body_digest=LOST_BODY,
        replay_key=REPLAYING_KEY.id,
        webhook=webhook("queued"),
    )
    await here.queue.submit(queued)
    await here.queue.record_undelivered(queued, queued.id)
    await here.submit("with deadlines", start_within_s=3600, end_within_s=7200, previews=False)
    long = {"prompt": "with a large input", "image": "data:" + "A" * LARGE_CHARACTERS}
    await here.submit("with a large input", input=long)
    await here.submit("to be forgotten", store_io=False, alone=True, priority=Priority.LOW)
    await here.submit("queued leader", reuse_digest=reuse_digest("queued leader"))
    for state in ("running", "queued"):
        digest = reuse_digest(f"{state} leader")
        await here.submit(f"following a {state} request", reuse_digest=digest)
    await here.submit("queued of another tenant", tenant=OTHER_TENANT)
    await here.submit("in another pool", pool=OTHER_POOL)
    await here.submit("paused", endpoint=PAUSED)
    await here.queue.operations.pause(PAUSED, Actor(KEY.id))
    await here.queue.operations.drain(DRAINING, Actor(KEY.id))


def snapshot_of(lease_key: LeaseKey) -> str:
    """Key of a snapshot, as ``FakeTerms`` names them."""
    return f"s/{lease_key.request_id}/{lease_key.attempt}/0.bin"


MAKERS = (
    make_keys,
    make_ended,
    make_cancelled_and_expired,
    make_deleted_and_forgotten,
    make_session,
    make_webhooks,
    make_uploads,
    make_running,
    make_replicas,
    make_requeued,
    make_queued,
)


async def fill(conninfo: str) -> None:
    liveness = FakeLiveness()
    ingress = Ingress(conninfo, FakeTerms(), liveness)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(ingress.aclose)
        database = Database(conninfo)
        await database.start()
        stack.push_async_callback(database.aclose)
        queue = await ingress(LONG_LEASES)
        here = Installation(database, queue, liveness, KeyRing(database, SystemClock()))
        for make in MAKERS:
            await make(here)
        await here.by_hand("a large input is cut, so that the dump stays readable")
        await here.until_row("costs")
        await here.until_row("replicas WHERE replica_id = 'r4'")


async def main() -> None:
    assert len(list_migrations()) == 1, (
        "The dump is of the baseline, and there are later migrations."
    )
    async with temporary_server() as conninfo:
        await migrate(conninfo)
        await fill(conninfo)
        rows = dump(conninfo, "--data-only", "--exclude-table=migrations", *INSERTS)
        FILE.write_text("\n\n".join([HEADER, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())

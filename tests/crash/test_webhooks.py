"""Ingress processes that are killed while they deliver, receivers and databases that are away."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.webhook import ClaimedDelivery, Webhook, WebhookBacklog
from serve_app.postgres.database import Database
from serve_app.queue.transactions.signing_keys import PostgresSigningSeeds
from serve_app.queue.transactions.webhook_outbox import PostgresOutbox
from serve_app.telemetry.clock import SystemClock
from serve_app.webhooks.delivery import DeliveryWorker, RetryRules
from serve_app.webhooks.sender import Sender
from serve_app.webhooks.signing import Signer
from tests.crash.scene import Scene
from tests.crash.test_database import postmaster
from tests.webhooks.receiver import Receiver, Reply, always, each

ROOT = Path(__file__).parents[2]
CLAIM_S = 5.0
DOOMED = """
import asyncio, sys
from tests.crash.test_webhooks import delivering

async def main():
    async with delivering(sys.argv[1]):
        print("delivers", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


ENDING = """
import asyncio, sys
from serve_app.domain.webhook import Webhook
from serve_app.postgres.database import Database
from serve_app.queue.queue import assemble
from serve_app.telemetry.clock import SystemClock
from tests.fakes.liveness import FakeLiveness
from tests.fakes.terms import FakeTerms
from tests.queue.database import LONG_LEASES
from tests.queue.requests import new

async def main(conninfo, url):
    database = Database(conninfo)
    await database.start()
    queue = assemble(database, SystemClock(), FakeTerms(), LONG_LEASES, FakeLiveness(), "doomed")
    await queue.start()
    while True:
        request = await queue.submit(new(webhook=Webhook(url, "")))
        await queue.cancel(request.tenant, request.id)
        print(request.id, flush=True)
        await asyncio.sleep(0.01)

asyncio.run(main(*sys.argv[1:]))
"""


class Silent:
    """Counts nothing."""

    def webhook(self, result: str) -> None:
        """Does nothing: a process that was killed could not report."""

    def webhooks(self, backlog: WebhookBacklog) -> None:
        """As little."""

    def webhook_called(self, result: str, elapsed_s: float) -> None:
        """As little."""

    def breakers(self, receivers: int, tenants: int) -> None:
        """As little."""


async def compose(claimed: ClaimedDelivery) -> bytes:
    return claimed.request_id.encode()


@asynccontextmanager
async def delivering(conninfo: str) -> AsyncIterator[None]:
    """As an ingress process does it, with claims that are another's after ``CLAIM_S``."""
    clock = SystemClock()
    database = Database(conninfo)
    await database.start()
    signer = Signer(PostgresSigningSeeds(database), clock)
    sender = Sender(NameResolver(), signer, clock, allow_private=True)
    await sender.start()
    outbox = PostgresOutbox(database, CLAIM_S, CLAIM_S)
    rules = RetryRules(waits_s=(0.1,) * 300, give_up_s=600.0, check_interval_s=0.05)
    courier = DeliveryWorker(outbox, compose, sender, clock, rules, Silent())
    courier.start()
    try:
        yield
    finally:
        await courier.aclose()
        await sender.aclose()
        await database.aclose()


async def end_requests(scene: Scene, receiver: Receiver, count: int) -> set[str]:
    """Requests at their end, whose webhooks are due."""
    (queue,) = scene.house.queues or await scene.ingresses(scene.near)
    ids: set[str] = set()
    for _ in range(count):
        request = await scene.submit(queue, webhook=Webhook(receiver.url(), ""))
        await queue.cancel(request.tenant, request.id)
        ids.add(request.id)
    return ids


@asynccontextmanager
async def doomed_ingress(scene: Scene) -> AsyncIterator[asyncio.subprocess.Process]:
    """An ingress process that delivers until it is killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DOOMED, scene.conninfo),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        assert (await process.stdout.readline()).strip() == b"delivers"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_delivered(scene: Scene, ids: set[str], within_s: float = 120.0) -> None:
    queue = scene.house.queues[0]
    async with asyncio.timeout(within_s):
        while True:
            with suppress(DatabaseUnavailable):
                delivered = await queue._database.rows(  # type: ignore[attr-defined]
                    "SELECT request_id::text FROM webhook_deliveries WHERE state = 'delivered'"
                )
                if {id_ for (id_,) in delivered} == ids:
                    return
            await asyncio.sleep(0.05)


def count_tries(scene: Scene) -> int:
    with psycopg.connect(scene.conninfo) as connection:
        row = connection.execute("SELECT count(*) FROM webhook_tries").fetchone()
    return int(row[0]) if row else 0


async def test_what_ended_under_an_ingress_that_was_killed_is_delivered_by_another(
    scene: Scene,
) -> None:
    """Killed between the commit of an outcome and its delivery."""
    await scene.ingresses(scene.near)
    async with Receiver() as receiver:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ENDING, scene.conninfo, receiver.url()),
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        ids = {(await process.stdout.readline()).decode().strip() for _ in range(5)}
        process.kill()
        rest = (await process.stdout.read()).decode().split("\n")
        ids.update(rest[:-1])
        await process.wait()
        assert receiver.received == []
        scene.house.history.accepted |= ids
        async with delivering(scene.conninfo):
            # Also of a request that ended as it was killed, and was not reported.
            async with asyncio.timeout(120):
                while not ids <= {delivery.body.decode() for delivery in receiver.received}:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        came = Counter(delivery.body for delivery in receiver.received)
        assert set(came.values()) == {1}
    async with scene.replicas(1):
        await scene.check()


@pytest.mark.long
async def test_a_delivery_whose_ingress_was_killed_amid_it_comes_again_with_the_same_id(
    scene: Scene,
) -> None:
    """Killed between a delivery and the writing down of it: the receiver has it twice."""
    async with Receiver(always(Reply(hangs=True))) as receiver:
        ids = await end_requests(scene, receiver, 2)
        async with doomed_ingress(scene) as process:
            await receiver.until(2)  # both came, and no answer goes back
            process.kill()
            await process.wait()
        assert count_tries(scene) == 0
        receiver.script = always(Reply())
        async with delivering(scene.conninfo):
            await until_delivered(scene, ids)
        came = Counter(
            (delivery.headers["webhook-id"], delivery.body.decode())
            for delivery in receiver.received
        )
        assert {body for _, body in came} == ids
        assert set(came.values()) == {2}
        assert count_tries(scene) == 2
        await scene.check()


@pytest.mark.long
async def test_kills_again_and_again_lose_no_webhook(scene: Scene) -> None:
    async with Receiver() as receiver:
        ids = await end_requests(scene, receiver, 60)
        for _ in range(3):
            async with doomed_ingress(scene) as process:
                await receiver.until(len(receiver.received) + scene.chance.randrange(1, 6))
                process.kill()
        async with delivering(scene.conninfo):
            await until_delivered(scene, ids)
        assert {delivery.body.decode() for delivery in receiver.received} == ids
        by_body = Counter(delivery.body for delivery in receiver.received)
        by_both = Counter(
            (delivery.body, delivery.headers["webhook-id"]) for delivery in receiver.received
        )
        assert len(by_body) == len(by_both)
        await scene.check()


@pytest.mark.long
async def test_a_receiver_that_is_down_for_a_while_gets_everything(scene: Scene) -> None:
    receiver = Receiver(each(Reply(503), Reply(200)))
    await receiver.start()
    await receiver.aclose()
    ids = await end_requests(scene, receiver, 4)
    async with delivering(scene.conninfo):
        async with asyncio.timeout(120):
            while count_tries(scene) < 3:  # noqa: ASYNC110 - another task does it
                await asyncio.sleep(0.05)
        await receiver.start()
        await until_delivered(scene, ids)
    await receiver.aclose()
    assert {delivery.body.decode() for delivery in receiver.received} == ids
    await scene.check()


@pytest.mark.long
async def test_a_database_that_is_reset_and_restarted_amid_deliveries_loses_none(
    own_scene: Scene, own_dir: Path
) -> None:
    async with Receiver() as receiver:
        ids = await end_requests(own_scene, receiver, 40)
        async with delivering(own_scene.far.conninfo):
            await receiver.until(3)
            own_scene.proxy.reset()
            await receiver.until(len(receiver.received) + 3)
            postmaster(own_dir).send_signal(signal.SIGQUIT)
            await until_delivered(own_scene, ids)
        assert {delivery.body.decode() for delivery in receiver.received} == ids
        await own_scene.check()

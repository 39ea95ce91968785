"""Times of replicas, sampled while they are alive, and what was made in them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.billing.report import MadeUnits
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.billing.replica_hours import MAX_SAMPLE_S, SAMPLE_EVERY_S, PostgresCostBook
from serve_app.telemetry.clock import SystemClock
from tests.contract.test_billing_contract import images
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import failure, lease, make_finish, new

DAY = timedelta(days=1)
REPLICAS = """
INSERT INTO replicas (replica_id, actor_id, pool, stage, slots, device, seen_at) VALUES
    ('r1', 'actor-r1', 'studio', 'ready', 1, 'L4', now()),
    ('r2', 'actor-r2', 'studio', 'ready', 1, 'L4', now()),
    ('r3', 'actor-r3', 'studio', 'starting', 1, '', now() - interval '60 s'),
    ('r4', 'actor-r4', 'studio', 'ready', 1, 'L4', now() - interval '60 s')
ON CONFLICT (replica_id) DO UPDATE SET device = excluded.device, seen_at = excluded.seen_at
"""


class Steps:
    """Clock that a test moves."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def monotonic(self) -> float:
        return self.at_s


async def test_replicas_are_paid_while_they_are_alive_and_busy_while_they_run_requests(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LONG_LEASES)
    await queue.submit(new())
    await lease(queue, replica="r1")
    await database.rows(REPLICAS)
    clock, now = Steps(), SystemClock().now()
    book = PostgresCostBook(database, FairReads(database), clock)  # type: ignore[arg-type]
    await book.sample()
    clock.at_s += 20.0
    await book.sample()
    hours = {row.gpu: row for row in await book.replica_hours(now - DAY, now + DAY)}
    paid = Decimal(SAMPLE_EVERY_S) + 20
    assert (hours["L4"].paid_s, hours["L4"].busy_s) == (2 * paid, paid)
    assert (hours[""].paid_s, hours[""].busy_s) == (paid, 0)
    clock.at_s += 3600.0  # nobody looked: that time is not known
    await book.sample()
    hours = {row.gpu: row for row in await book.replica_hours(now - DAY, now + DAY)}
    assert hours["L4"].paid_s == 2 * (paid + Decimal(MAX_SAMPLE_S))


async def test_what_succeeded_and_was_computed_is_counted(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(LONG_LEASES)
    same = {"reuse_digest": b"d" * 32}
    await queue.submit(new(**same))
    await queue.finish(make_finish((await lease(queue)).key, images((1024, 1024), (1920, 1080))))
    await queue.submit(new(**same))
    await queue.submit(new())
    await queue.finish(make_finish((await lease(queue)).key, failure()))
    now = SystemClock().now()
    units = await queue.costs.made_units(now - DAY, now + DAY)
    schnell = "fal-ai/flux/schnell"
    assert units == [MadeUnits(schnell, 1, 2, 3, Decimal(2), Decimal("1.5"))]
    assert units[0].cost(Price(PriceUnit.MEGAPIXEL, Decimal("0.01"))) == Decimal("0.03")
    assert units[0].cost(Price(PriceUnit.REQUEST, Decimal("0.01"))) == Decimal("0.01")

"""What a rate and a budget cost a submit, against a submit without them.

    python benchmarks/quotas.py [--rounds 5] [--seconds 2] [--callers 1 16]

One embedded PostgreSQL and one queue. Each round measures, one after the other, a tenant without
limits, one with a rate, and one with a rate and a budget, so what else the machine does falls on
all alike. Prints the median of the rounds, and its ratio to the first.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

from benchmarks.queue_replica import POOL, NoDeaths, NoTerms
from serve_app.domain.billing.price import Price, PriceUnit, Quantities
from serve_app.domain.request import NewRequest
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.settings import BudgetConfig, TenantLimits
from serve_app.telemetry.clock import SystemClock

PLENTY = 1_000_000
RATED = TenantLimits(requests_per_minute=PLENTY, requests_burst=PLENTY)
BUDGETED = RATED.model_copy(update={"budget": BudgetConfig(amount=Decimal(10**9))})
TENANTS = {"free": None, "rated": RATED, "budgeted": BUDGETED}
PRICE = Price(PriceUnit.IMAGE, Decimal("0.01"))


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder) / "postgres")
        conninfo = await server.start()
        await migrate(conninfo)
        database = Database(conninfo)
        await database.start()
        limits = QueueLimits(
            max_waiting=10**9,
            max_waiting_per_tenant=10**9,
            tenants={tenant: quota for tenant, quota in TENANTS.items() if quota is not None},
        )
        queue = assemble(database, SystemClock(), NoTerms(), limits, NoDeaths(), "benchmark")
        await queue.start()
        for callers in options.callers:
            await compare(queue, callers, options.rounds, options.seconds)
        await queue.aclose()
        await database.aclose()
        await server.aclose()
        await asyncio.sleep(6.0)  # the server stops before its files go


async def compare(queue: PostgresQueue, callers: int, rounds: int, seconds: float) -> None:
    tenant_rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for tenant in TENANTS:
            tenant_rates[tenant].append(await submits_a_second(queue, tenant, callers, seconds))
    base = statistics.median(tenant_rates["free"])
    for tenant, rates in tenant_rates.items():
        rate = statistics.median(rates)
        took_ms = 1000 * callers / rate
        print(
            f"{callers:3} callers, {tenant:9} {rate:8.0f} submits/s, {took_ms:6.2f} ms each, "
            f"{base / rate:5.2f} of the time without limits"
        )


async def submits_a_second(
    queue: PostgresQueue, tenant: str, callers: int, seconds: float
) -> float:
    ids, began = RequestIds(SystemClock()), time.perf_counter()
    count = 0

    async def submit() -> None:
        nonlocal count
        while time.perf_counter() < began + seconds:
            new = NewRequest(
                id=ids(),
                tenant=tenant,
                endpoint="acme/poster",
                endpoint_digest="0" * 16,
                pool=POOL,
                input={"prompt": "a fox"},
                price=PRICE,
                expected=Quantities(images=1),
            )
            await queue.submit(new)
            count += 1

    await asyncio.gather(*(submit() for _ in range(callers)))
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    asyncio.run(main())

"""Old usage is rolled up by day, and all figures stay what they were."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from serve_app.domain.billing.sums import SumsQuery, UsageGroup
from serve_app.domain.errors import InvalidInput
from serve_app.domain.executors.shadow import SHADOW_TENANT
from serve_app.domain.usage import Ledger
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.billing.rollup import UsageRollup
from serve_app.queue.store.config import Retention
from serve_app.queue.transactions.usage import PostgresLedger

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
START = TODAY - timedelta(days=60)
DETAIL = Retention(usage_detail_days=40)
SEED = """
INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units, images, at,
    key_id, price, billed, amount)
SELECT gen_random_uuid(), tenant, endpoint, state, 1, run_s, steps, units, images, at, key_id,
       price::jsonb, billed, billed * (price::jsonb ->> 'amount')::numeric
FROM json_to_recordset(%(lines)s::json) AS x(
    tenant text, endpoint text, state text, run_s double precision, steps integer,
    units double precision, images integer, at timestamptz, key_id text, price text, billed numeric)
"""
PRICES = (
    None,
    '{"unit": "image", "amount": "0.003", "currency": "USD"}',
    '{"unit": "gpu_second", "amount": "0.00137", "currency": "EUR"}',
)


def lines(seed: int, count: int) -> list[dict[str, object]]:
    chance = random.Random(seed)  # noqa: S311
    rows: list[dict[str, object]] = []
    for _ in range(count):
        price = chance.choice(PRICES)
        rows.append(
            {
                "tenant": chance.choice(["ann", "bob"]),
                "endpoint": chance.choice(["a/b", "c/d"]),
                "state": chance.choice(["succeeded", "failed"]),
                "run_s": round(chance.random() * 30, 4),
                "steps": chance.randrange(50),
                "units": chance.random() * 3,
                "images": chance.randrange(4),
                "at": (START + timedelta(seconds=chance.randrange(60 * 86400))).isoformat(),
                "key_id": chance.choice([None, "k1", "k2"]),
                "price": price,
                "billed": None if price is None else str(round(chance.random() * 9, 3)),
            }
        )
    return rows


ALL = (UsageGroup.DAY, UsageGroup.TENANT, UsageGroup.KEY, UsageGroup.ENDPOINT)
"""All groups that a day's row has."""


async def figures(ledger: Ledger) -> Sequence[object]:
    values: list[object] = []
    for by in [(), (UsageGroup.KEY,), (UsageGroup.DAY, UsageGroup.ENDPOINT), ALL]:
        values += await ledger.sums(SumsQuery(None, START, TODAY, by))
    edges = [START + timedelta(days=n) for n in range(61)]
    for tenant in ("ann", "bob"):
        values += await ledger.usage_totals(tenant, edges)
        values += await ledger.usage_totals(tenant, [START, TODAY], ["a/b"])
    return values


@pytest.mark.parametrize("seed", range(3))
async def test_all_figures_by_day_stay_the_same(database: Database, seed: int) -> None:
    await database.rows("INSERT INTO tenants (id) VALUES ('ann'), ('bob')")
    await database.rows(SEED, {"lines": json.dumps(lines(seed, 400))})
    ledger = PostgresLedger(FairReads(database))
    before = await figures(ledger)
    rollup = UsageRollup(database, DETAIL)
    for _ in range(2):
        await rollup.roll_up()
    assert await figures(ledger) == before
    # Lines that come later, as from a restored backup, are added.
    await database.rows(SEED, {"lines": json.dumps(lines(seed + 9, 100))})
    before = await figures(ledger)
    await rollup.roll_up()
    assert await figures(ledger) == before
    ((oldest, left),) = await database.rows("SELECT min(at), count(*) FROM usage")
    assert oldest >= TODAY - timedelta(days=40)
    assert 0 < left < 500


async def test_usage_of_copies_is_rolled_up_too(database: Database) -> None:
    copies = [line | {"tenant": SHADOW_TENANT} for line in lines(1, 100)]
    await database.rows(SEED, {"lines": json.dumps(copies)})
    ledger, whole = PostgresLedger(FairReads(database)), SumsQuery(None, START, TODAY, ())
    before = await ledger.sums(whole)
    await UsageRollup(database, DETAIL).roll_up()
    assert await ledger.sums(whole) == before
    ((oldest,),) = await database.rows("SELECT min(at) FROM usage")
    assert oldest >= TODAY - timedelta(days=40)


async def test_without_the_setting_every_line_stays(database: Database) -> None:
    await database.rows("INSERT INTO tenants (id) VALUES ('ann'), ('bob')")
    await database.rows(SEED, {"lines": json.dumps(lines(1, 20))})
    await UsageRollup(database, Retention()).roll_up()
    assert await database.rows("SELECT count(*) FROM usage") == [(20,)]


async def test_a_time_zone_that_only_this_machine_knows_is_refused(database: Database) -> None:
    """Python's list of zones has names that PostgreSQL's has not: it was an internal error."""
    await database.rows(SEED, {"lines": json.dumps(lines(1, 50))})
    query = SumsQuery(None, START, TODAY, [UsageGroup.DAY], "posixrules")
    with pytest.raises(InvalidInput, match="posixrules") as refused:
        await PostgresLedger(FairReads(database)).sums(query)
    assert [problem.loc for problem in refused.value.problems] == [("query", "timezone")]

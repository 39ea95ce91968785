"""Rates and budgets of tenants, checked by the statement that stores requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.billing.budgets import BudgetLeft
from serve_app.domain.billing.price import Price, PriceUnit, Quantities
from serve_app.domain.errors import BudgetExhausted, RateLimited
from serve_app.domain.executors.fallback import Fallback
from serve_app.domain.lease import Lease
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.request import Priority, Request, State
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.store.quotas import next_period
from serve_app.settings import BudgetConfig, TenantLimits
from serve_app.tenants.tenants import PostgresTenants, TenantChange
from tests.contract.test_billing_contract import images
from tests.fakes.clock import FakeClock
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import TENANT, failure, lease, make_finish, new, new_id

SQUARE = (1024, 1024)
IMAGE = Price(PriceUnit.IMAGE, Decimal(1))
EURO = replace(IMAGE, currency="EUR")
ONE = {"price": IMAGE, "expected": Quantities(images=1)}


def with_limits(**limits: Any) -> Any:
    return replace(LONG_LEASES, tenants={TENANT: TenantLimits(**limits)})


def budget(amount: int, **more: Any) -> Any:
    return with_limits(budget=BudgetConfig(amount=Decimal(amount), **more))


async def submit_many(queue: PostgresQueue, count: int, **changes: Any) -> Sequence[Any]:
    calls = (queue.submit(new(**changes)) for _ in range(count))
    return await asyncio.gather(*calls, return_exceptions=True)


def count_stored(results: Sequence[Any]) -> int:
    return sum(isinstance(result, Request) for result in results)


def errors(results: Sequence[Any]) -> set[type]:
    return {type(result) for result in results if not isinstance(result, Request)}


async def used_budget(database: Database) -> Decimal:
    rows = await database.rows(
        "SELECT q.reserved - q.settled"
        " - budget_freed(q.tenant, q.currency, q.period, q.settled_at, 'infinity')"
        " FROM tenant_quotas q"
    )
    return rows[0][0] if rows else Decimal(0)


# Rates


async def test_more_requests_than_the_rate_allows_are_refused(ingress: Ingress) -> None:
    queue = await ingress(with_limits(requests_per_minute=6, requests_burst=3))
    results = await submit_many(queue, 5)
    assert (count_stored(results), errors(results)) == (3, {RateLimited})
    refused = next(result for result in results if isinstance(result, RateLimited))
    assert refused.allowance is not None
    assert (rate := refused.allowance.rate) is not None
    assert (rate.limit, rate.remaining) == (6, 0)
    assert 0 < refused.retry_after_s <= 10.0
    assert 20.0 < rate.reset_s <= 30.0
    assert await queue.submit(new(tenant="bob"))


async def test_a_submit_says_what_is_left_of_the_rate(ingress: Ingress) -> None:
    queue = await ingress(with_limits(requests_per_minute=6, requests_burst=3))
    left = [(await queue.submit(new())).allowance for _ in range(2)]
    rates = [
        allowance.rate for allowance in left if allowance is not None and allowance.rate is not None
    ]
    assert [(rate.limit, rate.remaining) for rate in rates] == [(6, 2), (6, 1)]
    assert left[0] is not None
    assert left[0].budget is None
    assert (await queue.submit(new(tenant="bob"))).allowance is None


async def test_a_status_has_no_figures_of_the_submit(ingress: Ingress) -> None:
    queue = await ingress(with_limits(requests_per_minute=6, requests_burst=3))
    stored = await queue.submit(new())
    assert stored.allowance is not None
    assert (await queue.get(TENANT, stored.id)).allowance is None


async def test_calls_come_back_with_time(ingress: Ingress, database: Database) -> None:
    queue = await ingress(with_limits(requests_per_minute=6, requests_burst=1))
    await queue.submit(new())
    with pytest.raises(RateLimited):
        await queue.submit(new())
    await database.rows("UPDATE tenant_quotas SET tat = tat - interval '10 s'")
    await queue.submit(new())


async def test_the_rate_holds_over_all_ingress_replicas(ingress: Ingress) -> None:
    limits = with_limits(requests_per_minute=6, requests_burst=4)
    queues = [await ingress(limits) for _ in range(2)]
    results = await asyncio.gather(*(submit_many(queue, 6) for queue in queues))
    assert sum(map(count_stored, results)) == 4


async def test_what_was_refused_leaves_nothing(ingress: Ingress, database: Database) -> None:
    queue = await ingress(with_limits(requests_per_minute=6, requests_burst=1, max_waiting=3))
    await submit_many(queue, 5)
    for table, rows in (("requests", 1), ("events", 0)):
        assert await database.rows(f"SELECT count(*) FROM {table}") == [(rows,)]
    await database.rows("UPDATE tenant_quotas SET tat = '-infinity'")
    await queue.submit(new())  # refused ones do not count as waiting
    await queue.submit(new(tenant="bob"))


async def test_an_equal_request_that_shares_an_outcome_is_no_work_and_not_limited(
    ingress: Ingress,
) -> None:
    queue = await ingress(with_limits(requests_per_minute=6, requests_burst=1))
    same = {"reuse_digest": b"d" * 32}
    await queue.submit(new(**same))
    await queue.finish(make_finish((await lease(queue)).key, images(SQUARE)))
    assert (await queue.submit(new(**same))).reuses


async def test_tenants_without_limits_are_not_looked_up(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(with_limits(requests_per_minute=6))
    await queue.submit(new(tenant="bob"))
    assert await database.rows("SELECT count(*) FROM tenant_quotas") == [(0,)]


# Budgets


async def test_a_submit_says_what_is_left_of_the_budget(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(budget(5, currency="USD"))
    ((month,),) = await database.rows(
        "SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month') "
        "AT TIME ZONE 'UTC'"
    )
    results = await submit_many(queue, 2, **ONE)
    left = (await queue.submit(new(**ONE))).allowance
    assert left is not None
    assert left.rate is None
    assert left.budget == BudgetLeft(Decimal(5), Decimal(2), "USD", month)
    assert count_stored(results) == 2


@pytest.mark.parametrize(
    ("now", "unit", "then"),
    [
        ((2026, 11, 30, 23, 59), "day", (2026, 12, 1)),
        ((2026, 1, 31, 12), "month", (2026, 2, 1)),
        ((2026, 12, 1, 0), "month", (2027, 1, 1)),
        ((2028, 2, 29, 0), "day", (2028, 3, 1)),
    ],
)
def test_a_period_ends_at_midnight_utc(
    now: tuple[int, int, int, int], unit: str, then: tuple[int, int, int]
) -> None:
    assert next_period(datetime(*now, tzinfo=UTC), unit) == datetime(*then, tzinfo=UTC)


async def test_a_burst_reserves_no_more_than_the_budget(
    ingress: Ingress, database: Database
) -> None:
    queues = [await ingress(budget(5)) for _ in range(2)]
    results = await asyncio.gather(*(submit_many(queue, 8, **ONE) for queue in queues))
    assert sum(map(count_stored, results)) == 5
    assert set().union(*map(errors, results)) == {BudgetExhausted}
    assert await used_budget(database) == 5


async def test_a_request_whose_steps_need_more_than_is_left_is_not_stored(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(budget(5))
    with pytest.raises(BudgetExhausted, match=r"5 USD are left, and this request may cost 6 USD"):
        await queue.submit(new(needed={"USD": Decimal(6)}))
    for needed in ({"USD": Decimal(5)}, {"EUR": Decimal(9)}):
        await queue.submit(new(needed=needed))
    assert await used_budget(database) == 0, "its steps reserve it"


async def test_what_costs_nothing_runs_without_a_budget(ingress: Ingress) -> None:
    queue = await ingress(budget(1))
    await queue.submit(new(**ONE))
    with pytest.raises(BudgetExhausted, match="Exhausted balance"):
        await queue.submit(new(**ONE))
    await queue.submit(new())
    await queue.submit(new(**ONE | {"price": EURO}))


async def test_failures_and_cancelled_requests_give_back_what_they_reserved(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(budget(2))
    first, second = await submit_many(queue, 2, **ONE)
    await queue.finish(make_finish((await lease(queue)).key, failure()))
    assert await used_budget(database) == 1
    for request in (first, second):
        await queue.cancel(TENANT, request.id)
    assert await used_budget(database) == 0
    assert count_stored(await submit_many(queue, 3, **ONE)) == 2


async def test_what_runs_goes_on_and_costs_more_than_it_reserved_at_most_once_each(
    ingress: Ingress, database: Database
) -> None:
    """The bound: a budget is exceeded by no more than what its running requests cost beyond what
    they reserved."""
    queue = await ingress(budget(3))
    price = Price(PriceUnit.GPU_SECOND, Decimal(1))  # nothing was measured: 1 s is expected
    assert count_stored(await submit_many(queue, 5, price=price)) == 3
    running: list[Lease] = [await lease(queue) for _ in range(3)]
    for granted in running:
        await queue.finish(make_finish(granted.key, Outcome(output={}, usage=Usage(run_s=2.5))))
    assert await used_budget(database) == Decimal("7.5")
    assert count_stored(await submit_many(queue, 2, price=price)) == 0


async def test_a_budget_that_does_not_stop_only_counts(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(budget(1, stop=False))
    assert count_stored(await submit_many(queue, 3, **ONE)) == 3
    assert await used_budget(database) == 3


async def test_a_new_period_begins_anew(ingress: Ingress, database: Database) -> None:
    queue = await ingress(budget(1))
    await queue.submit(new(**ONE))
    await database.rows("UPDATE tenant_quotas SET period = period - interval '1 month'")
    await database.rows("UPDATE requests SET created_at = created_at - interval '40 days'")
    await queue.submit(new(**ONE))
    await queue.finish(make_finish((await lease(queue)).key, failure()))  # of the month before
    with pytest.raises(BudgetExhausted):
        await queue.submit(new(**ONE))


async def test_a_new_budget_counts_what_its_period_has_cost(ingress: Ingress) -> None:
    free = await ingress(LONG_LEASES)
    for _ in range(2):
        await free.submit(new(**ONE))
        await free.finish(make_finish((await lease(free)).key, images(SQUARE)))
    queue = await ingress(budget(3))
    before = await queue.budget_left(TENANT)
    assert before is not None
    assert (before.limit, before.remaining, before.currency) == (3, 1, "USD")
    assert count_stored(await submit_many(queue, 3, **ONE)) == 1
    after = await queue.budget_left(TENANT)
    assert after == replace(before, remaining=Decimal(0))


@pytest.mark.long
async def test_what_was_spent_while_there_was_no_budget_counts_when_it_is_set_again(
    ingress: Ingress, database: Database
) -> None:
    tenants = PostgresTenants(database, FakeClock())
    await tenants.create(TENANT, "", {}, Actor("key"))
    fields = {"amount": "4", "currency": "EUR", "period": "month"}
    queue = await ingress(budget(4))
    await submit_many(queue, 2, **ONE)  # one of them stays queued
    await queue.finish(make_finish((await lease(queue)).key, images(SQUARE)))
    await tenants.change(TENANT, TenantChange(limits={"budget": None}), Actor("key"))
    free = await ingress(LONG_LEASES)
    await free.submit(new(**ONE, priority=Priority.HIGH))
    await free.finish(make_finish((await lease(free)).key, images(SQUARE)))
    await tenants.change(TENANT, TenantChange(limits={"budget": fields}), Actor("key"))
    again = await ingress(budget(4))
    left = (await again.submit(new(**ONE))).allowance
    assert left is not None
    assert left.budget is not None
    assert left.budget.remaining == 0  # of four: two that ended, one that waits, and this one


async def test_what_was_spent_while_the_settings_had_no_budget_counts_when_they_have_it_again(
    ingress: Ingress,
) -> None:
    """It was free: the sums of the period went on from where they were."""
    queue = await ingress(budget(4))
    await queue.submit(new(**ONE))
    await queue.finish(make_finish((await lease(queue)).key, images(SQUARE)))
    free = await ingress(LONG_LEASES)
    await free.budgets.warn()
    await free.submit(new(**ONE))
    await free.finish(make_finish((await lease(free)).key, images(SQUARE)))
    again = await ingress(budget(4))
    await again.budgets.warn()
    left = (await again.submit(new(**ONE))).allowance
    assert left is not None
    assert left.budget is not None
    assert left.budget.remaining == 1  # of four: two that ended, and this one


async def test_what_was_reserved_in_another_currency_frees_nothing_of_a_budget(
    ingress: Ingress,
) -> None:
    euros = await ingress(budget(5, currency="EUR"))
    await submit_many(euros, 3, **ONE | {"price": EURO})
    await euros.finish(make_finish((await lease(euros)).key, failure()))
    dollars = await ingress(budget(2))
    assert count_stored(await submit_many(dollars, 3, **ONE)) == 2
    await dollars.finish(make_finish((await lease(dollars)).key, failure()))  # in euros, too
    assert count_stored(await submit_many(dollars, 3, **ONE)) == 0


async def test_what_waits_counts_when_the_budget_has_its_earlier_currency_again(
    ingress: Ingress,
) -> None:
    euros = await ingress(budget(3, currency="EUR"))
    await submit_many(euros, 2, **ONE | {"price": EURO})
    await (await ingress(budget(2))).submit(new(**ONE))
    assert count_stored(await submit_many(euros, 3, **ONE | {"price": EURO})) == 1


async def test_what_only_its_fallback_would_have_cost_is_freed_once(
    ingress: Ingress, database: Database
) -> None:
    """Its line has no price: a sum of the period left it out, but it was freed."""
    there = Fallback("acme/other", "hosted", price=IMAGE, expected=Quantities(images=1))
    queue = await ingress(budget(2))
    await queue.submit(new(fallback=there))
    await queue.finish(make_finish((await lease(queue)).key, images(SQUARE)))
    await (await ingress(LONG_LEASES)).budgets.warn()  # the budget is removed, and set again
    await queue.submit(new(**ONE))
    assert await used_budget(database) == 1


async def test_what_waited_before_there_was_a_budget_counts_when_it_ends(
    ingress: Ingress, database: Database
) -> None:
    """It counted only if it had ended before the first submit under the budget."""
    free = await ingress(LONG_LEASES)
    await submit_many(free, 2, **ONE)
    queue = await ingress(budget(4))
    await queue.submit(new(**ONE))
    await queue.finish(make_finish((await lease(queue)).key, images(SQUARE)))
    await queue.finish(make_finish((await lease(queue)).key, failure()))
    assert await used_budget(database) == 2
    assert count_stored(await submit_many(queue, 3, **ONE)) == 2


async def test_frames_of_a_session_count_that_began_before_the_budget(ingress: Ingress) -> None:
    free = await ingress(LONG_LEASES)
    await free.submit(new(**ONE, priority=Priority.REALTIME))
    session = (await lease(free)).key
    queue = await ingress(budget(5))
    await queue.submit(new(**ONE))
    for _ in range(3):
        await queue.record_frame(session, new_id(), State.SUCCEEDED, Usage(0.1, 1, 0.25))
    left = await queue.budget_left(TENANT)
    assert left is not None
    assert left.remaining == 1


async def test_the_same_is_used_after_lines_are_settled(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress(budget(9))
    await submit_many(queue, 3, **ONE)
    await queue.finish(make_finish((await lease(queue)).key, failure()))
    await queue.finish(make_finish((await lease(queue)).key, images(SQUARE)))
    await database.rows("UPDATE usage SET at = at - interval '2 min'")
    await database.rows("UPDATE tenant_quotas SET settled_at = now() - interval '6 min'")
    before = await used_budget(database)
    await queue.submit(new(**ONE))
    assert (before, await used_budget(database)) == (2, 3)
    assert await database.rows("SELECT settled FROM tenant_quotas") == [(1,)]


async def test_what_is_summed_up_for_a_refused_request_is_not_summed_up_again(
    ingress: Ingress, database: Database
) -> None:
    free = await ingress(LONG_LEASES)
    for _ in range(2):
        await free.submit(new(**ONE))
        await free.finish(make_finish((await lease(free)).key, images(SQUARE)))
    queue = await ingress(budget(2))
    with pytest.raises(BudgetExhausted):
        await queue.submit(new(**ONE))
    assert await used_budget(database) == 2
    assert await database.rows("SELECT unit FROM tenant_quotas") == [("month",)]
    await database.rows("UPDATE tenant_quotas SET settled_at = settled_at - interval '10 min'")
    with pytest.raises(BudgetExhausted):
        await queue.submit(new(**ONE))
    ((settled,),) = await database.rows("SELECT now() - settled_at FROM tenant_quotas")
    assert settled < timedelta(minutes=2)


async def test_a_submit_that_began_before_midnight_reserves_nothing_of_the_new_period(
    ingress: Ingress, database: Database
) -> None:
    """Its end frees nothing there, because it was submitted in the earlier one."""
    queue = await ingress(budget(4))
    await queue.submit(new(**ONE))
    await database.rows("UPDATE tenant_quotas SET period = period + interval '1 month'")
    await queue.submit(new(**ONE))
    assert await database.rows("SELECT reserved FROM tenant_quotas") == [(1,)]


async def test_a_repeat_reserves_nothing(ingress: Ingress, database: Database) -> None:
    same = TenantLimits(budget=BudgetConfig(amount=Decimal(9)))
    queue = await ingress(replace(LONG_LEASES, tenants={TENANT: same, "bob": same}))
    await queue.submit(new(**ONE, tenant="bob"))
    key = {"idempotency_key": "k", "body_digest": b"b" * 32}
    await asyncio.gather(*(queue.submit(new(**ONE, **key)) for _ in range(3)))
    reserved = await database.rows("SELECT tenant, reserved::int FROM tenant_quotas")
    assert dict(reserved) == {TENANT: 1, "bob": 1}


# Warnings


NOTICES = "SELECT key, tenant, payload FROM jobs WHERE kind = 'notice' ORDER BY created_at"


async def test_each_threshold_warns_once_in_a_period(ingress: Ingress, database: Database) -> None:
    queue = await ingress(budget(4, warn_at=(0.5, 1.0), webhook="https://example.com/"))
    await queue.submit(new(**ONE))
    await queue.budgets.warn()
    assert await database.rows(NOTICES) == []
    await queue.submit(new(**ONE))
    for _ in range(2):
        await queue.budgets.warn()
    ((key, tenant, payload),) = await database.rows(NOTICES)
    period = f"{datetime.now(UTC):%Y-%m}-01"
    assert (key, tenant) == (f"{TENANT}:{period}:0.5", TENANT)
    assert (payload["url"], payload["about"]) == ("https://example.com/", key)
    assert datetime.fromisoformat(payload["body"].pop("created_at")).tzinfo is not None
    assert payload["body"] == {
        "type": "budget.warning", "id": key, "tenant": TENANT, "threshold": 0.5, "used": "2",
        "budget": "4", "currency": "USD", "period_start": f"{period}T00:00:00+00:00",
    }  # fmt: skip
    await submit_many(queue, 2, **ONE)
    await queue.budgets.warn()
    assert [row[2]["body"]["threshold"] for row in await database.rows(NOTICES)] == [0.5, 1]
    acts = await database.rows("SELECT subject FROM audit WHERE action = 'budget.warning'")
    assert acts == [(TENANT,), (TENANT,)]


async def test_frames_of_a_session_that_goes_on_in_a_new_period_warn_in_it(
    ingress: Ingress, database: Database
) -> None:
    """Nothing was submitted in it."""
    queue = await ingress(budget(2, warn_at=(0.5,)))
    await queue.submit(new(**ONE, priority=Priority.REALTIME))
    session = (await lease(queue)).key
    await database.rows("UPDATE tenant_quotas SET period = period - interval '1 month'")
    await queue.budgets.warn()
    assert await database.rows("SELECT used FROM budget_warnings") == []
    await queue.record_frame(session, new_id(), State.SUCCEEDED, Usage(0.1, 1, 0.25))
    await queue.budgets.warn()
    assert await database.rows("SELECT used FROM budget_warnings") == [(1,)]


async def test_a_request_that_ends_after_its_period_warns_of_the_budget_in_that(
    ingress: Ingress, database: Database
) -> None:
    """Only the current period was looked at, so what was reached at its end was never told."""
    queue = await ingress(budget(2, warn_at=(0.5, 1.0), webhook="https://example.com/"))
    await queue.submit(new(**ONE))
    await queue.finish(make_finish((await lease(queue)).key, images(SQUARE)))
    before = "date_trunc('month', now(), 'UTC') - interval '1 s'"
    await database.rows("UPDATE tenant_quotas SET period = period - interval '1 month'")
    await database.rows(f"UPDATE usage SET submitted_at = {before}")
    await queue.submit(new(**ONE))  # begins the new period
    for _ in range(2):
        await queue.budgets.warn()
    told = await database.rows(
        "SELECT period < date_trunc('month', now(), 'UTC'), threshold, used FROM budget_warnings"
        " ORDER BY 1"
    )
    assert told == [(False, 0.5, 1), (True, 0.5, 1)]
    assert len({row[0] for row in await database.rows(NOTICES)}) == 2
    await database.rows("UPDATE usage SET at = at - interval '10 min', amount = 2")
    await queue.budgets.warn()
    assert len(await database.rows(NOTICES)) == 2  # nothing of that period has ended lately

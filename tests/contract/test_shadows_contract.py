"""Requests of which copies go to another endpoint: what is copied, once, and what is deleted."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from serve_app.domain.audit.acts import Actor
from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.executors.fallback import FallbackBudget
from serve_app.domain.executors.shadow import (
    LANE_WEIGHT,
    SHADOW_TENANT,
    ShadowCandidate,
    ShadowState,
    is_chosen,
)
from serve_app.domain.operations import PauseKind
from serve_app.domain.ports import Queue
from serve_app.domain.request import Request
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.ingress.submission.shadows import CopyDeletion
from serve_app.jobs.jobs import Jobs
from serve_app.jobs.postgres import PostgresJobs
from serve_app.queue.queue import PostgresQueue
from serve_app.queue.shadows.book import NOT_COVERED
from serve_app.queue.store.config import QueueLimits, Retention
from serve_app.queue.transactions.insert import INSERTS
from serve_app.settings import TenantLimits
from serve_app.telemetry.clock import SystemClock
from tests.contract.queues import Make
from tests.fakes.queue import FakeQueue
from tests.queue.database import Ingress
from tests.queue.requests import TENANT, failure, lease, make_finish, new, new_id

OTHER, POOL = "acme/other", "elsewhere"
CENT, EURO = (Price(PriceUnit.REQUEST, Decimal(amount), "EUR") for amount in ("0.01", "1"))
PEEK = replace(CopyDeletion.kind, lease_s=-1.0)
"""Jobs that are taken are due again at once."""
NEXT_ID = RequestIds(SystemClock())
DAY = FallbackBudget(Decimal(1), "EUR", "day")


KEYED = {"idempotency_key": "once", "body_digest": b"body"}


async def submit_shadowed(queue: Queue, **changes: Any) -> Request:
    fields = {"id": NEXT_ID(), "shadow": OTHER, "price": CENT}
    return await queue.submit(new(**fields | changes))


async def only(queue: Queue) -> ShadowCandidate:
    (candidate,) = await queue.shadows.candidates(10)
    return candidate


async def send_copy(queue: Queue, original: Request, **changes: Any) -> Request:
    """The copy of a request, as a worker stores it."""
    candidate = next(
        entry for entry in await queue.shadows.candidates(100) if entry.original == original.id
    )
    assert await queue.shadows.take(original.id, None, Decimal(0))
    fields: dict[str, Any] = {
        "tenant": SHADOW_TENANT,
        "endpoint": OTHER,
        "pool": POOL,
        "price": EURO,
        "idempotency_key": original.id,
        "body_digest": b"body",
    }
    copy = await queue.submit(new(**fields | changes))
    assert await queue.shadows.mark_sent(candidate, copy.id)
    return copy


def jobs_of(queue: Queue) -> Jobs:
    return queue.shadows.jobs if isinstance(queue, FakeQueue) else PostgresJobs(queue._database)  # type: ignore[attr-defined]


async def unwanted_copies(queue: Queue) -> list[tuple[str, str | None, bool]]:
    """Originals whose copies are to be deleted; the copy, if there is one; and if it is active."""
    rows = list[tuple[str, str | None, bool]]()
    for job in await jobs_of(queue).take(PEEK, 5):
        payload = job.payload
        copy = await queue.shadows.find_copy(job.key, payload["target"], payload["copy"])
        rows.append((job.key, copy and copy.id, copy is not None and copy.active))
    return rows


async def test_a_request_is_a_candidate_once_it_is_stored(queue: Queue) -> None:
    await queue.submit(new())
    request = await submit_shadowed(queue)
    candidate = await only(queue)
    assert (candidate.original, candidate.tenant, candidate.endpoint) == (
        request.id,
        TENANT,
        request.endpoint,
    )
    assert (candidate.target, candidate.state) == (OTHER, ShadowState.WAITING)
    assert candidate.input == {"prompt": "a red circle"}


async def test_a_repeat_is_not_copied_again(queue: Queue) -> None:
    first = await submit_shadowed(queue, **KEYED)
    again = await submit_shadowed(queue, **KEYED)
    assert first.id == again.id
    assert (await only(queue)).original == first.id


async def test_a_request_that_waits_for_an_outcome_is_not_copied(queue: Queue) -> None:
    first = await submit_shadowed(queue, reuse_digest=b"same")
    follower = await submit_shadowed(queue, reuse_digest=b"same")
    assert follower.follows == first.id
    assert (await only(queue)).original == first.id


async def test_a_request_with_a_rate_is_copied_too(make: Make) -> None:
    limits = QueueLimits(tenants={TENANT: TenantLimits(requests_per_minute=60)})
    queue = await make(limits)
    request = await submit_shadowed(queue)
    assert (await only(queue)).original == request.id


async def test_a_pair_shows_states_seconds_prices_and_errors(queue: Queue) -> None:
    request = await submit_shadowed(queue)
    assert await queue.finish(make_finish((await lease(queue)).key))
    copy = await send_copy(queue, request)
    leased = await lease(queue, pool=POOL)
    assert (leased.request_id, leased.endpoint.id) == (copy.id, OTHER)
    await queue.finish(make_finish(leased.key, failure("pipeline_failed")))
    (pair,) = await queue.shadows.page(None, None, 10)
    assert (pair.original, pair.endpoint, pair.target) == (request.id, request.endpoint, OTHER)
    assert pair.first
    assert pair.second
    assert (pair.first.amount, pair.first.currency) == (Decimal("0.01"), "EUR")
    assert pair.second.amount == 0
    assert pair.second.request.outcome
    assert pair.second.request.outcome.failure
    (sums,) = await queue.shadows.sums()
    assert (sums.pairs, sums.failed, sums.median_s) == (1, (0, 1), (1.5, None))
    assert sums.amounts == (Decimal("0.01"), Decimal(0))


async def test_pages_go_on_and_can_be_of_one_endpoint(queue: Queue) -> None:
    first = await submit_shadowed(queue)
    second = await submit_shadowed(queue, endpoint="acme/third")
    newest, *_ = await queue.shadows.page(None, None, 1)
    assert newest.original == second.id
    (older,) = await queue.shadows.page(None, newest.original, 5)
    assert older.original == first.id
    (own,) = await queue.shadows.page("acme/third", None, 5)
    assert own.original == second.id


async def test_nothing_of_a_copy_is_its_originals_tenants(queue: Queue) -> None:
    request = await submit_shadowed(queue)
    copy = await send_copy(queue, request)
    assert await queue.finish(make_finish((await lease(queue, pool=POOL)).key))
    assert [listed.id for listed in await queue.page(TENANT)] == [request.id]
    assert [listed.id for listed in await queue.page(SHADOW_TENANT)] == [copy.id]


async def test_a_budget_counts_a_copy_once_and_refuses_the_next(queue: Queue) -> None:
    first, second = await submit_shadowed(queue), await submit_shadowed(queue)
    cost = Decimal("0.6")
    assert await queue.shadows.take(first.id, DAY, cost)
    assert not await queue.shadows.take(first.id, DAY, cost)  # it is being sent
    assert (await queue.shadows.candidates(1))[0].state is ShadowState.SENDING
    assert not await queue.shadows.take(second.id, DAY, cost)
    skipped, _ = await queue.shadows.page(None, None, 5)
    assert (skipped.state, skipped.reason) == (ShadowState.SKIPPED, NOT_COVERED)
    assert (
        await queue.fallbacks.period_cost(first.endpoint, "EUR") == 0
    )  # that of fallbacks is another


async def test_a_skipped_request_says_why_and_is_no_candidate(queue: Queue) -> None:
    request = await submit_shadowed(queue)
    await queue.shadows.skip(request.id, "It has no field `prompt`.")
    assert not await queue.shadows.candidates(5)
    (pair,) = await queue.shadows.page(None, None, 5)
    assert (pair.state, pair.reason) == (ShadowState.SKIPPED, "It has no field `prompt`.")


@pytest.mark.parametrize("kind", [PauseKind.PAUSED, PauseKind.DRAINING])
async def test_copies_wait_while_their_endpoint_is_paused_or_drained(
    queue: Queue, kind: PauseKind
) -> None:
    """What waits for a paused endpoint does not count as queued, so all copies were, at once."""
    request = await submit_shadowed(queue)
    operator = Actor("k", "")
    halt = queue.operations.pause if kind is PauseKind.PAUSED else queue.operations.drain
    await halt(OTHER, operator)
    assert not await queue.shadows.candidates(5)
    await queue.operations.resume(OTHER, operator)
    assert (await only(queue)).original == request.id


async def test_the_copy_of_a_deleted_request_is_unwanted(queue: Queue) -> None:
    request = await submit_shadowed(queue)
    assert await queue.finish(make_finish((await lease(queue)).key))
    copy = await send_copy(queue, request)
    assert not await unwanted_copies(queue)
    await queue.delete(TENANT, request.id)
    assert not await queue.shadows.page(None, None, 5)
    assert await unwanted_copies(queue) == [(request.id, copy.id, True)]
    await queue.cancel(SHADOW_TENANT, copy.id)
    assert await unwanted_copies(queue) == [(request.id, copy.id, False)]
    await queue.delete(SHADOW_TENANT, copy.id)
    assert await unwanted_copies(queue) == [(request.id, None, False)]


async def test_a_deleted_request_whose_copy_was_not_begun_leaves_nothing(queue: Queue) -> None:
    request = await submit_shadowed(queue)
    assert await queue.finish(make_finish((await lease(queue)).key))
    await queue.delete(TENANT, request.id)
    assert not await unwanted_copies(queue)
    assert not await queue.shadows.candidates(5)
    assert not await queue.shadows.take(request.id, None, Decimal(0))


async def test_a_copy_that_was_stored_before_a_crash_is_found_by_its_key(queue: Queue) -> None:
    request = await submit_shadowed(queue)
    assert await queue.finish(make_finish((await lease(queue)).key))
    assert await queue.shadows.take(request.id, None, Decimal(0))
    key = {"tenant": SHADOW_TENANT, "endpoint": OTHER, "pool": POOL, "body_digest": b"body"}
    copy = await queue.submit(new(idempotency_key=request.id, **key))
    assert (await only(queue)).state is ShadowState.SENDING  # so that it is sent again
    again = await queue.submit(new(idempotency_key=request.id, **key))
    assert again.id == copy.id
    await queue.delete(TENANT, request.id)
    assert await unwanted_copies(queue) == [(request.id, copy.id, True)]


async def test_a_copy_that_is_stored_after_its_original_is_forgotten_is_deleted(
    queue: Queue,
) -> None:
    request = await submit_shadowed(queue)
    candidate = await only(queue)
    assert await queue.finish(make_finish((await lease(queue)).key))
    await queue.delete(TENANT, request.id)
    assert not await unwanted_copies(queue)
    key = {"idempotency_key": request.id, "body_digest": b"body"}
    late = await queue.submit(new(tenant=SHADOW_TENANT, endpoint=OTHER, **key))
    assert not await queue.shadows.mark_sent(replace(candidate, state=ShadowState.SENDING), late.id)
    assert await unwanted_copies(queue) == [(request.id, late.id, True)]


async def test_the_lane_of_copies_is_the_lightest() -> None:
    limits = QueueLimits(tenants={TENANT: TenantLimits(weight=0.1)})
    assert limits.weight(SHADOW_TENANT) == LANE_WEIGHT < limits.weight(TENANT)
    assert limits.metrics_label(SHADOW_TENANT) == SHADOW_TENANT


def test_the_same_share_of_requests_is_chosen_each_time() -> None:
    ids = [new_id() for _ in range(4000)]
    chosen = {id_ for id_ in ids if is_chosen(id_, OTHER, 0.25)}
    assert chosen == {id_ for id_ in ids if is_chosen(id_, OTHER, 0.25)}
    assert 800 < len(chosen) < 1200
    assert chosen < {id_ for id_ in ids if is_chosen(id_, OTHER, 0.5)}
    assert all(is_chosen(id_, OTHER, 1.0) for id_ in ids)


# Over PostgreSQL only: what time does.


async def insert_old_shadow(
    queue: PostgresQueue, *, days: float, state: str = "waiting", tenant: str = TENANT
) -> None:
    """A request that was submitted some days ago."""
    await queue._database.rows(
        f"""
        INSERT INTO shadows (original, tenant, endpoint, target, state)
        SELECT rpad(lpad(to_hex((extract(epoch FROM now() - interval '{days} days') * 1000)::bigint
            ), 12, '0'), 32, '0')::uuid, '{tenant}', 'e', '{OTHER}', '{state}'
        """
    )


async def test_what_has_waited_for_an_hour_is_skipped(ingress: Ingress) -> None:
    queue = await ingress()
    await insert_old_shadow(queue, days=0.1)
    await insert_old_shadow(queue, days=0.01)
    await insert_old_shadow(queue, days=0.2, state="sending")  # paid for, and no room since
    await queue.shadows.tidy()
    pairs = await queue.shadows.page(None, None, 5)
    skipped = ShadowState.SKIPPED
    assert [pair.state for pair in pairs] == [ShadowState.WAITING, skipped, skipped]
    assert all("within an hour" in pair.reason for pair in pairs[1:])


async def test_a_copy_that_was_stored_before_a_crash_is_not_skipped_an_hour_later(
    ingress: Ingress,
) -> None:
    queue = await ingress()
    await insert_old_shadow(queue, days=0.1, state="sending")
    (pair,) = await queue.shadows.page(None, None, 5)
    copy = await queue.submit(
        new(tenant=SHADOW_TENANT, endpoint=OTHER, **KEYED | {"idempotency_key": pair.original})
    )
    await queue.shadows.tidy()
    (pair,) = await queue.shadows.page(None, None, 5)
    assert (pair.state, pair.second and pair.second.request.id) == (ShadowState.SENT, copy.id)


async def test_skipped_requests_are_forgotten_after_a_day(ingress: Ingress) -> None:
    queue = await ingress()
    await insert_old_shadow(queue, days=2, state="skipped")
    await insert_old_shadow(queue, days=0.5, state="skipped")
    await queue.shadows.tidy()
    assert len(await queue.shadows.page(None, None, 5)) == 1


async def test_copies_do_not_outlive_the_files_of_their_originals(ingress: Ingress) -> None:
    queue = await ingress()
    queue.parts.retention.become(
        Retention(tenants={TENANT: TenantLimits(file_retention_days=3), "bob": TenantLimits()})
    )
    for days in (2, 4):
        await insert_old_shadow(queue, days=days, state="sent")
    await insert_old_shadow(queue, days=4.5, state="sent", tenant="bob")
    await queue.shadows.tidy()
    assert len(await unwanted_copies(queue)) == 1


async def test_copies_have_the_usual_age_of_files_if_the_tenant_has_none(ingress: Ingress) -> None:
    queue = await ingress()
    for days in (2, 4):
        await insert_old_shadow(queue, days=days, state="sent")
    own = {TENANT: TenantLimits(file_retention_days=5), "bob": TenantLimits(file_retention_days=1)}
    queue.parts.retention.become(Retention(tenants=own, file_days=3))
    await queue.shadows.tidy()
    assert len(await unwanted_copies(queue)) == 0, "the tenant has its own"
    queue.parts.retention.become(Retention(tenants={"bob": own["bob"]}, file_days=3))
    await queue.shadows.tidy()
    assert len(await unwanted_copies(queue)) == 1


async def test_an_erased_prompt_is_erased_in_its_copy_too(ingress: Ingress) -> None:
    queue = await ingress()
    request = await submit_shadowed(queue)
    assert await queue.finish(make_finish((await lease(queue)).key))
    copy = await send_copy(queue, request)
    await queue._database.rows(
        "UPDATE requests SET forgetting = 'input' WHERE id = %(id)s::uuid", {"id": request.id}
    )
    assert await unwanted_copies(queue) == [(request.id, copy.id, True)]


def test_the_insert_has_no_part_for_copies_that_it_does_not_need() -> None:
    for (_, _, shadowed), text in INSERTS.items():
        assert ("INSERT INTO shadows" in text) == shadowed

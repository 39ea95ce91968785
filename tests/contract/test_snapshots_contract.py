"""Contract of snapshots of running requests, for every ``Queue``."""

from __future__ import annotations

from dataclasses import replace

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.lease import Lease, LeaseKey, Report
from serve_app.domain.ports import Queue
from serve_app.domain.progress import StoredSnapshot
from serve_app.domain.request import State
from tests.contract.queues import Make
from tests.fakes.terms import FakeTerms
from tests.queue.database import QUICK
from tests.queue.requests import TENANT, lease, make_finish, new, report


async def submit_and_lease(queue: Queue) -> Lease:
    await queue.submit(new())
    return await lease(queue)


async def ticket_for(
    queue: Queue, lease_key: LeaseKey
) -> tuple[tuple[LeaseKey, UploadTicket], ...]:
    asking = replace(report(lease_key), wants_tickets=(lease_key,))
    return (await queue.report(asking)).snapshot_tickets


async def keep(queue: Queue, lease_key: LeaseKey, step: int = 3) -> StoredSnapshot:
    """Report a snapshot, like a replica that has uploaded one."""
    ((_, ticket),) = await ticket_for(queue, lease_key)
    kept = StoredSnapshot(ticket.key, step)
    await queue.report(replace(report(lease_key), snapshots=((lease_key, kept),)))
    return kept


async def url_of_the_next(queue: Queue, before: Lease) -> str | None:
    """Snapshot URL of the next attempt, after a hand-back."""
    await queue.hand_back(before.key, "r1", "It drains.")
    return (await lease(queue, "r2")).snapshot_url


async def test_a_first_attempt_has_no_snapshot(queue: Queue) -> None:
    assert (await submit_and_lease(queue)).snapshot_url is None


async def test_a_report_gets_tickets_with_keys_of_their_own(queue: Queue) -> None:
    key = (await submit_and_lease(queue)).key
    ((first_held, first),) = await ticket_for(queue, key)
    ((_, second),) = await ticket_for(queue, key)
    assert first_held == key
    assert first.key != second.key


async def test_an_attempt_that_lost_its_lease_gets_no_ticket(queue: Queue) -> None:
    key = (await submit_and_lease(queue)).key
    await queue.finish(make_finish(key))
    assert await ticket_for(queue, key) == ()


async def test_the_next_attempt_goes_on_from_the_latest(queue: Queue, terms: FakeTerms) -> None:
    granted = await submit_and_lease(queue)
    await keep(queue, granted.key, 3)
    latest = await keep(queue, granted.key, 5)
    assert await url_of_the_next(queue, granted) == terms.state_url(latest.key)
    lines = [line.message for line in await queue.lines(TENANT, granted.request_id)]
    assert "Attempt 2 started on replica r2, from the snapshot at step 5." in lines


async def test_one_that_is_handed_back_with_the_lease_is_the_latest(
    queue: Queue, terms: FakeTerms
) -> None:
    granted = await submit_and_lease(queue)
    await keep(queue, granted.key)
    ((_, ticket),) = await ticket_for(queue, granted.key)
    await queue.hand_back(granted.key, "r1", "It drains.", StoredSnapshot(ticket.key, 7))
    again = await lease(queue, "r2")
    assert again.snapshot_url == terms.state_url(ticket.key)


async def test_a_lost_lease_leaves_the_snapshot(make: Make, terms: FakeTerms) -> None:
    queue = await make(QUICK)
    granted = await submit_and_lease(queue)
    kept = await keep(queue, granted.key)
    request = await queue.wait_for_change(TENANT, granted.request_id, 10.0)
    if request.state is not State.QUEUED:
        request = await queue.wait_for_change(TENANT, granted.request_id, 10.0, request)
    assert request.failures == 0
    assert (await lease(queue, "r2")).snapshot_url == terms.state_url(kept.key)


async def test_a_late_one_of_a_lost_attempt_changes_nothing(queue: Queue, terms: FakeTerms) -> None:
    first = await submit_and_lease(queue)
    kept = await keep(queue, first.key)
    ((_, ticket),) = await ticket_for(queue, first.key)
    await queue.hand_back(first.key, "r1", "It drains.")
    second = await lease(queue, "r2")
    late = Report("r1", (first.key,), snapshots=((first.key, StoredSnapshot(ticket.key, 9)),))
    assert (await queue.report(late)).fenced == (first.key,)
    await queue.hand_back(second.key, "r2", "It drains.")
    assert (await lease(queue, "r3")).snapshot_url == terms.state_url(kept.key)


async def test_a_key_that_is_none_of_the_attempt_s_is_passed_over(queue: Queue) -> None:
    granted = await submit_and_lease(queue)
    foreign = StoredSnapshot("r/somebody/1/elses.png", 3)
    await queue.report(replace(report(granted.key), snapshots=((granted.key, foreign),)))
    assert await url_of_the_next(queue, granted) is None

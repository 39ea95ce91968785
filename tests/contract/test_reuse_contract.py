"""Contract of requests that may reuse an outcome, for every ``Queue``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serve_app.domain.artifact import Artifact
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Queue
from serve_app.domain.request import CancelVerdict, NewRequest, Request, State
from serve_app.postgres.database import Database
from tests.contract.queues import Make
from tests.contract.test_deletion_contract import with_thumbnail
from tests.queue.database import LONG_LEASES, Ingress
from tests.queue.requests import TENANT, ask, failure, lease, make_finish, new


def reusable_request(wish: int = 1, **changes: Any) -> NewRequest:
    return new(reuse_digest=bytes([wish]) * 32, **changes)


def image(request_id: str) -> Outcome:
    artifact = Artifact(f"{request_id}/1/a.png", "image/png", 3, "ab" * 32, width=8, height=8)
    output = {"images": [{"artifact": artifact.key}], "text": "z\0"}
    return Outcome(output=output, artifacts=(artifact,), usage=Usage(1.5, 4, 1.0))


async def run_request(queue: Queue, request: NewRequest) -> Request:
    await queue.submit(request)
    granted = await lease(queue)
    await queue.finish(make_finish(granted.key, image(request.id)))
    return await queue.get(TENANT, request.id)


async def test_the_same_wish_gets_the_outcome_at_once_as_a_request_of_its_own(
    queue: Queue,
) -> None:
    first = await run_request(queue, reusable_request())
    new_request = reusable_request(warnings=("Slow.",), requested_model="acme/any:1")
    second = await queue.submit(new_request)
    assert (first.requested_model, second.requested_model) == ("", "acme/any:1")
    assert (second.id, second.state, second.reuses) == (new_request.id, State.SUCCEEDED, first.id)
    assert first.outcome is not None
    assert second.outcome == replace(first.outcome, usage=Usage())
    assert (second.attempt, first.reuses) == (0, None)
    assert second.finished_at is not None
    assert await queue.get(TENANT, second.id) == second
    assert {listed.id for listed in await queue.page(TENANT)} == {first.id, second.id}
    assert [line.sequence for line in await queue.lines(TENANT, second.id)] == [1, 2]
    assert first.id in (await queue.lines(TENANT, second.id))[-1].message
    assert await queue.cancel(TENANT, second.id) is CancelVerdict.ALREADY_FINAL
    assert not (await queue.ask(ask(1))).leases


async def test_an_outcome_with_thumbnails_is_given_with_them(queue: Queue) -> None:
    request = reusable_request()
    await queue.submit(request)
    granted = await lease(queue)
    outcome = with_thumbnail(image(request.id))
    await queue.finish(make_finish(granted.key, outcome))
    again = await queue.submit(reusable_request())
    assert again.outcome == replace(outcome, usage=Usage())


async def test_what_was_given_is_not_passed_on_but_the_first_is(queue: Queue) -> None:
    first = await run_request(queue, reusable_request())
    answers = [await queue.submit(reusable_request()) for _ in range(3)]
    assert {answer.reuses for answer in answers} == {first.id}


async def test_another_wish_or_tenant_and_who_does_not_share_make_their_own(queue: Queue) -> None:
    await run_request(queue, reusable_request())
    for other in (reusable_request(2), reusable_request(tenant="bob"), new()):
        assert (await queue.submit(other)).state is State.QUEUED


async def test_what_did_not_allow_it_is_not_given_away(queue: Queue) -> None:
    await run_request(queue, new())
    assert (await queue.submit(reusable_request())).state is State.QUEUED


async def test_only_success_is_given(queue: Queue) -> None:
    await queue.submit(reusable_request())
    granted = await lease(queue)
    assert (await queue.submit(reusable_request())).state is State.QUEUED
    await queue.finish(make_finish(granted.key, failure()))
    assert (await queue.submit(reusable_request())).state is State.QUEUED


async def test_an_outcome_is_given_also_when_nothing_more_may_wait(make: Make) -> None:
    queue = await make(replace(LONG_LEASES, max_waiting=1, max_waiting_per_tenant=1))
    await run_request(queue, reusable_request())
    await queue.submit(new())
    assert (await queue.submit(reusable_request())).state is State.SUCCEEDED


async def test_with_an_idempotency_key_too_it_is_stored_once(queue: Queue) -> None:
    await run_request(queue, reusable_request())
    keyed = {"idempotency_key": "k", "body_digest": bytes(32)}
    first = await queue.submit(reusable_request(**keyed))
    again = await queue.submit(reusable_request(**keyed))
    assert (first.state, again.id) == (State.SUCCEEDED, first.id)


@pytest.mark.parametrize("gone", [True, False])
async def test_an_outcome_whose_artifacts_were_deleted_is_not_given(
    ingress: Ingress, database: Database, gone: bool
) -> None:
    queue = await ingress()
    first = await run_request(queue, reusable_request())
    if gone:
        await database.rows("DELETE FROM artifacts")
    second = await queue.submit(reusable_request())
    assert second.reuses == (None if gone else first.id)


async def test_nothing_is_billed_for_an_outcome_that_was_there(
    ingress: Ingress, database: Database
) -> None:
    queue = await ingress()
    await run_request(queue, reusable_request())
    second = await queue.submit(reusable_request())
    rows = await database.rows(
        "SELECT state, attempt, run_s, steps, units FROM usage WHERE request_id = %(id)s::uuid",
        {"id": second.id},
    )
    assert rows == [("succeeded", 0, 0.0, 0, 0.0)]

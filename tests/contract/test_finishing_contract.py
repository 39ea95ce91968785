"""Contract of reports, finishes and hand-backs by replicas, for every ``Queue``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from serve_app.domain.lease import (
    LeaseKey,
    Verdict,
)
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Queue
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import State
from tests.queue.database import LONG_LEASES
from tests.queue.requests import (
    TENANT,
    ask,
    failure,
    lease,
    make_finish,
    new,
    new_id,
    report,
)


async def test_a_finished_request_has_its_outcome(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    waiting = asyncio.create_task(queue.wait(TENANT, request.id, 5.0))
    await asyncio.sleep(0.05)
    finish = make_finish(granted.key)
    assert await queue.finish(finish) is Verdict.ACCEPTED
    ended = await waiting
    assert ended.state is State.SUCCEEDED
    assert ended.outcome == finish.outcome
    assert ended.finished_at is not None
    assert ended.progress is None
    assert await queue.get(TENANT, request.id) == ended


async def test_half_of_a_surrogate_pair_in_an_output_is_stored_as_a_question_mark(
    queue: Queue,
) -> None:
    """No protocol could send it, and each read of the outcome would have to look for it."""
    request = await queue.submit(new())
    granted = await lease(queue)
    outcome = Outcome(output={"text": "half \ud83e", "texts": ["\ud83e", "\U0001f98a"]})
    assert await queue.finish(make_finish(granted.key, outcome)) is Verdict.ACCEPTED
    ended = await queue.current(TENANT, request.id)
    assert ended.outcome is not None
    assert ended.outcome.output == {"text": "half ?", "texts": ["?", "\U0001f98a"]}


async def test_a_repeated_finish_is_accepted_and_changes_nothing(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    assert await queue.finish(make_finish(granted.key)) is Verdict.ACCEPTED
    before = await queue.get(TENANT, request.id)
    assert await queue.finish(make_finish(granted.key)) is Verdict.ACCEPTED
    assert await queue.finish(make_finish(granted.key, failure())) is Verdict.ACCEPTED
    assert await queue.get(TENANT, request.id) == before
    both = await asyncio.gather(*(queue.finish(make_finish(granted.key)) for _ in range(8)))
    assert set(both) == {Verdict.ACCEPTED}


async def test_a_late_attempt_is_fenced(queue: Queue) -> None:
    request = await queue.submit(new())
    old = (await lease(queue)).key
    assert await queue.hand_back(old, "r1", "draining") is Verdict.ACCEPTED
    young = (await lease(queue, "r2")).key
    assert (young.request_id, young.attempt) == (request.id, 2)
    assert await queue.finish(make_finish(old)) is Verdict.FENCED
    assert (await queue.report(report(old))).fenced == (old,)
    assert await queue.hand_back(replace(young, attempt=7), "r1", "?") is Verdict.FENCED
    assert await queue.finish(make_finish(LeaseKey(new_id(), 1))) is Verdict.FENCED
    assert await queue.finish(make_finish(young)) is Verdict.ACCEPTED


async def test_a_lease_of_the_same_number_that_the_database_has_forgotten_is_fenced(
    queue: Queue,
) -> None:
    """A failover that lost the last transactions gives an attempt number away a second time."""
    request = await queue.submit(new())
    young = (await lease(queue)).key
    forgotten = replace(young, nonce=young.nonce - 1)
    reply = await queue.report(
        replace(report(young, Progress(Stage.DENOISING, 1, 4)), renewals=(young, forgotten))
    )
    assert reply.fenced == (forgotten,)
    # In one batch, and each alone.
    verdicts = await asyncio.gather(
        queue.finish(make_finish(forgotten, failure())), queue.hand_back(forgotten, "r9", "?")
    )
    assert verdicts == [Verdict.FENCED, Verdict.FENCED]
    both = await asyncio.gather(
        queue.finish(make_finish(forgotten, failure())), queue.finish(make_finish(young))
    )
    assert both == [Verdict.FENCED, Verdict.ACCEPTED]
    assert await queue.finish(make_finish(forgotten)) is Verdict.FENCED
    assert (await queue.get(TENANT, request.id)).state is State.SUCCEEDED


async def test_a_failure_that_no_retry_helps_is_final(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    await queue.finish(make_finish(granted.key, failure()))
    ended = await queue.get(TENANT, request.id)
    assert ended.state is State.FAILED
    assert ended.outcome == failure()


async def test_a_retryable_failure_is_tried_again_until_too_many(queue: Queue) -> None:
    request = await queue.submit(new())
    for attempt in range(1, LONG_LEASES.max_failures + 1):
        granted = await lease(queue)
        assert granted.attempt == attempt
        await queue.finish(make_finish(granted.key, failure("out_of_memory", retryable=True)))
        assert await queue.finish(make_finish(granted.key)) is Verdict.ACCEPTED
    ended = await queue.get(TENANT, request.id)
    assert ended.state is State.FAILED
    assert ended.failures == LONG_LEASES.max_failures
    assert ended.outcome == failure("out_of_memory", retryable=True)


async def test_a_handed_back_request_keeps_its_place(queue: Queue) -> None:
    first = await queue.submit(new())
    granted = await lease(queue)
    second = await queue.submit(new())
    assert await queue.hand_back(granted.key, "r1", "scaling down") is Verdict.ACCEPTED
    assert await queue.hand_back(granted.key, "r1", "scaling down") is Verdict.ACCEPTED
    work = await queue.ask(ask(2))
    assert [grant.request_id for grant in work.leases] == [first.id, second.id]
    assert (await queue.get(TENANT, first.id)).failures == 0


async def test_progress_is_shown_while_it_runs(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    watching = asyncio.create_task(queue.wait_for_change(TENANT, request.id, 5.0))
    await asyncio.sleep(0.05)
    progress = Progress(Stage.DENOISING, 2, 4)
    await queue.report(report(granted.key, progress=[(granted.key, progress)]))
    assert (await watching).progress == progress
    assert (await queue.get(TENANT, request.id)).progress == progress


async def test_a_download_is_reported_in_bytes(queue: Queue) -> None:
    request = await queue.submit(new())
    granted = await lease(queue)
    downloading = Progress(Stage.DOWNLOADING, 3 * 10**9, 33 * 10**9)
    await queue.report(report(granted.key, progress=[(granted.key, downloading)]))
    assert (await queue.get(TENANT, request.id)).progress == downloading


async def test_changed_returns_at_once_when_the_caller_saw_something_older(queue: Queue) -> None:
    seen = await queue.submit(new())
    granted = await lease(queue)
    began = time.monotonic()
    running = await queue.wait_for_change(TENANT, seen.id, 120.0, since=seen)
    assert running.state is State.RUNNING
    assert time.monotonic() - began < 60.0
    await queue.finish(make_finish(granted.key))
    assert (await queue.wait_for_change(TENANT, seen.id, 5.0)).state.final


async def test_wait_returns_the_request_as_it_is_after_its_time(queue: Queue) -> None:
    request = await queue.submit(new())
    began = time.monotonic()
    assert (await queue.wait(TENANT, request.id, 0.2)).state is State.QUEUED
    assert 0.15 <= time.monotonic() - began < 30.0

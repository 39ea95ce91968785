"""Contract of cancelling, for every ``Queue``."""

from __future__ import annotations

import asyncio
import time

from serve_app.domain.lease import (
    Signal,
    SignalKind,
    Verdict,
    Work,
)
from serve_app.domain.ports import Queue
from serve_app.domain.request import CancelVerdict, State
from tests.contract.queues import Make
from tests.queue.database import LONG_ASKS, QUICK
from tests.queue.requests import (
    TENANT,
    ask,
    failure,
    lease,
    make_finish,
    new,
    report,
)


async def test_a_cancelled_request_never_starts(queue: Queue) -> None:
    request = await queue.submit(new())
    assert await queue.cancel(TENANT, request.id) is CancelVerdict.CANCELLED
    assert await queue.cancel(TENANT, request.id) is CancelVerdict.ALREADY_FINAL
    assert await queue.ask(ask(1)) == Work()
    ended = await queue.get(TENANT, request.id)
    assert ended.state is State.CANCELLED
    assert ended.outcome is not None
    assert ended.outcome.failure is not None
    assert ended.outcome.failure.code == "cancelled"


async def test_a_cancel_reaches_the_replica_that_runs_it(make: Make) -> None:
    queue = await make(LONG_ASKS)
    request = await queue.submit(new())
    key = (await lease(queue)).key
    asking = asyncio.create_task(queue.ask(ask(0, key)))
    await asyncio.sleep(0.05)
    assert await queue.cancel(TENANT, request.id) is CancelVerdict.REQUESTED
    assert (await asking).signals == (Signal(SignalKind.CANCEL, key),)
    assert (await queue.report(report(key))).cancelled == (key,)
    assert (await queue.get(TENANT, request.id)).cancel_requested
    assert await queue.finish(make_finish(key, failure("cancelled"))) is Verdict.ACCEPTED
    assert (await queue.get(TENANT, request.id)).state is State.CANCELLED


async def test_a_cancel_between_two_polls_is_reported_at_the_next(make: Make) -> None:
    queue = await make(LONG_ASKS)
    request = await queue.submit(new())
    key = (await lease(queue)).key
    await queue.cancel(TENANT, request.id)
    began = time.monotonic()
    assert (await queue.ask(ask(1, key))).signals == (Signal(SignalKind.CANCEL, key),)
    assert time.monotonic() - began < 30.0


async def test_a_signal_does_not_make_the_replica_spin(queue: Queue) -> None:
    request = await queue.submit(new())
    key = (await lease(queue)).key
    await queue.cancel(TENANT, request.id)
    assert (await queue.ask(ask(0, key))).signals
    assert await queue.ask(ask(0, key)) == Work()


async def test_a_finish_that_is_quicker_than_the_cancel_counts(queue: Queue) -> None:
    request = await queue.submit(new())
    key = (await lease(queue)).key
    await queue.cancel(TENANT, request.id)
    assert await queue.finish(make_finish(key)) is Verdict.ACCEPTED
    assert (await queue.get(TENANT, request.id)).state is State.SUCCEEDED


async def test_what_would_be_tried_again_is_cancelled_if_that_was_asked(make: Make) -> None:
    queue = await make(QUICK)
    ids: list[str] = []
    for ending in ("failure", "hand_back", "lost"):
        request = await queue.submit(new())
        ids.append(request.id)
        key = (await lease(queue)).key
        await queue.cancel(TENANT, request.id)
        if ending == "failure":
            await queue.finish(make_finish(key, failure("out_of_memory", retryable=True)))
        elif ending == "hand_back":
            await queue.hand_back(key, "r1", "draining")
        assert (await queue.wait(TENANT, request.id, 60.0)).state is State.CANCELLED


async def test_cancels_racing_finishes_end_each_request_once(queue: Queue) -> None:
    ids = [(await queue.submit(new())).id for _ in range(12)]
    leases = (await queue.ask(ask(12))).leases
    acts = [queue.finish(make_finish(grant.key)) for grant in leases]
    acts += [queue.cancel(TENANT, id_) for id_ in ids]  # type: ignore[misc]
    await asyncio.gather(*acts)
    for id_ in ids:
        assert (await queue.get(TENANT, id_)).state is State.SUCCEEDED
        finals = [line for line in await queue.lines(TENANT, id_) if line.message == "Succeeded."]
        assert len(finals) == 1

"""Contract of event streams: over the fake and over PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serve_app.domain.ports import Queue
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import Request, State
from serve_app.ingress.api.events import KEEP_ALIVE_S, stream
from tests.contract.queues import Make
from tests.contract.waiting import eventually
from tests.queue.database import LONG_LEASES
from tests.queue.requests import TENANT, lease, make_finish, new, report


def read(text: str) -> tuple[str | None, str, dict[str, Any]] | None:
    """``id``, name and data of one event; None for a comment or a ``retry``."""
    fields = dict(line.split(": ", 1) for line in text.strip().splitlines() if line[0] != ":")
    if "event" not in fields:
        return None
    return fields.get("id"), fields["event"], json.loads(fields["data"])


async def collect_events(
    queue: Queue, request_id: str, after: int = 0, so_far: list[Any] | None = None
) -> list[Any]:
    """All events of a stream to its end; ``so_far`` grows with it."""
    events = [] if so_far is None else so_far
    request = await queue.get(TENANT, request_id)
    async with asyncio.timeout(120):
        async for text in stream(queue, request, after, keep_alive_s=0.2):
            event = read(text.decode())
            if event is not None:
                events.append(event)
    return events


async def test_the_log_is_read_from_behind_a_line_and_contains_states(make: Make) -> None:
    queue = await make()
    request = await queue.submit(new(warnings=("Mind.",)))
    granted = await lease(queue)
    await queue.finish(make_finish(granted.key))
    lines = await queue.lines(TENANT, request.id)
    assert [line.sequence for line in lines] == [1, 2, 3, 4]
    states = [State.QUEUED, None, State.RUNNING, State.SUCCEEDED]
    assert [line.state for line in lines] == states
    assert list(await queue.lines(TENANT, request.id, after=2)) == list(lines[2:])
    assert list(await queue.lines(TENANT, request.id, after=4)) == []
    assert (await queue.get(TENANT, request.id)).events == 4


async def test_a_line_in_the_log_is_a_change(make: Make) -> None:
    queue = await make()
    request = await queue.submit(new())
    waiting = asyncio.create_task(queue.wait_for_change(TENANT, request.id, 10.0, since=request))
    await queue.log(request.id, ("INFO", "Hello."))
    assert (await waiting).events == 2


async def test_a_watcher_gets_everything_in_order_and_is_then_let_go(make: Make) -> None:
    queue = await make(LONG_LEASES)
    request = await queue.submit(new())
    received: list[Any] = []
    watching = asyncio.create_task(collect_events(queue, request.id, so_far=received))
    granted = await lease(queue)
    at_work = Progress(Stage.DENOISING, 2, 4)
    await queue.report(report(granted.key, progress=[(granted.key, at_work)]))

    async def seen() -> bool:
        return any(name == "progress" for _, name, _ in received)

    await eventually(seen)
    await queue.finish(make_finish(granted.key))
    await watching
    durable = [(id_, data["state"]) for id_, name, data in received if name == "state"]
    assert durable == [("1", "queued"), ("2", "running"), ("3", "succeeded")]
    progress = [(id_, data["step"]) for id_, name, data in received if name == "progress"]
    assert progress == [(None, 2)]
    assert received[-1][2]["state"] == "succeeded"


async def test_who_comes_back_gets_the_rest_without_gap_or_repetition(make: Make) -> None:
    queue = await make()
    request = await queue.submit(new())
    for n in range(20):
        await queue.log(request.id, ("INFO", f"Line {n}."))
    granted = await lease(queue)
    await queue.finish(make_finish(granted.key))
    whole = [id_ for id_, _, _ in await collect_events(queue, request.id)]
    assert whole == [str(n) for n in range(1, 24)]
    for cut in (0, 1, 7, 22):
        assert [id_ for id_, _, _ in await collect_events(queue, request.id, cut)] == whole[cut:]
    assert await collect_events(queue, request.id, 23) == []


async def test_a_quiet_stream_is_kept_open_by_comments(make: Make) -> None:
    queue = await make()
    request = await queue.submit(new())
    quiet = stream(queue, request, 0, keep_alive_s=0.05)
    messages = [await anext(quiet) for _ in range(2)]
    assert [text[:1] for text in messages] == [b"r", b"i"]
    async with asyncio.timeout(120):
        while messages.count(b": nothing new\n\n") < 2:
            messages.append(await anext(quiet))
            # the reason of the wait may change
            assert messages[-1].startswith((b":", b"event: waiting\n"))
    await quiet.aclose()


async def test_a_stream_that_looks_where_a_request_stands_is_not_silent_for_longer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await make()
    request = await queue.submit(new())
    silent: list[float] = []  # waits since the last event

    async def unchanged(_tenant: str, _id: str, wait_s: float, since: Request) -> Request:
        silent.append(wait_s)
        return since

    monkeypatch.setattr(queue, "wait_for_change", unchanged)
    watching = stream(queue, request, 0)
    for _ in range(6):
        silent.clear()
        await anext(watching)
        assert sum(silent) <= KEEP_ALIVE_S
    assert len(silent) > 1  # it did look in between
    await watching.aclose()


@pytest.mark.long
async def test_300_watchers_of_300_requests_are_all_notified(make: Make) -> None:
    queue = await make(LONG_LEASES)
    ids = [(await queue.submit(new())).id for _ in range(300)]
    watching = [asyncio.create_task(collect_events(queue, id_)) for id_ in ids]
    await asyncio.sleep(0)
    for id_ in ids:
        await queue.cancel(TENANT, id_)
    for received in await asyncio.gather(*watching):
        states = [data["state"] for _, name, data in received if name == "state"]
        assert states == ["queued", "cancelled"]

"""Contract of redaction: inputs and outcomes of requests that are not to be kept, for every
``Queue``.
"""

from __future__ import annotations

import asyncio

from serve_app.domain.ports import Queue
from serve_app.domain.request import Redacted, Request
from tests.contract.test_deletion_contract import image, new_request
from tests.queue.requests import TENANT, lease, make_finish

INPUT = {"prompt": "a secret\0", "sync_mode": True, "seed": 7}


async def forgot(queue: Queue, request_id: str, what: Redacted) -> Request:
    """The request once ``what`` is the next part of it to be redacted."""

    async def until() -> Request:
        while True:
            stored = await queue.get(TENANT, request_id)
            if stored.forgetting is what:
                return stored
            await asyncio.sleep(0.01)

    return await asyncio.wait_for(until(), 10)


async def test_the_input_is_there_for_the_replica_and_gone_after_the_end(queue: Queue) -> None:
    request = new_request(input=INPUT, store_io=False)
    stored = await queue.submit(request)
    assert stored.forgetting is Redacted.INPUT
    granted = await lease(queue)
    assert granted.input == INPUT
    assert not granted.describe_files, "or its prompt would be in its files"
    await queue.finish(make_finish(granted.key, image(request.id)))
    redacted = await forgot(queue, request.id, Redacted.OUTCOME)
    assert redacted.input == {"sync_mode": True}
    assert redacted.outcome == image(request.id)
    assert [listed.input for listed in await queue.page(TENANT)] == [{"sync_mode": True}]


async def test_what_is_kept_is_not_forgotten_beside_it(queue: Queue) -> None:
    kept, gone = new_request(input=INPUT), new_request(input=INPUT, store_io=False)
    for request in (kept, gone):
        await queue.submit(request)
        await queue.finish(make_finish((await lease(queue)).key))
    await forgot(queue, gone.id, Redacted.OUTCOME)
    stored = await queue.get(TENANT, kept.id)
    assert (stored.input, stored.forgetting) == (INPUT, None)


async def test_what_was_cancelled_is_forgotten_too(queue: Queue) -> None:
    request = new_request(input=INPUT, store_io=False)
    await queue.submit(request)
    await queue.cancel(TENANT, request.id)
    assert (await forgot(queue, request.id, Redacted.OUTCOME)).input == {"sync_mode": True}


async def test_what_is_forgotten_can_be_deleted_with_its_files(queue: Queue) -> None:
    request = new_request(input=INPUT, store_io=False)
    await queue.submit(request)
    await queue.finish(make_finish((await lease(queue)).key, image(request.id)))
    await forgot(queue, request.id, Redacted.OUTCOME)
    assert await queue.delete(TENANT, request.id) == [f"r/{request.id}/1/a.png"]

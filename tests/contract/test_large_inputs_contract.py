"""An input with embedded images is complete for its replica, and short for every other reader."""

import asyncio

import pytest

from serve_app.domain.ports import Queue
from serve_app.domain.request import NewRequest, Redacted, State
from tests.contract.test_forgetting_contract import forgot
from tests.queue.requests import TENANT, ask, lease, make_finish, new

IMAGE = "data:image/png;base64," + "iVBO" * 50_000
WHOLE = {
    "prompt": "a red circle",
    "image_url": IMAGE,
    "image_urls": [IMAGE, "b"],
    "seed": 7,
    "sync_mode": True,
    "loras": [{"path": "/a.safetensors", "scale": 0.5}],
}
ABBREVIATED = WHOLE | {
    "image_url": f"{IMAGE[:100]}… (200022 characters)",
    "image_urls": "… (200030 characters of JSON)",
}


def large(**changes: object) -> NewRequest:
    return new(input=WHOLE, **changes)


async def test_it_is_listed_abbreviated_and_leased_whole(queue: Queue) -> None:
    request = await queue.submit(large())
    assert request.input == ABBREVIATED
    assert (await queue.get(TENANT, request.id)).input == ABBREVIATED
    granted = await lease(queue)
    assert granted.input == WHOLE
    assert (await queue.get(TENANT, request.id)).input == ABBREVIATED
    await queue.finish(make_finish(granted.key))
    assert (await queue.get(TENANT, request.id)).input == ABBREVIATED


async def test_an_ask_that_waits_for_it_gets_it_whole(queue: Queue) -> None:
    asking = asyncio.create_task(queue.ask(ask()))
    await asyncio.sleep(0.05)  # it is complete either way; usually it waits
    request = await queue.submit(large())
    (granted,) = (await asking).leases or (await queue.ask(ask())).leases
    assert (granted.request_id, granted.input) == (request.id, WHOLE)


async def test_a_list_abbreviates_it(queue: Queue) -> None:
    await queue.submit(large())
    assert [listed.input for listed in await queue.page(TENANT)] == [ABBREVIATED]


async def test_a_second_attempt_gets_it_whole_too(queue: Queue) -> None:
    await queue.submit(large())
    first = await lease(queue)
    await queue.hand_back(first.key, "r1", "It closes.")
    assert (await lease(queue, replica="r2")).input == WHOLE


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_repeat_of_it_gets_it_abbreviated(queue: Queue, keyed: bool) -> None:
    same = {"idempotency_key": "k"} if keyed else {"reuse_digest": b"r" * 32}
    request = await queue.submit(large(body_digest=b"b" * 32, **same))
    await queue.finish(make_finish((await lease(queue)).key))
    again = await queue.submit(large(body_digest=b"b" * 32, **same))
    assert (again.id == request.id) is keyed
    assert again.state is State.SUCCEEDED
    assert again.input == ABBREVIATED


async def test_it_can_be_forgotten(queue: Queue) -> None:
    request = await queue.submit(large(store_io=False))
    await queue.finish(make_finish((await lease(queue)).key))
    stored = await forgot(queue, request.id, Redacted.OUTCOME)
    assert stored.input == {"sync_mode": True}


async def test_one_of_many_fields_is_abbreviated(queue: Queue) -> None:
    many = {f"field-{n}": "x" * 2000 for n in range(100)}
    request = await queue.submit(new(input=many))
    assert len(request.input) == 65
    assert request.input["…"] == "36 more fields"
    assert (await lease(queue)).input == many

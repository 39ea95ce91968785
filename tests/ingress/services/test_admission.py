"""Calls of one tenant beside those of another: who has many in work waits, and nobody else does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx
import pytest

from serve_app.domain.json_size import MAX_VALUES
from serve_app.domain.request import NewRequest, Request
from serve_app.domain.sharing.admission import CALLS, BodyMemory, OpenCalls
from serve_app.ingress.fal import requests
from serve_app.ingress.http import file_readers
from tests.deployments.waiting import until
from tests.fakes.queue import FakeQueue
from tests.ingress.house import House, build_house

SUBMIT, RUN = "/queue/test/probe", "/run/test/probe"
SHARE = CALLS // 2
PATIENCE_S = 120.0
"""Ends what hangs."""


class SlowStore:
    """Requests of the tenant ``default`` are stored once ``released``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrived = 0
        self.released = asyncio.Event()
        store = FakeQueue.submit

        async def submit(queue: FakeQueue, new: NewRequest, *most: Any) -> Request:
            if new.tenant == "default":
                self.arrived += 1
                await self.released.wait()
            return await store(queue, new, *most)

        monkeypatch.setattr(FakeQueue, "submit", submit)

    async def submits(
        self, client: httpx.AsyncClient, n: int
    ) -> list[asyncio.Task[httpx.Response]]:
        return [asyncio.create_task(client.post(SUBMIT, json={})) for _ in range(n)]


def statuses(answers: list[httpx.Response]) -> set[int]:
    return {answer.status_code for answer in answers}


async def test_beside_another_tenant_only_some_calls_are_worked_on_and_the_others_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        build_house(replica=False) as house,
        house.client() as mallory,
        house.client(house.other_key) as bob,
    ):
        slow = SlowStore(monkeypatch)
        assert (await bob.post(SUBMIT, json={})).status_code == 200
        calls = await slow.submits(mallory, 3 * CALLS)
        await until(lambda: slow.arrived == SHARE)
        assert (await bob.post(SUBMIT, json={})).status_code == 200
        assert slow.arrived == SHARE
        slow.released.set()
        assert statuses(await asyncio.gather(*calls)) == {200}


async def test_a_tenant_alone_has_all_its_calls_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        build_house(replica=False) as house,
        house.client() as client,
    ):
        slow = SlowStore(monkeypatch)
        calls = await slow.submits(client, 5 * CALLS)
        await until(lambda: slow.arrived == 5 * CALLS)
        slow.released.set()
        assert statuses(await asyncio.gather(*calls)) == {200}


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """Nothing that is queued here ever runs."""
    async with build_house(replica=False) as ingress:
        yield ingress


async def slow_body(go_on: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"{"
    await go_on.wait()
    yield b"}"


FAL_STATUS = "/queue/test/probe/requests/{id}/status"
WAITS: dict[str, Callable[[httpx.AsyncClient, str, asyncio.Event], Awaitable[httpx.Response]]] = {
    "a run until its end": lambda client, _, __: client.post(RUN, json={}),
    "a slow client's submit": lambda client, _, go_on: client.post(
        SUBMIT, content=slow_body(go_on)
    ),
    "a slow client's upload": lambda client, _, go_on: client.post(
        "/cdn/files/upload", content=slow_body(go_on), headers={"content-type": "text/plain"}
    ),
    "a change of a request": lambda client, id_, _: client.get(f"/v1/requests/{id_}?wait=60"),
    "a prediction until its end": lambda client, _, __: client.post(
        "/replicate/v1/models/test/probe/predictions",
        json={"input": {}},
        headers={"prefer": "wait=60"},
    ),
    "an assistant until the end": lambda client, id_, _: client.post(
        "/mcp",
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "wait", "arguments": {"request_id": id_, "wait_s": 60}},
        },
        headers={"accept": "application/json, text/event-stream"},
    ),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
async def test_whoever_waits_holds_up_no_other_call_of_the_tenant(
    house: House,
    wait: Callable[[httpx.AsyncClient, str, asyncio.Event], Awaitable[httpx.Response]],
) -> None:
    go_on = asyncio.Event()
    async with (
        asyncio.timeout(PATIENCE_S),
        house.client() as client,
        house.client(house.other_key) as bob,
    ):
        submitted = await client.post(SUBMIT, json={})
        id_ = submitted.json()["request_id"]
        await bob.get("/v1/requests")
        waiting = [asyncio.ensure_future(wait(client, id_, go_on)) for _ in range(2 * CALLS)]
        for _ in range(20):
            await asyncio.sleep(0)  # those that wait have their turns first
            assert (await client.post(SUBMIT, json={})).status_code == 200
            assert (await bob.get("/v1/requests")).status_code == 200
        assert [call.result().text for call in waiting if call.done()] == []
        for waiter in waiting:
            waiter.cancel()
        go_on.set()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_polls_that_are_held_back_hold_up_no_other_call_of_the_tenant(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "HOLD_S", 60.0)
    async with (
        asyncio.timeout(PATIENCE_S),
        house.client() as client,
        house.client(house.other_key) as bob,
    ):
        submitted = await client.post(SUBMIT, json={})
        status = FAL_STATUS.format(id=submitted.json()["request_id"])
        assert (await client.get(status)).status_code == 202
        await bob.get("/v1/requests")
        polls = [asyncio.create_task(client.get(status)) for _ in range(2 * CALLS)]
        for _ in range(20):
            await asyncio.sleep(0)
            assert (await client.post("/queue/test/other", json={})).status_code in (200, 404)
            await bob.get("/v1/requests")
        assert not any(task.done() for task in polls)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


async def test_a_body_of_too_many_values_is_refused_before_it_is_parsed() -> None:
    content = b'{"echo":[' + b"0," * MAX_VALUES + b"0]}"
    async with (
        build_house(replica=False, max_body_bytes=16 << 20) as large,
        large.client() as client,
    ):
        answer = await client.post(SUBMIT, content=content)
    assert answer.status_code == 413
    assert "more than 250000 values" in answer.json()["message"]


async def test_no_other_call_waits_for_passes_over_an_input_of_many_values(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    look = file_readers._private_urls

    def noted(input: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        threads.append(threading.get_ident())
        return look(input)

    monkeypatch.setattr(file_readers, "_private_urls", noted)
    async with house.client() as client:
        for echo in ([0], [0] * 100_000):
            answer = await client.post(SUBMIT, json={"echo": echo})
            assert answer.status_code == 200
    assert threads[0] == threading.get_ident()
    assert threads[1] != threading.get_ident()


async def test_bodies_wait_for_memory_and_those_of_another_tenant_do_not(house: House) -> None:
    size = 1 << 18
    house.services.admission.bodies = BodyMemory(4 * size)
    go_on = asyncio.Event()
    begun = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal begun
        begun += 1
        content = json.dumps({"echo": "x" * (size // 2)}).encode()
        yield content[:1000]
        await go_on.wait()
        yield content[1000:].ljust(size - 1000)

    def send(client: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
        headers = {"content-length": str(size), "content-type": "application/json"}
        return asyncio.create_task(client.post(SUBMIT, content=body(), headers=headers))

    async with (
        asyncio.timeout(PATIENCE_S),
        house.client() as mallory,
        house.client(house.other_key) as bob,
    ):
        memory = house.services.admission.bodies
        first = [send(mallory) for _ in range(5)]
        await until(lambda: begun == 5)
        await until(lambda: memory.used_bytes == 2 * size)
        second = send(bob)
        await until(lambda: memory.used_bytes == 3 * size)
        go_on.set()
        assert statuses(await asyncio.gather(*first, second)) == {200}
        await until(lambda: memory.used_bytes == 0)


async def test_memory_of_a_body_is_free_while_its_run_waits(house: House) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"echo":"'
        yield b"x" * (1 << 18) + b'"}'

    async with asyncio.timeout(PATIENCE_S), house.client() as client:
        run = asyncio.create_task(client.post(RUN, content=body()))
        await until(lambda: house.queue.count_unfinished("test/probe") == 1)
        await until(lambda: house.services.admission.bodies.used_bytes == 0)
        assert not run.done()
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


async def test_a_tenant_s_streams_leave_room_for_the_calls_of_others(house: House) -> None:
    house.services.admission.open_calls = OpenCalls(8)
    async with (
        asyncio.timeout(PATIENCE_S),
        house.client() as mallory,
        house.client(house.other_key) as bob,
    ):
        submitted = await mallory.post(SUBMIT, json={})
        status = f"/v1/requests/{submitted.json()['request_id']}?wait=60"
        streams = [asyncio.create_task(mallory.get(status)) for _ in range(4)]
        open_calls = house.services.admission.open_calls
        await until(lambda: open_calls.number == 4)
        refused = await mallory.get("/v1/requests")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "5"
        assert "You have 4 open calls and streams" in refused.json()["message"]
        assert (await bob.post(SUBMIT, json={})).status_code == 200
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        await until(lambda: open_calls.number == 0)
        assert (await mallory.get("/v1/requests")).status_code == 200

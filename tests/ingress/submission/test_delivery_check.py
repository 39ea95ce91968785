"""Lost responses to submits, for keys that have them detected."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serve_app.domain.errors import StorageFull
from tests.ingress.fal.test_run import scope
from tests.ingress.house import House, build_house


class Client:
    """Client side of one call, which may disconnect."""

    def __init__(self, *, leaves_at: str = "") -> None:
        self._leaves_at = leaves_at
        self._left = asyncio.Event()
        self._body = [{"type": "http.request", "body": b'{"echo": 1}', "more_body": False}]
        self.got = b""

    async def receive(self) -> Any:
        if self._body:
            return self._body.pop()
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self._left.is_set():
            return  # as servers do with data that the client does not read
        self.got += message.get("body", b"")
        if message["type"] == self._leaves_at:
            self._left.set()

    def leave(self) -> None:
        self._left.set()

    async def submit(self, house: House, key: str) -> None:
        await house.app(submit_scope(house, key), self.receive, self.send)


def submit_scope(house: House, key: str) -> Any:
    called = scope(house)
    called["path"] = "/queue/test/probe"
    called["headers"][0] = (b"authorization", f"Key {key}".encode())
    return called


async def replaying_key(house: House) -> str:
    return str(await house.keys.create("default", replay_undelivered=True))


async def submitted_again(house: House, key: str) -> tuple[str, bool]:
    """Submit again. Return the request, and whether the response says that it is a repeat."""
    async with house.client(key) as client:
        answer = await client.post("/queue/test/probe", json={"echo": 1})
    assert answer.status_code == 200
    return answer.json()["request_id"], answer.headers.get("x-darkroom-replayed") == "1"


async def the_only_one(house: House) -> str:
    (request,) = await house.queue.page("default")
    return request.id


@pytest.mark.parametrize("leaves_at", ["http.response.start", "http.response.body"])
async def test_a_client_that_leaves_before_the_end_of_the_answer_gets_it_at_its_next_try(
    idle: House, leaves_at: str
) -> None:
    key = await replaying_key(idle)
    await Client(leaves_at=leaves_at).submit(idle, key)
    await idle.services.background.join()
    first = await the_only_one(idle)
    assert await submitted_again(idle, key) == (first, True)
    assert (await submitted_again(idle, key))[1] is False


class HeldRoom:
    """Blocks a submit at the check of the disk, until ``commit``."""

    def __init__(self) -> None:
        self.storing, self.commit = asyncio.Event(), asyncio.Event()

    async def check(self) -> None:
        self.storing.set()
        await self.commit.wait()


@pytest.mark.parametrize("how", ["is seen to leave", "is given up by the server"])
async def test_a_client_that_leaves_while_its_request_is_stored_gets_it_at_its_next_try(
    how: str,
) -> None:
    room = HeldRoom()
    async with build_house(replica=False, room=room.check) as house:
        key = await replaying_key(house)
        client = Client()
        call = asyncio.create_task(client.submit(house, key))
        await room.storing.wait()
        if how == "is seen to leave":
            client.leave()
        else:
            call.cancel()
        room.commit.set()
        await asyncio.gather(call, return_exceptions=True)
        await house.services.background.join()
        assert client.got == b""
        assert await submitted_again(house, key) == (await the_only_one(house), True)


async def test_a_client_that_tries_again_before_its_request_is_stored_waits_for_that() -> None:
    room = HeldRoom()
    async with build_house(replica=False, room=room.check) as house:
        key = await replaying_key(house)
        first = asyncio.create_task(Client().submit(house, key))
        await room.storing.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        again = asyncio.create_task(submitted_again(house, key))
        await asyncio.sleep(0.05)
        assert not again.done()
        room.commit.set()
        assert await again == (await the_only_one(house), True)


async def test_a_client_that_tries_again_where_nothing_could_be_stored_is_not_held_up() -> None:
    storing, refuse = asyncio.Event(), asyncio.Event()
    refused: list[bool] = []

    async def room() -> None:
        storing.set()
        await refuse.wait()
        if not refused:
            refused.append(True)
            raise StorageFull("The disk is full.")

    async with build_house(replica=False, room=room) as house:
        key = await replaying_key(house)
        first = asyncio.create_task(Client().submit(house, key))
        await storing.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        again = asyncio.create_task(submitted_again(house, key))
        await asyncio.sleep(0.05)
        refuse.set()
        assert await again == (await the_only_one(house), False)


async def test_an_answer_that_arrived_is_not_given_again(idle: House) -> None:
    key = await replaying_key(idle)
    first, _ = await submitted_again(idle, key)
    second, replayed = await submitted_again(idle, key)
    assert (replayed, first == second) == (False, False)


async def test_a_key_that_does_not_ask_for_it_gets_a_new_request(idle: House) -> None:
    await Client(leaves_at="http.response.start").submit(idle, idle.weak_key)
    await idle.services.background.join()
    assert (await submitted_again(idle, idle.weak_key))[1] is False
    assert len(await idle.queue.page("default")) == 2


async def test_the_answer_is_whole(idle: House) -> None:
    key, client = await replaying_key(idle), Client()
    await client.submit(idle, key)
    assert client.got.startswith(b'{"status":"IN_QUEUE"')
    assert client.got.endswith(b"}")
    assert (await the_only_one(idle)).encode() in client.got

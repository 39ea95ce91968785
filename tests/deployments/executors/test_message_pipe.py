"""Messages between the ingress and an app's session: who waits for whom, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from deployments.executors.session import MAX_UNREAD, MAX_WAITING, MessagePipe
from serve_app.domain.errors import Fenced
from serve_app.domain.realtime import AppMessages, AppSessionRules, SessionEnd
from tests.fakes.clock import FakeClock


def pipe(silence_s: float = 30.0, **rules: object) -> tuple[MessagePipe, list[bytes | str]]:
    """An open pipe, and what the app gets by it."""
    message_pipe = MessagePipe(AppSessionRules(**rules), FakeClock(), silence_s)  # type: ignore[arg-type]
    got: list[bytes | str] = []
    message_pipe.open(got.append)
    return message_pipe, got


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_app_with_one_answer_for_each_gets_two_messages_before_it_answers() -> None:
    message_pipe, got = pipe(mode="unary")
    sending = [asyncio.create_task(message_pipe.send(str(number))) for number in range(3)]
    await settle()
    message_pipe.read(2, waits=True)
    await settle()
    assert got == ["0", "1"]
    await message_pipe.keep("answer")
    await asyncio.gather(*sending)
    assert got == ["0", "1", "2"]


async def test_an_app_that_drops_messages_itself_gets_all_that_it_reads() -> None:
    message_pipe, got = pipe(mode="unary", buffering=2)
    for number in range(100):
        await message_pipe.send(str(number))
        message_pipe.read(number + 1, waits=True)
    assert len(got) == 100


@pytest.mark.parametrize("mode", ["bidi", "websocket", "client_streaming"])
async def test_an_app_that_does_not_read_gets_no_more(mode: str) -> None:
    message_pipe, got = pipe(mode=mode)
    sending = asyncio.create_task(_send(message_pipe, 2 * MAX_UNREAD))
    await settle()
    assert len(got) == MAX_UNREAD
    message_pipe.read(MAX_UNREAD, waits=False)
    await sending
    assert len(got) == 2 * MAX_UNREAD


async def _send(message_pipe: MessagePipe, number: int) -> None:
    for index in range(number):
        await message_pipe.send(str(index))


async def test_an_app_waits_while_nobody_takes_its_messages() -> None:
    message_pipe, _ = pipe()
    for number in range(MAX_WAITING):
        await message_pipe.keep(str(number))
    waiting = asyncio.create_task(message_pipe.keep("last"))
    await settle()
    assert not waiting.done()
    assert len((await message_pipe.take(1.0)).messages) == MAX_WAITING
    await waiting
    assert (await message_pipe.take(1.0)).messages == ("last",)


async def test_only_the_time_in_which_the_app_waits_for_its_client_is_idle() -> None:
    clock = FakeClock()
    message_pipe = MessagePipe(AppSessionRules(mode="unary"), clock)
    message_pipe.open(lambda _: None)
    clock.advance(5)
    assert (await message_pipe.take(0)).idle_s == 0, "it begins"
    message_pipe.read(0, waits=True)
    assert (await message_pipe.take(0)).idle_s == 5
    await message_pipe.send("x")
    message_pipe.read(1, waits=True)
    clock.advance(60)
    assert (await message_pipe.take(0)).idle_s == 0, "it computes"
    await message_pipe.keep("answer")
    await message_pipe.take(0)
    clock.advance(7)
    assert (await message_pipe.take(0)).idle_s == 7


async def test_the_end_comes_after_the_messages_and_is_the_first_one() -> None:
    message_pipe, _ = pipe()
    await message_pipe.keep("last")
    message_pipe.close(SessionEnd(4000, "first"))
    message_pipe.close(SessionEnd(1011, "second"))
    assert await message_pipe.take(1.0) == AppMessages(("last",), end=SessionEnd(4000, "first"))
    with pytest.raises(Fenced):
        await message_pipe.send("x")
    message_pipe.leave()
    await message_pipe.wait_until_left()


async def test_a_session_ends_when_its_ingress_is_gone_and_not_while_it_asks() -> None:
    clock = FakeClock()
    message_pipe = MessagePipe(AppSessionRules(), clock, silence_s=0.02)
    message_pipe.open(lambda _: None)
    asking = asyncio.create_task(message_pipe.take(600.0))
    leaving = asyncio.create_task(message_pipe.wait_until_left())
    await settle()
    clock.advance(60)
    await settle()
    assert not leaving.done()
    asking.cancel()
    await settle()
    clock.advance(1)
    async with asyncio.timeout(60):
        await leaving

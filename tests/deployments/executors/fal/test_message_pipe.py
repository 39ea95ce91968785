"""Messages between the ingress and an app's session: who waits for whom, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from deployments.executors.fal.session import MAX_UNREAD, MAX_WAITING, MessagePipe
from serve_app.domain.errors import Fenced
from serve_app.domain.realtime import AppMessages, AppSessionRules, SessionEnd
from tests.fakes.clock import FakeClock


def pipe(silence_s: float = 30.0, **rules: object) -> tuple[MessagePipe, list[bytes | str]]:
    """An open pipe, and what the app gets by it."""
    made = MessagePipe(AppSessionRules(**rules), FakeClock(), silence_s)  # type: ignore[arg-type]
    got: list[bytes | str] = []
    made.open(got.append)
    return made, got


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_app_with_one_answer_for_each_gets_two_messages_before_it_answers() -> None:
    made, got = pipe(mode="unary")
    sending = [asyncio.create_task(made.send(str(number))) for number in range(3)]
    await settled()
    made.read(2, waits=True)
    await settled()
    assert got == ["0", "1"]
    await made.keep("answer")
    await asyncio.gather(*sending)
    assert got == ["0", "1", "2"]


async def test_an_app_that_drops_messages_itself_gets_all_that_it_reads() -> None:
    made, got = pipe(mode="unary", buffering=2)
    for number in range(100):
        await made.send(str(number))
        made.read(number + 1, waits=True)
    assert len(got) == 100


@pytest.mark.parametrize("mode", ["bidi", "websocket", "client_streaming"])
async def test_an_app_that_does_not_read_gets_no_more(mode: str) -> None:
    made, got = pipe(mode=mode)
    sending = asyncio.create_task(_send(made, 2 * MAX_UNREAD))
    await settled()
    assert len(got) == MAX_UNREAD
    made.read(MAX_UNREAD, waits=False)
    await sending
    assert len(got) == 2 * MAX_UNREAD


async def _send(made: MessagePipe, number: int) -> None:
    for each in range(number):
        await made.send(str(each))


async def test_an_app_waits_while_nobody_takes_its_messages() -> None:
    made, _ = pipe()
    for number in range(MAX_WAITING):
        await made.keep(str(number))
    waiting = asyncio.create_task(made.keep("last"))
    await settled()
    assert not waiting.done()
    assert len((await made.take(1.0)).messages) == MAX_WAITING
    await waiting
    assert (await made.take(1.0)).messages == ("last",)


async def test_only_the_time_in_which_the_app_waits_for_its_client_is_idle() -> None:
    clock = FakeClock()
    made = MessagePipe(AppSessionRules(mode="unary"), clock)
    made.open(lambda _: None)
    clock.advance(5)
    assert (await made.take(0)).idle_s == 0, "it begins"
    made.read(0, waits=True)
    assert (await made.take(0)).idle_s == 5
    await made.send("x")
    made.read(1, waits=True)
    clock.advance(60)
    assert (await made.take(0)).idle_s == 0, "it computes"
    await made.keep("answer")
    await made.take(0)
    clock.advance(7)
    assert (await made.take(0)).idle_s == 7


async def test_the_end_comes_after_the_messages_and_is_the_first_one() -> None:
    made, _ = pipe()
    await made.keep("last")
    made.close(SessionEnd(4000, "first"))
    made.close(SessionEnd(1011, "second"))
    assert await made.take(1.0) == AppMessages(("last",), end=SessionEnd(4000, "first"))
    with pytest.raises(Fenced):
        await made.send("x")
    made.leave()
    await made.left()


async def test_a_session_ends_when_its_ingress_is_gone_and_not_while_it_asks() -> None:
    clock = FakeClock()
    made = MessagePipe(AppSessionRules(), clock, silence_s=0.02)
    made.open(lambda _: None)
    asking = asyncio.create_task(made.take(600.0))
    leaving = asyncio.create_task(made.left())
    await settled()
    clock.advance(60)
    await settled()
    assert not leaving.done()
    asking.cancel()
    await settled()
    clock.advance(1)
    async with asyncio.timeout(60):
        await leaving

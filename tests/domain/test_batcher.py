"""Calls that go together: who waits for whom, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from deployments.gathering import Gathering

LONG_S = 30.0


class Calls:
    """Records calls, and answers when the test says so. An item under 0 is refused."""

    def __init__(self, gather_s: float = LONG_S) -> None:
        self.made: list[tuple[int, ...]] = []
        self.cancelled: list[tuple[int, ...]] = []
        self.open = asyncio.Event()
        self.changed = asyncio.Event()
        self.broken: Exception | None = None
        self.gathering: Gathering[int, int] = Gathering(self.one, self.many, gather_s)

    async def one(self, item: int) -> int:
        await self._answer((item,))
        return item * 2

    async def many(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        await self._answer(tuple(items))
        return [ValueError(str(item)) if item < 0 else item * 2 for item in items]

    async def until_made(self, count: int) -> None:
        await self.until(lambda: len(self.made) >= count)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONG_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def put(self, *items: int) -> list[asyncio.Task[int]]:
        return [asyncio.create_task(self.gathering.call(item)) for item in items]

    async def _answer(self, items: tuple[int, ...]) -> None:
        self.made.append(items)
        self.changed.set()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(items)
            self.changed.set()
            raise
        if self.broken is not None:
            raise self.broken


async def test_a_call_that_finds_none_under_way_is_made_at_once() -> None:
    calls = Calls()
    calls.open.set()
    assert await calls.gathering.call(1) == 2
    assert await calls.gathering.call(2) == 4
    assert calls.made == [(1,), (2,)]


async def test_calls_that_come_meanwhile_go_together_in_the_next() -> None:
    calls = Calls()
    tasks = calls.put(1, 2, 3, 4)
    await calls.until_made(1)
    calls.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert calls.made == [(1,), (2, 3, 4)]


async def test_an_error_of_one_is_nobody_elses() -> None:
    calls = Calls()
    tasks = calls.put(1, 2, -3, 4)
    await calls.until_made(1)
    calls.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["2", "4", "-3", "8"]
    assert isinstance(answers[2], ValueError)


async def test_a_call_that_fails_fails_for_all_that_went_with_it_and_the_next_one_is_made() -> None:
    calls = Calls()
    tasks = calls.put(1, 2, 3)
    await calls.until_made(1)
    calls.broken = ConnectionError("away")
    calls.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError] * 3
    calls.broken = None
    assert await calls.gathering.call(4) == 8


async def test_a_call_that_hangs_does_not_hold_up_those_after_it() -> None:
    calls = Calls(gather_s=0.01)
    first, *others = calls.put(1, 2, 3)
    await calls.until_made(2)
    assert calls.made == [(1,), (2, 3)]
    assert not first.done()
    calls.open.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6]


async def test_who_gives_up_while_waiting_is_not_sent() -> None:
    calls = Calls()
    tasks = calls.put(1, 2, 3)
    await calls.until_made(1)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    calls.open.set()
    assert await asyncio.gather(tasks[0], tasks[2]) == [2, 6]
    assert calls.made == [(1,), (3,)]


async def test_a_call_that_everybody_has_given_up_is_cancelled() -> None:
    calls = Calls(gather_s=0.01)
    tasks = calls.put(1, 2, 3)
    await calls.until_made(2)
    for task in tasks:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[2]
    await calls.until(lambda: len(calls.cancelled) == 2)
    assert sorted(calls.cancelled) == [(1,), (2, 3)]
    calls.open.set()
    assert await calls.gathering.call(4) == 8

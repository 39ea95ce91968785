"""Batches: which calls share one, which wait and for how long, and whom an error reaches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from serve_app.domain.batcher import Batcher
from serve_app.domain.errors import DatabaseUnavailable


class Recorder:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append([*items])
        await self.gate.wait()
        if 13 in items:
            raise ValueError(13)
        if 99 in items:
            raise DatabaseUnavailable("away")
        return [item * 2 for item in items]


async def test_one_call_goes_at_once() -> None:
    run = Recorder()
    assert await Batcher(run).call(4) == 8
    assert run.batches == [[4]]


async def test_calls_that_come_meanwhile_go_together_in_their_order() -> None:
    run = Recorder()
    run.gate.clear()
    batcher = Batcher(run, in_flight=1)
    first = asyncio.create_task(batcher.call(0))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(batcher.call(n)) for n in range(1, 6)]
    await asyncio.sleep(0.01)
    run.gate.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
    assert run.batches == [[0], [1, 2, 3, 4, 5]]


async def test_heavy_ones_go_by_themselves_and_light_ones_together() -> None:
    run = Recorder()
    run.gate.clear()
    batcher = Batcher(run, in_flight=1, weigh=lambda n: n, max_weight=10)
    calls = [asyncio.create_task(batcher.call(n)) for n in (1, 2, 3, 8, 50, 4, 6, 1)]
    await asyncio.sleep(0.01)
    run.gate.set()
    await asyncio.gather(*calls)
    assert run.batches == [[1, 2, 3], [8], [50], [4, 6], [1]]


async def test_an_item_that_cannot_be_done_does_not_hurt_its_neighbours() -> None:
    run = Recorder()
    answers = await asyncio.gather(*(Batcher.call(run_, n) for run_, n in _same(run, 12, 13, 14)),
                                   return_exceptions=True)  # fmt: skip
    assert answers[0] == 24
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 28


async def test_when_the_database_is_away_all_clients_hear_of_it_at_once() -> None:
    run = Recorder()
    answers = await asyncio.gather(
        *(batcher.call(n) for batcher, n in _same(run, 98, 99)), return_exceptions=True
    )
    assert all(isinstance(answer, DatabaseUnavailable) for answer in answers)
    assert len(run.batches) == 1


async def test_a_caller_that_goes_away_does_not_stop_the_batch() -> None:
    run = Recorder()
    run.gate.clear()
    batcher = Batcher(run)
    gone, stays = (asyncio.create_task(batcher.call(n)) for n in (1, 2))
    await asyncio.sleep(0.01)
    gone.cancel()
    run.gate.set()
    assert await stays == 4
    with pytest.raises(asyncio.CancelledError):
        await gone
    await batcher.aclose()


def _same(run: Recorder, *items: int) -> list[tuple[Batcher[int, int], int]]:
    batcher: Batcher[int, int] = Batcher(run)
    return [(batcher, item) for item in items]


LONG_S = 30.0


class Calls:
    """Calls of a replica to its ingress, recorded and answered when the test allows it. Items below
    0 are refused.
    """

    def __init__(self, patience_s: float = LONG_S) -> None:
        self.made: list[tuple[int, ...]] = []
        self.cancelled: list[tuple[int, ...]] = []
        self.open = asyncio.Event()
        self.changed = asyncio.Event()
        self.broken: Exception | None = None
        self.batcher: Batcher[int, int] = Batcher(
            self.run, in_flight=1, patience_s=patience_s, retry_singly=False, cancel_unwanted=True
        )

    async def run(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        await self._answer(tuple(items))
        return [ValueError(str(item)) if item < 0 else item * 2 for item in items]

    async def until_made(self, count: int) -> None:
        await self.until(lambda: len(self.made) >= count)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONG_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def put_first(self, first: int, *items: int) -> list[asyncio.Task[int]]:
        """Make a call, and the others while it is in flight."""
        task = asyncio.create_task(self.batcher.call(first))
        await self.until_made(1)
        others = [asyncio.create_task(self.batcher.call(item)) for item in items]
        await asyncio.sleep(0)  # they have called
        return [task, *others]

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
    assert await calls.batcher.call(1) == 2
    assert await calls.batcher.call(2) == 4
    assert calls.made == [(1,), (2,)]


async def test_calls_that_come_meanwhile_go_together_in_the_next() -> None:
    calls = Calls()
    tasks = await calls.put_first(1, 2, 3, 4)
    calls.open.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6, 8]
    assert calls.made == [(1,), (2, 3, 4)]


async def test_an_error_of_one_is_no_one_elses() -> None:
    calls = Calls()
    tasks = await calls.put_first(1, 2, -3, 4)
    calls.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["2", "4", "-3", "8"]
    assert isinstance(answers[2], ValueError)


async def test_a_call_that_fails_fails_for_all_that_went_with_it_and_the_next_one_is_made() -> None:
    calls = Calls()
    tasks = await calls.put_first(1, 2, 3)
    calls.broken = ConnectionError("away")
    calls.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError] * 3
    calls.broken = None
    assert await calls.batcher.call(4) == 8


async def test_a_call_that_hangs_does_not_hold_up_those_after_it() -> None:
    calls = Calls(patience_s=0.01)
    first, *others = await calls.put_first(1, 2, 3)
    await calls.until_made(2)
    assert calls.made == [(1,), (2, 3)]
    assert not first.done()
    calls.open.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6]


async def test_who_gives_up_while_waiting_is_not_sent() -> None:
    calls = Calls()
    tasks = await calls.put_first(1, 2, 3)
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    calls.open.set()
    assert await asyncio.gather(tasks[0], tasks[2]) == [2, 6]
    assert calls.made == [(1,), (3,)]


async def test_a_call_that_everybody_has_given_up_is_cancelled() -> None:
    calls = Calls(patience_s=0.01)
    tasks = await calls.put_first(1, 2, 3)
    await calls.until_made(2)
    for task in tasks:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[2]
    await calls.until(lambda: len(calls.cancelled) == 2)
    assert sorted(calls.cancelled) == [(1,), (2, 3)]
    calls.open.set()
    assert await calls.batcher.call(4) == 8


async def test_calls_of_the_same_moment_are_one_batch() -> None:
    calls = Calls()
    calls.open.set()
    assert await asyncio.gather(*(calls.batcher.call(n) for n in (1, 2, 3))) == [2, 4, 6]
    assert calls.made == [(1, 2, 3)]


async def test_held_calls_go_together_once_they_may() -> None:
    run, holds = Recorder(), True
    batcher = Batcher(run)
    batcher.hold_while(lambda: holds)
    calls = [asyncio.create_task(batcher.call(n)) for n in (1, 2, 3)]
    await asyncio.sleep(0.01)
    batcher.resume()
    assert run.batches == []
    holds = False
    batcher.resume()
    assert await asyncio.gather(*calls) == [2, 4, 6]
    assert run.batches == [[1, 2, 3]]

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from serve_app.domain.errors import DatabaseUnavailable
from serve_app.queue.batcher import Batcher


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
    assert await Batcher(run).put(4) == 8
    assert run.batches == [[4]]


async def test_calls_that_come_meanwhile_go_together_in_their_order() -> None:
    run = Recorder()
    run.gate.clear()
    batcher = Batcher(run, in_flight=1)
    first = asyncio.create_task(batcher.put(0))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(batcher.put(n)) for n in range(1, 6)]
    await asyncio.sleep(0.01)
    run.gate.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
    assert run.batches == [[0], [1, 2, 3, 4, 5]]


async def test_heavy_ones_go_by_themselves_and_light_ones_together() -> None:
    run = Recorder()
    run.gate.clear()
    batcher = Batcher(run, in_flight=1, weigh=lambda n: n, max_weight=10)
    calls = [asyncio.create_task(batcher.put(n)) for n in (1, 2, 3, 8, 50, 4, 6, 1)]
    await asyncio.sleep(0.01)
    run.gate.set()
    await asyncio.gather(*calls)
    assert run.batches == [[1, 2, 3], [8], [50], [4, 6], [1]]


async def test_an_item_that_cannot_be_done_does_not_hurt_its_neighbours() -> None:
    run = Recorder()
    answers = await asyncio.gather(*(Batcher.put(run_, n) for run_, n in _same(run, 12, 13, 14)),
                                   return_exceptions=True)  # fmt: skip
    assert answers[0] == 24
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 28


async def test_when_the_database_is_away_all_are_told_at_once() -> None:
    run = Recorder()
    answers = await asyncio.gather(
        *(batcher.put(n) for batcher, n in _same(run, 98, 99)), return_exceptions=True
    )
    assert all(isinstance(answer, DatabaseUnavailable) for answer in answers)
    assert len(run.batches) == 1


async def test_a_caller_that_goes_away_does_not_stop_the_batch() -> None:
    run = Recorder()
    run.gate.clear()
    batcher = Batcher(run)
    gone, stays = (asyncio.create_task(batcher.put(n)) for n in (1, 2))
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

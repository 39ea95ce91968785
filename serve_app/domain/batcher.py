"""Natural batching: what comes while a statement is under way goes together in the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from serve_app.domain.errors import DarkroomError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Gathers calls into batches without ever waiting for more to come.

    ``run`` gets a batch and returns the answers in its order; an answer that is an exception is
    raised for its own caller alone. If ``run`` itself raises something that is not one of
    Darkroom's errors (the database refused one item's data), each item is tried alone, so that none
    suffers from its neighbours. A caller that goes away does not stop the batch.

    What ``weigh`` says of a batch's items together is at most ``max_weight``, unless it is of one.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | BaseException]]],
        *,
        in_flight: int = 2,
        max_batch: int = 128,
        weigh: Callable[[Item], int] = lambda _: 0,
        max_weight: int = 0,
    ) -> None:
        self._run = run
        self._in_flight = in_flight
        self._max_batch = max_batch
        self._weigh = weigh
        self._max_weight = max_weight
        self._pending: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def put(self, item: Item) -> Answer:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._pending.append((item, future))
        if not self._scheduled:
            # Not at once: whoever else is ready in this turn of the loop comes along.
            self._scheduled = True
            loop.call_soon(self._pump)
        # Without a shield: who goes away cancels the future, which then gets no answer.
        return await future

    async def aclose(self) -> None:
        """Wait until everything that was put is done."""
        while self._running or self._pending:
            await asyncio.gather(*self._running, return_exceptions=True)
            await asyncio.sleep(0)

    def _pump(self) -> None:
        self._scheduled = False
        while self._pending and len(self._running) < self._in_flight:
            task = asyncio.create_task(self._do(self._next_batch()))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch = [self._pending.popleft()]
        weight = self._weigh(batch[0][0])
        while self._pending and len(batch) < self._max_batch:
            weight += self._weigh(self._pending[0][0])
            if weight > self._max_weight:
                break
            batch.append(self._pending.popleft())
        return batch

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._pump()

    async def _do(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._run([item for item, _ in batch])
        except DarkroomError as error:
            for _, future in batch:
                _settle(future, error)
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0][1], error)
                return
            for each in batch:
                await self._do([each])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                _settle(future, answer)


def _settle(future: asyncio.Future[Answer], answer: Answer | BaseException) -> None:
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
        future.exception()  # seen: nobody may be left to fetch it
    else:
        future.set_result(answer)

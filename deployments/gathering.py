"""Calls that come while one is under way go together in the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

GATHER_S = 0.02
"""So long a call waits for the one before it. Then it goes on its own way: what is before it may
hang in a process that is stuck."""


class Gathering(Generic[Item, Answer]):
    """A call that finds none under way is sent at once, by itself. Use it on one event loop.

    ``one`` makes a single call, ``many`` several in one; of its answers, which are in the order of
    the items, those that are exceptions are raised for their own callers alone.
    """

    def __init__(
        self,
        one: Callable[[Item], Awaitable[Answer]],
        many: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | BaseException]]],
        gather_s: float = GATHER_S,
    ) -> None:
        self._one = one
        self._many = many
        self._gather_s = gather_s
        self._under_way = 0
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def call(self, item: Item) -> Answer:
        if self._under_way == 0:
            self._under_way += 1
            try:
                return await self._one(item)
            finally:
                self._ended()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, future))
        if self._timer is None:
            self._timer = loop.call_later(self._gather_s, self._send)
        return await future

    def _ended(self) -> None:
        self._under_way -= 1
        self._send()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Without those whose callers have given up.
        batch = [each for each in self._waiting if not each[1].done()]
        self._waiting = []
        if batch:
            self._under_way += 1
            task = asyncio.create_task(self._do(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            for _, future in batch:
                future.add_done_callback(lambda _: _end_unwanted(task, batch))

    async def _do(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._many([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                _settle(future, error)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                _settle(future, answer)
        finally:
            self._ended()


def _settle(future: asyncio.Future[Answer], answer: Answer | BaseException) -> None:
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _end_unwanted(
    task: asyncio.Task[None], batch: Sequence[tuple[Item, asyncio.Future[Answer]]]
) -> None:
    """A call for which nobody waits any more is cancelled."""
    if all(future.cancelled() for _, future in batch):
        task.cancel()

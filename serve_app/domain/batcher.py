"""Batching of calls: those that arrive while a batch is in flight share the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from serve_app.domain.errors import DarkroomError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Group calls into batches without ever waiting for more calls. Use on one event loop.

    ``run`` gets a batch and returns the answers in the same order. An answer that is an exception
    is raised for its own caller only. The sum of ``weigh`` over a batch is at most ``max_weight``,
    unless the batch has one item.

    ``in_flight`` batches run at a time. With ``patience_s``, a call that has waited that long for
    them is sent anyway, because they may hang.

    ``retry_singly``: if ``run`` raises something that is not one of Darkroom's errors (the database
    refused one item's data), each item is tried alone, so one bad item does not fail its
    neighbours. Otherwise the error is raised for every caller of the batch.

    A caller that disconnects does not stop the batch. With ``cancel_unwanted``, its item is not
    sent if it still waits, and a batch is cancelled when all its callers have disconnected.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | BaseException]]],
        *,
        in_flight: int = 2,
        max_batch: int = 128,
        weigh: Callable[[Item], int] = lambda _: 0,
        max_weight: int = 0,
        patience_s: float | None = None,
        retry_singly: bool = True,
        cancel_unwanted: bool = False,
    ) -> None:
        self._run = run
        self._in_flight = in_flight
        self._max_batch = max_batch
        self._weigh = weigh
        self._max_weight = max_weight
        self._patience_s = patience_s
        self._retry_singly = retry_singly
        self._cancel_unwanted = cancel_unwanted
        self._held: Callable[[], bool] = lambda: False
        self._pending: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    async def call(self, item: Item) -> Answer:
        """Add ``item`` to the next batch and wait for its answer."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._pending.append((item, future))
        if not self._scheduled:
            # Not at once: other callers that are ready in this turn of the loop join the batch.
            self._scheduled = True
            loop.call_soon(self._pump)
        # No shield: a caller that is cancelled cancels the future, which then gets no answer.
        return await future

    def hold_while(self, is_held: Callable[[], bool]) -> None:
        """Begin no batch while ``is_held`` returns True. Call ``resume`` when it may be False."""
        self._held = is_held

    def resume(self) -> None:
        """Send what was held back, unless it still has to be."""
        if self._pending and not self._scheduled:
            self._pump()

    async def aclose(self) -> None:
        """Wait until every submitted item is done."""
        while self._running or self._pending:
            await asyncio.gather(*self._running, return_exceptions=True)
            await asyncio.sleep(0)

    def _pump(self) -> None:
        self._scheduled = False
        self._drop_unwanted()
        while self._pending and len(self._running) < self._in_flight:
            if self._held():
                break
            self._send_batch()
        if not self._pending:
            self._stop_timer()
        elif self._patience_s is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._patience_s, self._send_late)

    def _send_late(self) -> None:
        """Send one more batch than ``in_flight``."""
        self._stop_timer()
        self._drop_unwanted()
        if self._pending:
            self._send_batch()
        self._pump()

    def _drop_unwanted(self) -> None:
        if self._cancel_unwanted:
            self._pending = deque(pair for pair in self._pending if not pair[1].done())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send_batch(self) -> None:
        batch = self._next_batch()
        task = asyncio.create_task(self._process(batch))
        self._running.add(task)
        task.add_done_callback(self._on_batch_end)
        if self._cancel_unwanted:
            for _, future in batch:
                future.add_done_callback(lambda _: _end_unwanted(task, batch))

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch = [self._pending.popleft()]
        weight = self._weigh(batch[0][0])
        while self._pending and len(batch) < self._max_batch:
            weight += self._weigh(self._pending[0][0])
            if weight > self._max_weight:
                break
            batch.append(self._pending.popleft())
        return batch

    def _on_batch_end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._pump()

    async def _process(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._run([item for item, _ in batch])
        except Exception as error:
            known = isinstance(error, DarkroomError)
            if known or len(batch) == 1 or not self._retry_singly:
                for _, future in batch:
                    _resolve(future, error)
                return
            for pair in batch:
                await self._process([pair])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                _resolve(future, answer)


def _resolve(future: asyncio.Future[Answer], answer: Answer | BaseException) -> None:
    if future.done():
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
        future.exception()  # mark it as retrieved: the caller may be gone
    else:
        future.set_result(answer)


def _end_unwanted(
    task: asyncio.Task[None], batch: Sequence[tuple[Item, asyncio.Future[Answer]]]
) -> None:
    """Cancel a batch if all its callers have cancelled."""
    if all(future.cancelled() for _, future in batch):
        task.cancel()

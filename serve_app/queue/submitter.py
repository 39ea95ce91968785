"""Submission of requests: limits, batches, and direct leases to waiting polls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from serve_app.domain.batcher import Batcher
from serve_app.domain.errors import DarkroomError, Unavailable
from serve_app.domain.request import NewRequest, Request
from serve_app.postgres.database import Database
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.long_poll import LongPoll
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.state.waiters import Waiter
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.quotas import RELEASE, Quota
from serve_app.queue.transactions.idempotency import IdempotencyKeys
from serve_app.queue.transactions.insert import (
    DirectLease,
    EncodedInput,
    InsertResult,
    NewRow,
    Refusal,
    insert_requests,
)
from serve_app.queue.transactions.outcome_cache import OutcomeCache
from serve_app.telemetry.queue_metrics import QueueMeter

log = logging.getLogger(__name__)

MAX_STATEMENT_CHARACTERS = 4 * 2**20
"""Limit on the inputs stored in one statement. Each connection keeps the memory of its longest
statement.
"""

Item = tuple[NewRequest, EncodedInput]


class Submitter:
    """Store new requests in batches, and lease them at once where a poll is waiting."""

    def __init__(
        self,
        database: Database,
        limits: QueueLimits,
        state: QueueState,
        polls: LongPoll,
        after: AfterCommit,
        metrics: QueueMeter,
    ) -> None:
        self._database = database
        self._limits = limits
        self._state = state
        self._polls = polls
        self._after = after
        self._metrics = metrics
        self._idempotency = IdempotencyKeys(database)
        self._outcomes = OutcomeCache(database)
        self._batcher = self._new_batcher()
        # A separate batcher, because these wait for other statements that store the same input.
        self._coalescing_batcher = self._new_batcher()
        # A separate batcher too, whose statement checks rates and budgets and waits for others.
        self._admitting_batcher = self._new_batcher()
        # Requests that nobody is told of before their end, by pool: they may wait for a poll.
        self._held: dict[str, Batcher[Item, Request]] = {}
        polls.on_open(self._resume)

    def _new_batcher(self) -> Batcher[Item, Request]:
        return Batcher(self._store, weigh=_size, max_weight=MAX_STATEMENT_CHARACTERS)

    def _batcher_of(self, new: NewRequest) -> Batcher[Item, Request]:
        if self._limits.quota_of(new.tenant) is not None:
            return self._admitting_batcher
        if new.reuse_digest:
            return self._coalescing_batcher
        if not new.answered_at_end or self._limits.find_limited(new.tenant, new.endpoint):
            return self._batcher
        batcher = self._held.get(new.pool)
        if batcher is None:
            batcher = self._held[new.pool] = self._new_batcher()
            batcher.hold_while(partial(self._polls.holds, new.pool))
        return batcher

    def _resume(self, pool: str) -> None:
        if (batcher := self._held.get(pool)) is not None:
            batcher.resume()

    async def submit(self, new: NewRequest, most_queued: int | None = None) -> Request:
        """Store ``new``, or return the request that it repeats. Once begun it continues if the
        caller disconnects.
        """
        new.require_validated()
        reusing = await self._outcomes.store_reused(new)
        if reusing is not None:
            self._state.requests.update(reusing)
            return reusing.request
        free = self._state.waiters.slots(new.pool)
        encoded = EncodedInput(new.input)
        await self._state.stats.admit(
            new.pool,
            new.tenant,
            new.endpoint,
            most_queued,
            free,
            large_bytes=lambda: encoded.large_bytes,
        )
        try:
            return await self._batcher_of(new).call((new, encoded))
        except asyncio.CancelledError:
            raise
        except Exception:
            self._undo_admit(new, encoded)
            raise

    async def find_earlier(self, new: NewRequest) -> Request | None:
        """The earlier request that ``new`` repeats, or None."""
        earlier = await self._idempotency.find(new) or await self._idempotency.take_undelivered(new)
        if earlier is None:
            return None
        self._state.requests.update(earlier)
        return earlier.request

    async def aclose(self) -> None:
        await self._batcher.aclose()
        await self._coalescing_batcher.aclose()
        await self._admitting_batcher.aclose()
        for batcher in self._held.values():
            await batcher.aclose()

    async def _store(self, batch: Sequence[Item]) -> Sequence[Request | BaseException]:
        """Store each request of the batch once: a step of a workflow may stand in it twice, if two
        tasks send it at the same moment."""
        once: dict[str, Item] = {}
        again = [item for item in batch if once.setdefault(item[0].id, item) is not item]
        answers = dict(zip(once, await self._store_each([*once.values()]), strict=True))
        for new, encoded in again:
            if not isinstance(answers[new.id], BaseException):  # its caller undoes a failed one
                self._undo_admit(new, encoded)
        return [answers[new.id] for new, _ in batch]

    async def _store_each(self, batch: Sequence[Item]) -> Sequence[Request | BaseException]:
        self._metrics.batch("submit", len(batch))
        await self._state.lanes.open((new.pool, new.tenant) for new, _ in batch)
        waiters = self._reserve([new for new, _ in batch])
        quotas = self._quotas([new for new, _ in batch])
        rows = [self._row(new, encoded, waiters.get(new.id), quotas) for new, encoded in batch]
        try:
            results = await insert_requests(
                self._database,
                rows,
                self._limits.first_lease_s,
                durable=not all(new.answered_at_end for new, _ in batch),
                beside_snapshot=self._state.snapshots.open_for_long,
                quotas=[*quotas.values()],
            )
        except BaseException:
            for waiter in waiters.values():
                self._state.waiters.release(waiter)
            raise
        for row, result in zip(rows, results, strict=True):
            self._apply_result(row, result, waiters.get(row.request.id))
        stored = [insert for insert in results if isinstance(insert, InsertResult)]
        self._announce(
            [insert.request for insert in stored if not insert.leased and insert.group is None]
        )
        self._state.notifier.notify(insert.request.id for insert in stored)
        self._after.settle_soon(insert.group for insert in stored)
        answers: list[Request | BaseException] = []
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, InsertResult):
                answers.append(_with_allowance(result, quotas.get(row.request.tenant)))
            elif isinstance(result, Refusal):
                answers.append(quotas[row.request.tenant].refusal(result.verdict))
            else:
                await self._release(row)
                answers.append(await self._repeat(row.request, row.input))
        return answers

    def _quotas(self, batch: Sequence[NewRequest]) -> Mapping[str, Quota]:
        """Rates and budgets by tenant. Empty: no tenant of the batch has any. A setting may have
        changed since the batcher was chosen."""
        tenants = {new.tenant for new in batch}
        quotas = {tenant: self._limits.quota_of(tenant) for tenant in tenants}
        if not any(quotas.values()):
            return {}
        return {tenant: quota or Quota(tenant) for tenant, quota in quotas.items()}

    async def _release(self, row: NewRow) -> None:
        """Give back what a request has reserved that was not stored. If that fails, it counts
        until the period of the budget ends: the others of the batch are stored."""
        if not row.reserved:
            return
        params = {"tenant": row.request.tenant, "amount": row.reserved}
        try:
            await self._database.rows(RELEASE, params)
        except DarkroomError as error:
            log.warning("A repeat keeps its reserve of the budget: %s", error.message)

    async def _repeat(self, new: NewRequest, input: EncodedInput) -> Request | DarkroomError:
        """Find the request whose idempotency key kept this one from being stored."""
        try:
            earlier = await self.find_earlier(new)
        except DarkroomError as error:
            return error
        if earlier is None:
            return Unavailable(
                "The request with this idempotency key was just deleted: submit again."
            )
        self._undo_admit(new, input)
        return earlier

    def _undo_admit(self, new: NewRequest, input: EncodedInput) -> None:
        self._state.stats.undo_admit(new.pool, new.tenant, new.endpoint, input.large_bytes)

    def _reserve(self, batch: Sequence[NewRequest]) -> dict[str, Waiter]:
        """Reserve polls waiting in this process, by request id, for pools in which nothing is
        queued.
        """
        waiters: dict[str, Waiter] = {}
        for new in sorted(batch, key=lambda request: -request.priority):
            # Only the statement that leases queued requests checks the limits on running requests.
            if not self._polls.is_drained(new.pool) or self._limits.find_limited(
                new.tenant, new.endpoint
            ):
                continue
            waiter = self._state.waiters.reserve_one(new.pool, new.endpoint, new.tenant)
            if waiter is not None:
                waiters[new.id] = waiter
        return waiters

    def _row(
        self,
        new: NewRequest,
        input: EncodedInput,
        waiter: Waiter | None,
        quotas: Mapping[str, Quota],
    ) -> NewRow:
        costs = self._state.costs
        expected_s = costs.expected_s(new.endpoint, new.pool, new.work)
        if (fallback := new.fallback) is not None:
            known = costs.knows(new.endpoint, fallback.pool) and not fallback.same_pool
            there = new.endpoint if known else fallback.endpoint
            there_s = costs.expected_s(there, fallback.pool, new.work)
            new = replace(new, fallback=replace(fallback, expected_s=there_s))
        quota = quotas.get(new.tenant)
        reserved = None if quota is None else quota.reserved_for(new, expected_s)
        needed = None if quota is None else quota.needed_for(new)
        return NewRow(new, input, _offer(waiter), expected_s, reserved, needed)

    def _apply_result(
        self, row: NewRow, result: InsertResult | Refusal | None, waiter: Waiter | None
    ) -> None:
        """Apply the result of a row to this process."""
        if not isinstance(result, InsertResult):
            if waiter is not None:
                self._state.waiters.release(waiter)
            return
        request = result.request
        if result.leased:
            self._state.charges.add(request.pool, request.tenant, row.expected_s)
        self._state.requests.add_new(request, result.version)
        self._state.stats.count_stored(request, row.input.large_bytes)
        if result.leased and waiter is not None:
            self._polls.hand_out(waiter, request, row.request.input)
        elif waiter is not None:
            self._state.waiters.release(waiter)

    def _announce(self, queued: Sequence[Request]) -> None:
        if queued:
            self._state.snapshots.note_queued(queued)
            pools = {request.pool for request in queued}
            self._state.waiters.wake(pools)
            self._state.notifier.notify(pools=pools)
            self._state.lanes.wake_if_work_soon(
                (request.pool, request.tenant) for request in queued
            )


def _with_allowance(result: InsertResult, quota: Quota | None) -> Request:
    if quota is None or result.left is None:
        return result.request
    return replace(result.request, allowance=quota.allowance(result.left))


def _size(item: Item) -> int:
    return len(item[1].text)


def _offer(waiter: Waiter | None) -> DirectLease | None:
    return None if waiter is None else DirectLease(waiter.ask.replica_id, waiter.ask.actor_id)

"""Background worker that validates batches, feeds their lines to the queue, and ends them.

One ingress process runs it, chosen by election. What it does may be done twice, by two workers at
once or again after a crash: a line gets the id of its request before the request is submitted, each
end of a line counts once, and a batch ends once.

Batches fill what is idle. A line is submitted only while few requests are queued in its pool, so
that the requests of others wait for a few lines at most, and never for a batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from serve_app.domain.batches.batch import BatchLine, BatchStatus, LineResult, StoredBatch
from serve_app.domain.errors import (
    ArtifactNotFound,
    DarkroomError,
    DatabaseUnavailable,
    Forbidden,
    InvalidInput,
    Overloaded,
    RequestNotFound,
    TenantDisabled,
    Unauthenticated,
    Unavailable,
)
from serve_app.domain.lease import Demand
from serve_app.domain.request import NewRequest
from serve_app.domain.sharing.fair_queue import work_of
from serve_app.ingress.openai.batches import requests
from serve_app.ingress.openai.batches.costs import BatchCost, cost_of_call, max_cost_of
from serve_app.ingress.openai.batches.lines import FileCheck, split
from serve_app.ingress.openai.batches.result_files import write_files
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.max_cost import MaxCost
from serve_app.tenants.scopes import SUBMIT, Caller

log = logging.getLogger(__name__)

EVERY_S, ROUNDS = 1.0, 4
LEADS_EVERY_S = 5.0  # another process takes over after three times as long
MOST_ACTIVE = 1000
IN_FLIGHT = 256
"""Most lines of a batch that are queued or running."""
PER_ROUND = 64
GROUP = 8
"""Lines that are taken and submitted together."""
LEAST_QUEUED = 4
"""Queued requests in a pool up to which lines are submitted; more if more are running."""
SETTLED_AT_ONCE = 32
DROPPED_AT_ONCE = 1000
MESSAGE_GONE = "The input file was deleted before this line was read."


class BatchWorker:
    """Batches of one ingress process. Call ``validate`` and ``advance`` again and again."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._book = services.queue.batches
        self._turn = 0

    async def validate(self) -> None:
        """Validate the input files of new batches."""
        for batch in await self._book.work.active(MOST_ACTIVE):
            if batch.status is BatchStatus.VALIDATING:
                await self._move_on(batch, self._validate(batch))

    async def advance_often(self) -> None:
        """Rounds within ``EVERY_S``: a pool takes more lines in a second than are queued at once.
        Without a batch there is one."""
        for number in range(ROUNDS):
            if number:
                await asyncio.sleep(EVERY_S / ROUNDS)
            if not await self.advance():
                return

    async def advance(self) -> bool:
        """Move every batch on by what is possible now. Another one is first in each round. Returns
        False if there is none."""
        await self._book.work.expire()
        active = await self._book.work.active(MOST_ACTIVE)
        if not active:
            return False
        self._services.rest.busy()  # also while all of its lines wait for a limit
        demand = await self._services.queue.demand()
        self._turn = (self._turn + 1) % len(active)
        for batch in [*active[self._turn :], *active[: self._turn]]:
            await self._move_on(batch, self._advance(batch, demand))
        return True

    async def _move_on(self, batch: StoredBatch, step: Coroutine[Any, Any, None]) -> None:
        """Do a step of a batch. Its errors leave the other batches alone."""
        try:
            with work_of(batch.tenant):
                await step
        except DarkroomError as error:
            log.warning("The batch %s continues later: %s", batch.id, error.message)
        except Exception as error:
            self._unexpected(f"the batch {batch.id}", error)

    def _unexpected(self, where: str, error: Exception) -> DarkroomError:
        """Record a defect. Returns the error of the line that met it, as a call is answered."""
        self._services.metrics.count_unexpected_error("openai.batch")
        log.error("unexpected error at %s", where, exc_info=error)
        message = f"Unexpected {type(error).__name__}. The server's log has the details."
        return DarkroomError(message)

    async def _validate(self, batch: StoredBatch) -> None:
        services, work = self._services, self._book.work
        try:
            cost = await self._cost(batch)
        except TenantDisabled:
            return  # its limit is checked with the rights of its key
        checked = FileCheck(batch.endpoint, services.config.limits.max_body_bytes)
        storage = services.files.storage
        try:
            size = await storage.size(batch.input_key)
            async with aclosing(storage.read(batch.input_key, 0, size)) as chunks:
                async for piece in split(chunks, checked.max_line):
                    lines = await checked.check(piece)
                    if cost and not checked.errors and (problem := await cost.add(piece)):
                        checked.errors.append(problem)
                    if not checked.errors:
                        await work.add_lines(batch.id, lines)
                    if checked.is_done:
                        break
        except ArtifactNotFound:
            checked.errors.append(requests.input_gone())
        checked.end()
        if cost and not checked.errors and (problem := cost.end()):
            checked.errors.append(problem)
        if checked.errors:
            await work.refuse(batch.id, checked.errors)
        else:
            await work.begin(batch.id, checked.total)

    async def _cost(self, batch: StoredBatch) -> BatchCost | None:
        """Counter of what a batch costs. None: it has no limit, or none of its lines will run."""
        if (most := max_cost_of(batch)) is None:
            return None
        try:
            return BatchCost(self._services, await self._caller(batch), batch, most)
        except (Unauthenticated, Forbidden):
            return None  # then its lines are refused

    async def _advance(self, batch: StoredBatch, demand: Mapping[str, Demand]) -> None:
        if batch.status is BatchStatus.VALIDATING:
            return
        if batch.status is not BatchStatus.FINALIZING:
            await self._settle(batch)
            if batch.stop is None:
                await self._feed(batch, demand)
            else:
                await self._stop(batch)
            if not await self._book.work.finalize(batch.id):
                return
        current = await self._book.work.find(batch.id)
        if current is not None and current.status is BatchStatus.FINALIZING:
            await write_files(self._services, current)

    async def _settle(self, batch: StoredBatch) -> None:
        """Record the results of lines whose requests have ended."""
        for _ in range(1 + IN_FLIGHT // SETTLED_AT_ONCE):
            ended = await self._book.work.ended_lines(batch.id, SETTLED_AT_ONCE)
            results = await asyncio.gather(*(self._result(batch, line) for line in ended))
            settled = [result for result in results if result is not None]
            if not settled:
                return
            await self._book.work.settle(batch.id, settled)

    async def _result(self, batch: StoredBatch, line: BatchLine) -> LineResult | None:
        """Result of a line; None if its end cannot be read yet."""
        try:
            request = await self._services.queue.current(batch.tenant, line.request_id or "")
        except RequestNotFound:
            return requests.deleted_line(line)
        if not request.state.final:
            return None
        try:
            return await requests.result_of(self._services, batch, line, request)
        except DarkroomError:
            raise
        except Exception as error:
            where = f"the result of line {line.line} of the batch {batch.id}"
            return requests.refused_line(line, self._unexpected(where, error))

    async def _feed(self, batch: StoredBatch, demand: Mapping[str, Demand]) -> None:
        work = self._book.work
        try:
            caller = await self._caller(batch)
        except TenantDisabled:
            return  # its lines wait, as its queued requests do
        except (Unauthenticated, Forbidden) as error:
            await self._refuse_rest(batch, error)
            return
        unsent = await work.unsent(batch.id, IN_FLIGHT)
        if unsent and not await self._send(batch, caller, unsent, demand):
            return
        room = min(PER_ROUND, IN_FLIGHT - await work.in_flight(batch.id))
        while room > 0:
            ids = [self._services.new_id() for _ in range(min(GROUP, room))]
            lines = await work.take(batch.id, ids)
            room -= len(ids)
            if not lines or not await self._send(batch, caller, lines, demand):
                return

    async def _caller(self, batch: StoredBatch) -> Caller:
        """Rights of the key that made the batch, as they are now. ``Unauthenticated``: it was
        revoked. ``Forbidden``: it may not submit any more."""
        caller = await self._services.identity.keys.identity_of(batch.key_id)
        caller.require(SUBMIT)
        return caller

    async def _send(
        self,
        batch: StoredBatch,
        caller: Caller,
        lines: Sequence[BatchLine],
        demand: Mapping[str, Demand],
    ) -> bool:
        """Submit lines in their order. False: no more can be submitted now."""
        work = self._book.work
        for place, line in enumerate(lines):
            try:
                refused = await self._submit(batch, caller, line, demand)
            except DatabaseUnavailable:
                raise  # it may be stored: the line keeps its id, and is submitted again
            except (Overloaded, Unavailable):
                await work.put_back(batch.id, [entry.line for entry in lines[place:]])
                return False
            if refused is None:
                await work.mark_sent(batch.id, [line.line])
            else:
                await work.settle(batch.id, [refused])
        return True

    async def _submit(
        self,
        batch: StoredBatch,
        caller: Caller,
        line: BatchLine,
        demand: Mapping[str, Demand],
    ) -> LineResult | None:
        """Submit the request of a line. Returns the result of one that is refused for good."""
        try:
            new = await self._new_request(batch, caller, line)
            running = demand[new.pool].running if new.pool in demand else 0
            most_queued = max(LEAST_QUEUED, running)
            await asyncio.shield(submission.submit(self._services, new, most_queued))
        except (Overloaded, Unavailable):
            raise
        except DarkroomError as error:
            return requests.refused_line(line, error)
        return None

    async def _new_request(self, batch: StoredBatch, caller: Caller, line: BatchLine) -> NewRequest:
        """Request of a line. Raises the errors of its call, and those of defects in their place."""
        try:
            return await self._request(batch, caller, line)
        except DarkroomError:
            raise
        except Exception as error:
            where = f"line {line.line} of the batch {batch.id}"
            raise self._unexpected(where, error) from None

    async def _request(self, batch: StoredBatch, caller: Caller, line: BatchLine) -> NewRequest:
        services = self._services
        try:
            body = await requests.read_line(services, batch, line)
        except ArtifactNotFound:
            raise ArtifactNotFound(MESSAGE_GONE) from None
        call = requests.call_of(services, caller, batch, body)
        most: MaxCost | None = None
        if batch.max_cost is not None:  # at its fallback, it may not cost more than was counted
            cost = await cost_of_call(services, caller, call)
            most = MaxCost(cost.amount, cost.currency)
        try:
            return await requests.request_of(services, caller, batch, line, call, most)
        except Unavailable as error:
            if type(error) is Unavailable:  # no pool hosts it: waiting does not help
                raise InvalidInput(error.message) from None
            raise

    async def _refuse_rest(self, batch: StoredBatch, error: DarkroomError) -> None:
        """End all lines that are not sent, because the batch may not submit any more."""
        why = {"code": error.code, "message": error.message}
        await self._settle_unsent(batch, why)
        while await self._book.work.drop_waiting(batch.id, DROPPED_AT_ONCE, why):
            pass

    async def _stop(self, batch: StoredBatch) -> None:
        """End all lines that wait, and cancel the requests of the others."""
        work, why = self._book.work, requests.stop_error(batch)
        await self._settle_unsent(batch, why)
        while await work.drop_waiting(batch.id, DROPPED_AT_ONCE, why):
            pass
        for line in await work.running(batch.id, IN_FLIGHT):
            await self._cancel(batch, line)
        await self._settle(batch)

    async def _settle_unsent(self, batch: StoredBatch, why: Mapping[str, str]) -> None:
        """Find out whether lines were submitted before a crash. Those that were are sent."""
        work = self._book.work
        for line in await work.unsent(batch.id, IN_FLIGHT):
            try:
                await self._services.queue.current(batch.tenant, line.request_id or "")
            except RequestNotFound:
                await work.settle(batch.id, [LineResult(line.line, succeeded=False, error=why)])
            else:
                await work.mark_sent(batch.id, [line.line])

    async def _cancel(self, batch: StoredBatch, line: BatchLine) -> None:
        try:
            await self._services.queue.cancel(batch.tenant, line.request_id or "")
        except RequestNotFound:
            log.info("A request of the batch %s was deleted meanwhile.", batch.id)

"""The queue: PostgreSQL behind the port ``Queue``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from serve_app.domain.errors import DarkroomError
from serve_app.domain.lease import (
    Ask,
    Demand,
    Finish,
    Held,
    Presence,
    Report,
    ReportReply,
    Verdict,
    Work,
)
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock, LeaseTerms, Liveness
from serve_app.domain.request import CancelVerdict, LogLine, NewRequest, Request, State, Waiting
from serve_app.queue import leaving, wording
from serve_app.queue.aftermath import Aftermath
from serve_app.queue.asks import Asks
from serve_app.queue.census import Census
from serve_app.queue.database import Database
from serve_app.queue.endings import Ending, Endings, How
from serve_app.queue.finishing import Finishing
from serve_app.queue.history import History
from serve_app.queue.intake import Intake
from serve_app.queue.lanes import Lanes
from serve_app.queue.limits import QueueLimits
from serve_app.queue.observer import Nobody, Observer
from serve_app.queue.presence import PresenceBook
from serve_app.queue.recovery import Recovery, Rounds
from serve_app.queue.reports import Reports
from serve_app.queue.rows import known_id
from serve_app.queue.waiting_room import WaitingRoom
from serve_app.queue.wakeups import Wakeups
from serve_app.queue.watch import Watch, visible

log = logging.getLogger(__name__)


class PostgresQueue:
    """One per ingress process; any number of them share a database whose tables are migrated.

    ``database`` is started and closed by whoever made it; it must outlive the queue.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        terms: LeaseTerms,
        limits: QueueLimits,
        liveness: Liveness,
        ingress_id: str,
        observer: Observer | None = None,
    ) -> None:
        self._database = database
        self._limits = limits
        self._history = History(database)
        self._lanes = Lanes(database)
        self._room = WaitingRoom(clock)
        self._watch = Watch(database, clock)
        self._census = Census(database, clock, limits)
        self._wakeups = Wakeups(database, ingress_id)
        self._endings = Endings(database, limits)
        self._asks = Asks(
            database, terms, limits, self._room, self._watch, self._census, self._end_soon
        )
        self._aftermath = Aftermath(
            self._room,
            self._asks,
            self._watch,
            self._census,
            self._wakeups,
            observer or Nobody(),
        )
        self._intake = Intake(
            database,
            limits.first_lease_s,
            self._room,
            self._asks,
            self._watch,
            self._census,
            self._lanes,
            self._wakeups,
        )
        self._presence = PresenceBook(database, self._census)
        self._reports = Reports(database, limits, self._watch)
        self._finishing = Finishing(self._endings, self._aftermath)
        self._recovery = Recovery(
            database, clock, limits, liveness, self._endings, self._census, self._presence
        )
        self._rounds: list[Rounds] = []
        self._loose: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, and look after what time and death end."""
        if self._rounds:
            return
        self._wakeups.start(self._aftermath.heard, self._aftermath.missed)
        await self._recovery.heartbeat()
        look_s = self._limits.look_s
        self._rounds = [
            Rounds(look_s, [self._look]),
            Rounds(look_s, [self._presence.flush, self._recovery.heartbeat, self._reap]),
            Rounds(look_s, [self._expire, self._lanes.sweep, self._wakeups.look_round]),
            Rounds(look_s, [self._bury]),
            Rounds(10 * look_s, [self._recovery.forget_progress]),
        ]
        for rounds in self._rounds:
            rounds.start()

    async def aclose(self) -> None:
        """Answer every ask, end what is under way, then stop."""
        await self._asks.aclose()
        await self._intake.aclose()
        await self._finishing.aclose()
        await self._reports.aclose()
        await asyncio.gather(*self._loose, return_exceptions=True)
        for rounds in self._rounds:
            await rounds.aclose()
        self._rounds = []
        await self._lanes.aclose()
        await self._wakeups.aclose()
        await self._watch.aclose()

    # What clients do

    async def submit(self, new: NewRequest) -> Request:
        return await self._intake.submit(new)

    async def get(self, tenant: str, request_id: str) -> Request:
        return await self._watch.get(tenant, request_id)

    async def wait(self, tenant: str, request_id: str, timeout_s: float) -> Request:
        return await self._watch.until(
            tenant, request_id, timeout_s, lambda request: request.state.final
        )

    async def changed(
        self, tenant: str, request_id: str, timeout_s: float, since: Request | None = None
    ) -> Request:
        seen = visible(since or await self._watch.get(tenant, request_id))
        return await self._watch.until(
            tenant,
            request_id,
            timeout_s,
            lambda request: request.state.final or visible(request) != seen,
        )

    async def waiting(self, request: Request) -> Waiting:
        return await self._census.waiting(request)

    async def cancel(self, tenant: str, request_id: str) -> CancelVerdict:
        left = await leaving.cancel(self._database, tenant, known_id(request_id))
        if left is None:
            await self._watch.get(tenant, request_id)
            return CancelVerdict.ALREADY_FINAL
        self._aftermath.left([left], wording.cancelled())
        if left.state is State.RUNNING:
            return CancelVerdict.REQUESTED
        return CancelVerdict.CANCELLED

    async def page(
        self,
        tenant: str,
        *,
        states: Sequence[State] = (),
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[Request]:
        return await self._history.page(tenant, states, before, limit)

    async def demand(self) -> Mapping[str, Demand]:
        return await self._census.demand()

    async def log(self, request_id: str, level: str, message: str) -> None:
        await self._history.append(request_id, level, message)
        self._watch.doubt([request_id])

    async def lines(self, tenant: str, request_id: str) -> Sequence[LogLine]:
        await self._watch.get(tenant, request_id)
        return await self._history.lines(request_id)

    # What replicas do

    async def announce(self, presence: Presence) -> None:
        await self._presence.announce(presence)

    async def ask(self, ask: Ask) -> Work:
        self._presence.asked(ask)
        return await self._asks.ask(ask)

    async def report(self, report: Report) -> ReportReply:
        self._presence.reported(report)
        return await self._reports.report(report)

    async def finish(self, finish: Finish) -> Verdict:
        return await self._finishing.finish(finish)

    async def hand_back(self, held: Held, replica_id: str, reason: str) -> Verdict:
        return await self._finishing.hand_back(held, replica_id, reason)

    # Again and again

    async def _look(self) -> None:
        self._room.tidy()
        self._asks.stir_all()
        await self._watch.poll()
        await self._asks.look_for_signals()

    async def _reap(self) -> None:
        await self._recovery.reap(self._aftermath)

    async def _expire(self) -> None:
        await self._recovery.expire(self._aftermath)

    async def _bury(self) -> None:
        await self._recovery.bury(self._aftermath)

    def _end_soon(self, endings: Sequence[Ending]) -> None:
        task = asyncio.create_task(self._end(endings))
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)

    async def _end(self, endings: Sequence[Ending]) -> None:
        outcomes: dict[Held, Outcome] = {
            each.held: each.outcome for each in endings if each.how is How.FAILED
        }
        try:
            self._aftermath.ended(await self._endings.end(endings), outcomes)
        except DarkroomError as error:
            log.warning("Leases that nobody took run out by themselves: %s", error.message)

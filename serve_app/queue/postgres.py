"""The queue: PostgreSQL behind the port ``Queue``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from serve_app.domain.errors import DarkroomError, RequestNotFound
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
from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Clock, LeaseTerms, Liveness
from serve_app.domain.progress import Preview
from serve_app.domain.request import CancelVerdict, LogLine, NewRequest, Request, State, Waiting
from serve_app.domain.snapshot import StoredSnapshot
from serve_app.queue import frames, leaving, snapshots, wording
from serve_app.queue.aftermath import Aftermath
from serve_app.queue.asks import Asks
from serve_app.queue.census import Census
from serve_app.queue.charges import Charges
from serve_app.queue.costs import Costs
from serve_app.queue.database import Database
from serve_app.queue.deletion import Deletion
from serve_app.queue.endings import Ending, Endings, How
from serve_app.queue.events import Events
from serve_app.queue.finishing import Finishing
from serve_app.queue.followers import Followers, waiting_for
from serve_app.queue.forecast import Forecast
from serve_app.queue.forgetting import Forgetfulness
from serve_app.queue.halts import Halts
from serve_app.queue.history import History
from serve_app.queue.horizon import LOOK_S, Horizon
from serve_app.queue.intake import Intake
from serve_app.queue.lanes import Lanes
from serve_app.queue.ledger import PostgresLedger
from serve_app.queue.limits import QueueLimits
from serve_app.queue.observer import Nobody, Observer
from serve_app.queue.operations import PostgresOperations
from serve_app.queue.orphans import Orphans
from serve_app.queue.positions import Positions
from serve_app.queue.presence import PresenceBook
from serve_app.queue.previews import Previews
from serve_app.queue.recovery import Recovery, Rounds
from serve_app.queue.repeats import Repeats
from serve_app.queue.reports import Reports
from serve_app.queue.retention import Retention
from serve_app.queue.reuse import Reuse
from serve_app.queue.rows import known_id
from serve_app.queue.waiting_room import WaitingRoom
from serve_app.queue.wakeups import Wakeups
from serve_app.queue.watch import Watch, visible

log = logging.getLogger(__name__)

RETENTION_EVERY_S = 60.0


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
        retention: Retention | None = None,
    ) -> None:
        self._database = database
        self._limits = limits
        self._horizon = Horizon(database, observer or Nobody())
        self._history = History(database)
        self._deletion = Deletion(database, retention or Retention())
        self._forgetfulness = Forgetfulness(database)
        self._events = Events(database)
        self._followers = Followers(database)
        self._orphans = Orphans(database, terms)
        self._lanes = Lanes(database, limits)
        self._charges = Charges(database)
        self._room = WaitingRoom(clock)
        self._watch = Watch(database, clock)
        self._costs = Costs(database)
        self._halts = Halts(database)
        self._census = Census(
            database,
            clock,
            limits,
            Positions(database, clock, self._costs),
            Forecast(database, clock, limits, self._costs),
            self._halts,
        )
        self._wakeups = Wakeups(database, ingress_id)
        self._endings = Endings(database, limits)
        self._asks = Asks(
            database,
            terms,
            limits,
            self._room,
            self._watch,
            self._census,
            self._lanes,
            self._charges,
            self._end_soon,
        )
        self._aftermath = Aftermath(
            self._room,
            self._asks,
            self._watch,
            self._census,
            self._wakeups,
            observer or Nobody(),
            limits,
            self._charges,
            self._costs,
            self._settle_soon,
        )
        self.operations = PostgresOperations(database, self._halts, self._endings, self._aftermath)
        self.ledger = PostgresLedger(database)
        self._repeats = Repeats(database)
        self._intake = Intake(
            database,
            limits,
            self._room,
            self._asks,
            self._watch,
            self._census,
            self._lanes,
            self._wakeups,
            self._repeats,
            Reuse(database),
            self._costs,
            self._charges,
            self._settle_soon,
        )
        self._previews = Previews(database, self._watch)
        self._presence = PresenceBook(database, self._census)
        self._reports = Reports(database, terms, limits, self._watch)
        self._finishing = Finishing(database, self._endings, self._aftermath)
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
            Rounds(look_s, [self._expire, self._sweep, self._wakeups.look_round]),
            Rounds(look_s, [self._bury]),
            Rounds(look_s, [self._settle]),
            Rounds(look_s, [self._costs.refresh, self._charges.settle]),
            Rounds(
                10 * look_s,
                [
                    self._recovery.forget_progress,
                    self._forget_snapshots,
                    self._repeats.forget_undelivered,
                ],
            ),
            Rounds(look_s, [self._orphans.collect, self._forget]),
            Rounds(LOOK_S, [self._horizon.look]),
            Rounds(RETENTION_EVERY_S, [self._delete_aged, self._deletion.free_keys]),
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
        await self._events.aclose()

    # What clients do

    async def submit(self, new: NewRequest, most_queued: int | None = None) -> Request:
        return await self._intake.submit(new, most_queued)

    async def repeated(self, new: NewRequest) -> Request | None:
        return await self._intake.repeated(new)

    async def undelivered(self, new: NewRequest, request_id: str) -> None:
        await self._repeats.note_undelivered(new, known_id(request_id))

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

    async def preview(self, tenant: str, request_id: str) -> Preview | None:
        return await self._previews.newest(tenant, request_id)

    async def waiting(self, request: Request) -> Waiting:
        if request.follows is None:
            return await self._census.waiting(request)
        try:
            leader = await self._watch.get(request.tenant, request.follows)
        except RequestNotFound:
            return waiting_for(None, None, None)
        if leader.state is State.QUEUED and leader.follows is None:
            return waiting_for(leader, await self._census.waiting(leader), None)
        return waiting_for(leader, None, self._census.ends_at(leader))

    async def ends_at(self, request: Request) -> datetime | None:
        return self._census.ends_at(request)

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
        tenant: str | None,
        *,
        states: Sequence[State] = (),
        endpoint: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[Request]:
        return await self._history.page(tenant, states, endpoint, since, until, before, limit)

    async def drew(self, session: Held, request_id: str, state: State, usage: Usage) -> None:
        await frames.count(self._database, self._charges, session, request_id, state, usage)

    async def delete(self, tenant: str, request_id: str) -> Sequence[str]:
        # From its attempts follows what they left.
        await self._orphans.collect()
        unwanted = await self._deletion.delete(tenant, request_id)
        self._aftermath.deleted([known_id(request_id)])
        return unwanted

    async def demand(self) -> Mapping[str, Demand]:
        return await self._census.demand()

    async def log(self, request_id: str, level: str, message: str) -> None:
        await self._history.append(request_id, level, message)
        self._watch.doubt([request_id])

    async def lines(self, tenant: str, request_id: str, after: int = 0) -> Sequence[LogLine]:
        found = await self._watch.get(tenant, request_id)
        return await self._events.after(found.id, after)

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

    async def hand_back(
        self, held: Held, replica_id: str, reason: str, snapshot: StoredSnapshot | None = None
    ) -> Verdict:
        return await self._finishing.hand_back(held, replica_id, reason, snapshot)

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

    async def _sweep(self) -> None:
        # An ingress of the version before, which may run beside this one, opens no lanes.
        await self._lanes.open(self._census.lanes())
        await self._lanes.sweep()
        for pool, endpoints in self._room.coming().items():
            await self._lanes.rest(pool, endpoints)

    async def _bury(self) -> None:
        await self._recovery.bury(self._aftermath)

    async def _settle(self, groups: Iterable[str] | None = None) -> None:
        settled = await self._followers.settle(groups)
        self._aftermath.settled(settled)
        self._lanes.look_again_soon(
            (each.pool, each.tenant) for each in settled if not each.succeeded
        )

    def _settle_soon(self, groups: Iterable[str]) -> None:
        self._let_loose(self._settle_groups(groups))

    async def _settle_groups(self, groups: Iterable[str]) -> None:
        try:
            await self._settle(groups)
        except DarkroomError as error:
            log.warning("Those that follow an ended request are looked after later: %s", error)

    async def _forget_snapshots(self) -> None:
        await snapshots.forget_ended(self._database)

    async def _delete_aged(self) -> None:
        self._aftermath.deleted(await self._deletion.delete_aged())

    async def _forget(self) -> None:
        self._aftermath.deleted(await self._forgetfulness.forget())

    def _end_soon(self, endings: Sequence[Ending]) -> None:
        self._let_loose(self._end(endings))

    def _let_loose(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
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

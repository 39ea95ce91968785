"""The replica's side of the queue, in memory and programmable: it records what it receives."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Unavailable
from serve_app.domain.lease import (
    Ask,
    Finish,
    KeptWeights,
    Lease,
    LeaseKey,
    Presence,
    Report,
    ReportReply,
    Signal,
    Verdict,
    Work,
)
from serve_app.domain.progress import StoredSnapshot


@dataclass
class Outstanding:
    """An ask that waits for its answer."""

    ask: Ask
    answer: asyncio.Future[Work]


@dataclass
class FakeLeasePort:
    """Keeps ``LeasePort``'s promises to one replica: an ask waits at most ``ask_wait_s``, and only
    the holder of a lease can write. ``away`` makes every call fail."""

    ask_wait_s: float = 5.0
    away: bool = False
    presences: list[Presence] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)
    reports: list[tuple[float, Report]] = field(default_factory=list)  # loop time, report
    finishes: list[Finish] = field(default_factory=list)
    hand_backs: list[tuple[LeaseKey, str, str]] = field(default_factory=list)  # + replica, reason
    snapshots: dict[LeaseKey, StoredSnapshot] = field(
        default_factory=dict
    )  # handed back or reported
    tickets: int = 0
    refused_calls: int = 0
    most_outstanding: int = 0
    cancelled: set[LeaseKey] = field(default_factory=set)
    fenced: set[LeaseKey] = field(default_factory=set)
    watched: set[LeaseKey] = field(default_factory=set)
    keep: tuple[KeptWeights, str] | None = None  # what the replica should hold, and its version
    upcoming: tuple[tuple[Endpoint, ...], str] | None = None  # what it runs next, and its version
    next_in_s: float = 0.0  # what every reply to a report says
    exit: str = ""  # why the term of the replica has ended
    _waiting: deque[Lease] = field(default_factory=deque)
    _outstanding: list[Outstanding] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    # What a test does

    def offer(self, *leases: Lease) -> None:
        self._waiting.extend(leases)
        self._serve()

    def end_term(self, reason: str) -> None:
        """End the replica's term, and so its leases."""
        self.exit = reason
        self.fenced |= {key for pending in self._outstanding for key in pending.ask.leases}
        for outstanding in self._outstanding:
            if not outstanding.answer.done():
                outstanding.answer.set_result(Work(exit=reason))

    def signal(self, *signals: Signal) -> None:
        """Signal the replica in the answer to an ask that is outstanding now."""
        for outstanding in self._outstanding:
            if not outstanding.answer.done():
                outstanding.answer.set_result(Work(signals=signals))
                return
        raise AssertionError("No ask is outstanding.")

    async def wait_for_finishes(self, count: int, timeout_s: float = 120.0) -> list[Finish]:
        await self.until(lambda: len(self.finishes) >= count, timeout_s)
        return self.finishes

    async def until(self, condition, timeout_s: float = 120.0) -> None:
        """Wait for a condition on what was recorded, looked at whenever something is."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def renewals(self, lease_key: LeaseKey) -> list[float]:
        """When the lease was renewed, on the loop's clock."""
        return [at for at, report in self.reports if lease_key in report.renewals]

    @property
    def handed_back(self) -> list[LeaseKey]:
        return [key for key, _, _ in self.hand_backs]

    @property
    def outstanding(self) -> list[Ask]:
        return [pending.ask for pending in self._outstanding]

    # The port

    async def announce(self, presence: Presence) -> Work | None:
        self._answerable()
        self.presences.append(presence)
        self._changed.set()
        if self.exit:
            return Work(exit=self.exit)
        return None if self.keep is None else Work(keep=self.keep[0], keep_version=self.keep[1])

    async def ask(self, ask: Ask) -> Work:
        self._answerable()
        if self.exit:
            return Work(exit=self.exit)
        mine = Outstanding(ask, asyncio.get_running_loop().create_future())
        self._outstanding.append(mine)
        self.asks.append(ask)
        open_asks = sum(not pending.answer.done() for pending in self._outstanding)
        self.most_outstanding = max(self.most_outstanding, open_asks)
        self._serve()
        self._changed.set()
        try:
            async with asyncio.timeout(self.ask_wait_s):
                return self._with_keep(ask, await mine.answer)
        except TimeoutError:
            # Its time may end in the turn of the loop in which it was answered.
            answered = mine.answer.done() and not mine.answer.cancelled()
            return self._with_keep(ask, mine.answer.result() if answered else Work())
        finally:
            self._outstanding.remove(mine)
            self._changed.set()

    async def report(self, report: Report) -> ReportReply:
        self._answerable()
        self.snapshots.update(report.snapshots)
        self.reports.append((asyncio.get_running_loop().time(), report))
        self._changed.set()
        named = set(report.renewals)
        tickets = tuple((key, self._ticket(key)) for key in report.wants_tickets)
        return ReportReply(
            cancelled=tuple(self.cancelled & named),
            fenced=tuple(self.fenced & named),
            snapshot_tickets=tickets,
            watched=tuple(self.watched & named),
            next_in_s=self.next_in_s,
        )

    async def finish(self, finish: Finish) -> Verdict:
        self._answerable()
        if finish.lease_key in self.fenced:
            self._changed.set()
            return Verdict.FENCED
        self.finishes.append(finish)
        self._changed.set()
        return Verdict.ACCEPTED

    async def hand_back(
        self,
        lease_key: LeaseKey,
        replica_id: str,
        reason: str,
        snapshot: StoredSnapshot | None = None,
    ) -> Verdict:
        self._answerable()
        if lease_key in self.fenced:
            self._changed.set()
            return Verdict.FENCED
        self.hand_backs.append((lease_key, replica_id, reason))
        if snapshot is not None:
            self.snapshots[lease_key] = snapshot
        self._changed.set()
        return Verdict.ACCEPTED

    def _with_keep(self, ask: Ask, work: Work) -> Work:
        upcoming, version = self.upcoming or ((), "")
        if ask.upcoming is not None and ask.upcoming != version:
            work = replace(work, upcoming=upcoming, upcoming_version=version)
        keep, version = self.keep or ((), "")
        if version == ask.kept_version:
            return work
        return replace(work, keep=keep, keep_version=version)

    def _ticket(self, lease_key: LeaseKey) -> UploadTicket:
        self.tickets += 1
        key = f"s/{lease_key.request_id}/{lease_key.attempt}/{self.tickets}.bin"
        return UploadTicket(key, f"http://storage/{key}", "application/octet-stream", 2**30)

    def _answerable(self) -> None:
        if self.away:
            self.refused_calls += 1
            self._changed.set()
            raise Unavailable("The ingress is away.")

    def _serve(self) -> None:
        for outstanding in self._outstanding:
            count = min(outstanding.ask.slots, len(self._waiting))
            if count and not outstanding.answer.done():
                leases = tuple(self._waiting.popleft() for _ in range(count))
                outstanding.answer.set_result(Work(leases=leases))

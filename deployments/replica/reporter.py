"""What a replica tells the ingress: announcements, periodic reports and the engine's usage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from deployments.replica.attempt import Attempt
from deployments.replica.config import IngressLink
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.lease import (
    EngineUsage,
    LeaseKey,
    Presence,
    ReplicaStage,
    Report,
    ReportReply,
    Work,
)
from serve_app.domain.progress import Loading, StoredSnapshot, describe, to_plain

log = logging.getLogger(__name__)


class Snapshots:
    """Snapshots of running attempts, as reports need them. Here there are none."""

    def wants_tickets(self) -> tuple[LeaseKey, ...]:
        """Attempts that need an upload ticket now."""
        return ()

    def wants_tickets_at_shutdown(self) -> tuple[LeaseKey, ...]:
        """Attempts that need a ticket before shutdown: all with enough work to lose."""
        return ()

    def list_unreported(self) -> Sequence[tuple[LeaseKey, StoredSnapshot]]:
        """Snapshots that no report has carried yet."""
        return ()

    def mark_reported(self, snapshots: Sequence[tuple[LeaseKey, StoredSnapshot]]) -> None:
        """Record that a report with these snapshots was answered."""

    def use_tickets(self, tickets: Sequence[tuple[LeaseKey, UploadTicket]]) -> None:
        """Use the tickets that arrived."""

    def latest(self, lease_key: LeaseKey) -> StoredSnapshot | None:
        del lease_key
        return None


@dataclass(frozen=True, slots=True)
class ReportedState:
    """What a replica says of itself: its counters, what it loads, and the endpoints whose weights
    are on its device."""

    counts: Callable[[], Mapping[str, Any]]
    loading: Callable[[], tuple[Loading, ...]]
    hot: Callable[[], tuple[str, ...]]


class Reporter:
    """Sends one report for all attempts every ``report_interval_s``, or as rarely as the replies
    allow while no client follows them. It runs on the event loop, which the engine cannot block.

    An attempt is in no report before it has run for ``confirm_after_s``, and then an early report
    confirms its lease: most short attempts cost no report. (Measured: one costs the ingress and the
    database a tenth of a request.)
    """

    def __init__(
        self,
        link: IngressLink,
        attempts: Mapping[LeaseKey, Attempt],
        reported: ReportedState,
        snapshots: Snapshots,
        on_reply: Callable[[ReportReply], None],
    ) -> None:
        self._link = link
        self._attempts = attempts
        self._reported = reported
        self._snapshots = snapshots
        self._on_reply = on_reply
        self._usage = UsageDelta(reported.counts)
        self._next_in_s: WeakKeyDictionary[Attempt, float] = WeakKeyDictionary()  # of the confirmed
        self._leased = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._loop(), name="reports")

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def wake(self) -> None:
        """Wake the reporter: there are new attempts."""
        self._leased.set()

    async def last(self) -> None:
        """Report immediately, and ask for upload tickets for all work that would be lost."""
        await self._report(
            list(self._attempts.values()),
            self._snapshots.wants_tickets_at_shutdown(),
            # With the whole of Darkroom the ingress stops too, perhaps before this replica.
            level=logging.DEBUG,
        )

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _loop(self) -> None:
        reported_at = self._link.clock.monotonic()
        calls = self._link.calls
        while True:
            if not self._attempts:
                self._leased.clear()
                await self._leased.wait()
            first_s = min(
                (self._unreported_s(running) for running in self._attempts.values()), default=0
            )
            await asyncio.sleep(min(calls.report_interval_s, first_s / 3))
            now = self._link.clock.monotonic()
            due = [
                attempt
                for attempt in self._attempts.values()
                if now - attempt.state.leased_at >= self._unreported_s(attempt)
            ]
            wants = self._snapshots.wants_tickets()
            urgent = wants or self._snapshots.list_unreported()
            if now - reported_at >= (calls.report_interval_s if urgent else self._interval_s()):
                reported_at = now
                await self._report(due, wants)
            elif unconfirmed := [key for key in due if key not in self._next_in_s]:
                await self._report(unconfirmed, ())

    def _interval_s(self) -> float:
        """Seconds between two reports: short as soon as a client follows one of the attempts."""
        allowed = [self._next_in_s.get(attempt, 0.0) for attempt in self._attempts.values()]
        return max(self._link.calls.report_interval_s, min(allowed, default=0.0))

    def _unreported_s(self, attempt: Attempt) -> float:
        """Seconds of an attempt in which it is in no report."""
        return min(self._link.calls.confirm_after_s, attempt.lease.expires_in_s / 10)

    async def _report(
        self,
        attempts: Sequence[Attempt],
        wants: tuple[LeaseKey, ...],
        level: int = logging.WARNING,
    ) -> None:
        snapshots = self._snapshots.list_unreported()
        report = self._make_report(attempts, snapshots, wants)
        # Confirming once is enough: if this report is lost, the next regular one renews.
        self._next_in_s.update(dict.fromkeys(attempts, 0.0))
        printed = {attempt.lease_key: attempt.printed for attempt in attempts}
        arrived = False
        try:
            async with asyncio.timeout(self._link.calls.call_timeout_s):
                reply = await self._link.port.report(report)
            arrived = True
        except Exception as error:
            # Generations continue: their leases live for a while without renewal.
            log.log(level, "The ingress did not accept a report (%r).", error)
            return
        finally:
            for key, lines in report.lines:  # those of others may be in another report
                printed[key].end_report(() if arrived else lines)
        self._next_in_s.update(dict.fromkeys(attempts, reply.next_in_s))
        self._snapshots.mark_reported(snapshots)
        self._snapshots.use_tickets(reply.snapshot_tickets)
        self._on_reply(reply)

    def _make_report(
        self,
        attempts: Sequence[Attempt],
        snapshots: Sequence[tuple[LeaseKey, StoredSnapshot]],
        wants: tuple[LeaseKey, ...],
    ) -> Report:
        loading = self._reported.loading()
        return Report(
            replica_id=self._link.identity.replica_id,
            renewals=tuple(attempt.lease_key for attempt in attempts),
            progress=tuple(
                (attempt.lease_key, progress)
                for attempt in attempts
                if (progress := attempt.state.progress) is not None
            ),
            previews=tuple(
                (attempt.lease_key, preview)
                for attempt in attempts
                if (preview := attempt.previewer.take()) is not None
            ),
            detail=describe(loading),
            pool=self._link.identity.pool,
            computed=self._usage.take(),
            snapshots=tuple(snapshots),
            wants_tickets=wants,
            loading=to_plain(loading),
            lines=tuple(
                (attempt.lease_key, lines)
                for attempt in attempts
                if (lines := attempt.printed.take())
            ),
            hot=self._reported.hot(),
        )


async def announce(
    link: IngressLink, stage: ReplicaStage, slots: int, loading: tuple[Loading, ...] = ()
) -> Work | None:
    """Announce the replica's stage, and return the reply. Errors are only logged, at debug level:
    lease polls carry the same information, and a silent replica expires. Then the reply is empty.
    While everything starts, the ingress often cannot answer yet."""
    presence = Presence(
        link.identity.replica_id,
        link.identity.actor_id,
        link.identity.pool,
        stage,
        describe(loading),
        to_plain(loading),
        slots,
        link.identity.node,
    )
    try:
        async with asyncio.timeout(min(2.0, link.calls.call_timeout_s)):
            return await link.port.announce(presence)
    except Exception as error:
        log.debug("Could not notify the ingress: this replica is %s (%r).", stage.value, error)
        return Work()


_PARTS: Mapping[str, str] = {"encoder": "encoders", "autoencoder": "autoencoders"}


class UsageDelta:
    """Increase of a replica's counters from one report to the next."""

    def __init__(self, counts: Callable[[], Mapping[str, Any]]) -> None:
        """``counts``: see ``Engine.counts`` and ``StorageCalls.counts``. Numbers only grow;
        pipelines are named by their weights."""
        self._counts = counts
        self._reported: Mapping[str, Any] = {"steps": 0}

    def take(self) -> EngineUsage:
        """Increase since the last call. If a report is lost, its numbers are lost too, which is
        better than counting them twice."""
        before, now = self._reported, self._counts()
        self._reported = now
        return EngineUsage(
            steps=now["steps"] - before["steps"],
            forwards=_increase(_by_part(before, "batch_sizes"), _by_part(now, "batch_sizes")),
            not_merged=_increase(_by_part(before, "not_merged"), _by_part(now, "not_merged")),
            seconds=_increase(_by_family(before), _by_family(now)),
            parallel_calls=_increase(
                before.get("parallel_calls", {}), now.get("parallel_calls", {})
            ),
            storage_calls=_increase(before.get("storage_calls", {}), now.get("storage_calls", {})),
            storage_seconds=_increase(
                before.get("storage_seconds", {}), now.get("storage_seconds", {})
            ),
        )


def _by_part(counts: Mapping[str, Any], name: str) -> Mapping[Any, int]:
    """Counters by part. Those of denoisers are at the top level."""
    parts = {"denoiser": counts} | {part: counts.get(key, {}) for part, key in _PARTS.items()}
    return {
        (part, key): count
        for part, its in parts.items()
        for key, count in its.get(name, {}).items()
    }


def _by_family(counts: Mapping[str, Any]) -> Mapping[Any, float]:
    totals: dict[tuple[str, str], float] = {}
    for (name, stage), seconds in counts.get("seconds", {}).items():
        key = name.partition(":")[0], stage
        totals[key] = totals.get(key, 0.0) + seconds
    return totals


def _increase(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return {key: more for key in now if (more := now[key] - before.get(key, 0)) > 0}

"""Replica of a pool of executors: it leases, runs and finishes as a replica with an engine does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from deployments.executors.attempt import ExecutorAttempt
from deployments.executors.checks import OutputChecks
from deployments.executors.fal.session import AppSession, OpenAppSessions
from deployments.executors.files import RequestFiles
from deployments.executors.hosts import AppHost
from deployments.executors.partials import PartialSender
from deployments.ingress_client.repeating import ExecutorIngress, RepeatedSource
from deployments.replica.attempt_state import StopReason
from deployments.replica.config import IngressLink
from deployments.replica.leased_attempts import LeasedAttempts, OutcomeSender
from deployments.replica.poller import LeasePoller, SlotQueue, slot_offer
from deployments.replica.reporter import ReportedState, Reporter, announce
from deployments.replica.timeline import TraceReports
from deployments.safety.checkers import Checkers
from deployments.transfer.fetcher import Fetcher
from deployments.transfer.uploader import FileSink, StorageCalls
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import Misconfigured
from serve_app.domain.executors.hosted import moves
from serve_app.domain.lease import Ask, Lease, LeaseKey, ReplicaStage, ReportReply, Work
from serve_app.domain.ports import FileSigner
from serve_app.domain.progress import StoredSnapshot
from serve_app.domain.request import Priority

log = logging.getLogger(__name__)


def repeated(
    source: ExecutorIngress, link: IngressLink, *, without_end: bool = False
) -> RepeatedSource:
    """The ingress, whose calls are repeated as long as those that hand in an outcome.
    ``without_end``: until the caller is cancelled."""
    give_up_s = inf if without_end else link.calls.finish_give_up_s
    return RepeatedSource(
        source, link.backoff.delays, link.clock, link.calls.call_timeout_s, give_up_s
    )


class NoSnapshots:
    """Snapshots of requests that have none: an app's state is its own."""

    def wants_tickets(self) -> tuple[LeaseKey, ...]:
        return ()

    def wants_tickets_at_shutdown(self) -> tuple[LeaseKey, ...]:
        return ()

    def unreported(self) -> Sequence[tuple[LeaseKey, StoredSnapshot]]:
        return ()

    def mark_reported(self, snapshots: Sequence[tuple[LeaseKey, StoredSnapshot]]) -> None:
        """Do nothing."""

    def use_tickets(self, tickets: Sequence[tuple[LeaseKey, UploadTicket]]) -> None:
        """Do nothing."""

    def latest(self, held: LeaseKey) -> StoredSnapshot | None:
        del held
        return None


@dataclass(frozen=True, slots=True)
class ExecutorResources:
    """What the attempts of a replica share."""

    host: AppHost
    fetcher: Fetcher
    uploader: FileSink
    ingress: ExecutorIngress
    scratch: Path  # folders of the requests
    storage_calls: StorageCalls = field(default_factory=StorageCalls)  # of fetcher and uploader
    checkers: Checkers | None = None  # None: files cannot be checked
    signer: FileSigner | None = None  # of files; None: nothing can be signed
    snapshots: NoSnapshots = field(default_factory=NoSnapshots)


class ExecutorReplica:
    """Main object of a replica of executors. Use on one event loop."""

    def __init__(
        self, link: IngressLink, resources: ExecutorResources, slots: int, close_within_s: float
    ) -> None:
        self._link = link
        self._resources = resources
        self._max_slots = slots
        self._close_within_s = close_within_s
        self._traces = TraceReports(link)
        self._attempts: LeasedAttempts[ExecutorAttempt] = LeasedAttempts(
            self._make_attempt,
            OutcomeSender(link),
            self._traces,
            self._slot_freed,
            resources.snapshots.latest,
        )
        self.sessions = OpenAppSessions(self._attempts)
        self._slots = SlotQueue(slots, self._attempts.running)
        self._poller = LeasePoller(link, self._make_ask, self._on_work)
        self._reporter = Reporter(
            link,
            self._attempts.running,
            ReportedState(lambda: {"steps": 0, **resources.storage_calls.counts()}, lambda: ()),
            resources.snapshots,
            self._on_reply,
        )
        self._closed = False

    async def start(self) -> None:
        """Start the replica: it is ready at once, since apps start with their requests."""
        await announce(self._link, ReplicaStage.STARTING, self._max_slots)
        self._reporter.start()
        self._poller.start()
        identity = self._link.identity
        log.info("Replica %s of pool %s is ready.", identity.replica_id, identity.pool)

    async def aclose(self) -> None:
        """Stop polling, let requests end for half of ``close_within_s``, and hand back the rest.

        Sessions are handed back at once, and requests whose provider goes on with them; one whose
        result is the answer of a paid call may take all of the time."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        close_by = loop.time() + self._close_within_s
        self._poller.stop()
        await announce(self._link, ReplicaStage.DRAINING, self._max_slots)
        await self._poller.aclose()
        for attempt in list(self._attempts.running.values()):
            if moves(attempt.lease.endpoint) or isinstance(attempt, AppSession):
                attempt.stop(StopReason.HANDED_BACK)
        # An app's work cannot be resumed, so what is nearly done may end.
        await self._attempts.ended(loop.time() + self._close_within_s / 2)
        self._attempts.hand_back()
        await self._attempts.ended(loop.time() + (close_by - loop.time()) / 2)
        self._attempts.abandon()
        await self._attempts.ended(close_by)
        self._attempts.cancel()
        await self._reporter.aclose()
        await self._traces.aclose()
        await self._resources.host.aclose(max(close_by - loop.time(), 1.0))
        await self._resources.uploader.aclose()
        await self._resources.fetcher.aclose()

    def check_health(self) -> None:
        """Raise ``Misconfigured`` if a required part has ended: Serve then replaces the replica."""
        parts = (("asks", self._poller.alive), ("reports", self._reporter.alive))
        ended = [name for name, alive in parts if not alive and not self._closed]
        if ended:
            raise Misconfigured(f"Stopped by an internal error: {', '.join(ended)}. See the log.")

    def _make_ask(self) -> Ask:
        identity = self._link.identity
        offer = slot_offer(self._max_slots, self._attempts.running.values())
        return Ask(
            replica_id=identity.replica_id,
            actor_id=identity.actor_id,
            pool=identity.pool,
            slots=offer.slots,
            held=tuple(self._attempts.running),
            hot=self._resources.host.ready_endpoints,
            full_tenants=offer.full_tenants,
            wait_s=self._link.calls.full_tenant_wait_s if offer.full_tenants else None,
            node=identity.node,
        )

    def _on_work(self, work: Work) -> None:
        self._attempts.take(work)
        if work.leases:
            self._reporter.leased()

    def _on_reply(self, reply: ReportReply) -> None:
        for held in reply.cancelled:
            self._attempts.stop(held, StopReason.CANCELLED)
        for held in reply.fenced:
            self._attempts.stop(held, StopReason.FENCED)
        for held in reply.watched:
            if (attempt := self._attempts.running.get(held)) is not None:
                attempt.previewer.want()

    def _slot_freed(self) -> None:
        self._slots.wake()
        self._poller.slot_freed()

    def _make_attempt(self, lease: Lease) -> ExecutorAttempt:
        resources = self._resources
        folder = resources.scratch / f"{lease.request_id}-{lease.attempt}"
        # The answer of a paid call is kept until it is stored, or the lease is lost.
        is_paid = moves(lease.endpoint) is False
        ingress = repeated(resources.ingress, self._link, without_end=is_paid)
        files = RequestFiles(
            lease,
            folder,
            resources.fetcher,
            resources.uploader,
            ingress,
            OutputChecks(lease, resources.checkers, ingress),
            resources.signer,
        )
        partials = PartialSender(lease.held, ingress, self._link.backoff)
        clock = self._link.clock
        is_session = lease.priority is Priority.REALTIME
        attempt = (AppSession if is_session else ExecutorAttempt)(
            lease,
            resources.host,
            files,
            partials,
            ingress,
            clock,
            self._slots,
            self._slot_freed,
        )
        running = self._attempts.running.values()
        attempt.follow(each for each in running if each.lease.request_id == lease.request_id)
        return attempt

"""Replica of a pool of executors: it lives as a replica with an engine does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from deployments.executors.attempt import AttemptParts, ExecutorAttempt
from deployments.executors.checks import OutputChecks
from deployments.executors.files import RequestFiles
from deployments.executors.hosts import AppHost
from deployments.executors.partials import PartialSender
from deployments.executors.session import AppSession, OpenAppSessions
from deployments.ingress_client.repeating import ExecutorIngress, RepeatedSource
from deployments.replica.attempt_state import StopReason
from deployments.replica.config import IngressLink
from deployments.replica.replica import Replica
from deployments.safety.checkers import Checkers
from deployments.transfer.fetcher import Fetcher
from deployments.transfer.uploader import FileSink, StorageCalls
from serve_app.domain.executors.hosted import is_paid_answer
from serve_app.domain.lease import Lease
from serve_app.domain.ports import FileSigner
from serve_app.domain.request import Priority


def repeat_calls(
    source: ExecutorIngress, link: IngressLink, *, without_end: bool = False
) -> RepeatedSource:
    """The ingress, whose calls are repeated as long as those that hand in an outcome.
    ``without_end``: until the caller is cancelled."""
    give_up_s = inf if without_end else link.calls.finish_give_up_s
    return RepeatedSource(
        source, link.backoff.delays, link.clock, link.calls.call_timeout_s, give_up_s
    )


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


class ExecutorReplica(Replica[ExecutorAttempt]):
    """Replica of executors. It is ready at once, since apps start with their requests."""

    def __init__(
        self,
        link: IngressLink,
        resources: ExecutorResources,
        slots: int,
        close_within_s: float,
        *,
        end_process: Callable[[], None],
    ) -> None:
        super().__init__(link, slots, close_within_s, end_process)
        self._resources = resources
        self.sessions = OpenAppSessions(self._running)

    async def _let_end(self, close_by: float) -> None:
        """Let requests end for half of the time: an app's work cannot be resumed, so what is nearly
        done may end. One whose result is the answer of a paid call may take all of the time.

        Sessions are handed back at once, and requests whose provider goes on with them. Under an
        ended term nothing would be taken, so all are dropped.
        """
        loop = asyncio.get_running_loop()
        for attempt in list(self._attempts.values()):
            if self._leaving is not None:
                attempt.stop(StopReason.FENCED)
            elif attempt.goes_elsewhere:
                attempt.stop(StopReason.HANDED_BACK)
        await self._running.wait_for_all(loop.time() + (close_by - loop.time()) / 2)

    async def _close(self, within_s: float) -> None:
        await self._resources.host.aclose(max(within_s, 1.0))
        await self._resources.uploader.aclose()
        await self._resources.fetcher.aclose()

    def _hot(self) -> tuple[str, ...]:
        return self._resources.host.ready_endpoints

    def _counts(self) -> Mapping[str, Any]:
        return {"steps": 0, **self._resources.storage_calls.counts()}

    def _make_attempt(self, lease: Lease) -> ExecutorAttempt:
        resources = self._resources
        folder = resources.scratch / f"{lease.request_id}-{lease.attempt}"
        # The answer of a paid call is kept until it is stored, or the lease is lost.
        is_paid = is_paid_answer(lease.endpoint)
        ingress = repeat_calls(resources.ingress, self._link, without_end=is_paid)
        files = RequestFiles(
            lease,
            folder,
            resources.fetcher,
            resources.uploader,
            ingress,
            OutputChecks(lease, resources.checkers, ingress),
            resources.signer,
        )
        parts = AttemptParts(
            resources.host,
            files,
            PartialSender(lease.key, ingress, self._link.backoff),
            ingress,
            self._link.clock,
            self._slots,
            self._slot_freed,
        )
        is_session = lease.priority is Priority.REALTIME
        attempt = (AppSession if is_session else ExecutorAttempt)(lease, parts)
        running = self._attempts.values()
        attempt.follow(
            sibling for sibling in running if sibling.lease.request_id == lease.request_id
        )
        return attempt

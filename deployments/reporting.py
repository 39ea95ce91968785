"""Renews the leases and tells how far the attempts are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from deployments.attempt import Attempt
from deployments.keeping import Keeper
from deployments.replica_config import Identity, ReplicaConfig
from deployments.tally import Tally
from serve_app.domain.lease import Held, Report, ReportReply
from serve_app.domain.loading import Loading, in_words, to_plain
from serve_app.domain.ports import Clock, LeasePort

log = logging.getLogger(__name__)


class Reporter:
    """One report for all attempts every ``report_interval_s``, on the event loop, which the engine
    cannot block. A lease that has just come and still runs is confirmed by an early report of its
    own, within ``confirm_within_s``; one that ends sooner needs none.
    """

    def __init__(
        self,
        port: LeasePort,
        identity: Identity,
        attempts: Mapping[Held, Attempt],
        on_reply: Callable[[ReportReply], None],
        loading: Callable[[], tuple[Loading, ...]],
        config: ReplicaConfig,
        clock: Clock,
        tally: Tally,
        keeper: Keeper,
    ) -> None:
        """``loading`` says what the replica loads now."""
        self._port = port
        self._identity = identity
        self._attempts = attempts
        self._on_reply = on_reply
        self._loading = loading
        self._config = config
        self._clock = clock
        self._tally = tally
        self._keeper = keeper
        self._leased = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._loop(), name="reports")

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def leased(self) -> None:
        """There are new attempts."""
        self._leased.set()

    async def last(self) -> None:
        """Report at once, and ask for tickets for all that would be lost."""
        await self._report(list(self._attempts.values()), self._keeper.wants_now())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _loop(self) -> None:
        reported_at = self._clock.monotonic()
        # A lease that comes just after a look is seen at the next, and is old enough at the one
        # after.
        look_s = self._config.confirm_within_s / 3
        while True:
            if not self._attempts:
                self._leased.clear()
                await self._leased.wait()
            await asyncio.sleep(look_s)
            now = self._clock.monotonic()
            if now - reported_at >= self._config.report_interval_s:
                reported_at = now
                await self._report(list(self._attempts.values()), self._keeper.wants())
            else:
                await self._report(self._unconfirmed(now - look_s), ())

    def _unconfirmed(self, leased_before: float) -> list[Attempt]:
        return [
            attempt
            for attempt in self._attempts.values()
            if not attempt.confirmed and attempt.leased_at <= leased_before
        ]

    async def _report(self, attempts: Sequence[Attempt], wants: tuple[Held, ...]) -> None:
        if not attempts:
            return
        snapshots, loading = self._keeper.untold(), self._loading()
        report = Report(
            replica_id=self._identity.replica_id,
            renewals=tuple(attempt.held for attempt in attempts),
            progress=tuple(
                (attempt.held, attempt.progress)
                for attempt in attempts
                if attempt.progress is not None
            ),
            previews=tuple(
                (attempt.held, preview)
                for attempt in attempts
                if (preview := attempt.previewer.take()) is not None
            ),
            detail=in_words(loading),
            pool=self._identity.pool,
            computed=self._tally.take(),
            snapshots=snapshots,
            wants_tickets=wants,
            loading=to_plain(loading),
        )
        for attempt in attempts:
            # Said once is enough: if this report is lost, the next regular one renews in time.
            attempt.confirmed = True
        try:
            async with asyncio.timeout(self._config.call_timeout_s):
                reply = await self._port.report(report)
        except Exception as error:
            # The generations go on; the leases live for a while without renewal.
            log.warning("The ingress did not take a report (%r).", error)
            return
        self._keeper.told(snapshots)
        self._keeper.take(reply.snapshot_tickets)
        self._on_reply(reply)

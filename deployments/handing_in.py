"""Hands attempts in, until it is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from deployments.attempt import Attempt
from deployments.backoff import Backoff
from deployments.phase import Stop
from deployments.replica_config import Identity, ReplicaConfig
from serve_app.domain.errors import Fenced
from serve_app.domain.lease import Finish, Verdict
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock, LeasePort
from serve_app.domain.snapshot import StoredSnapshot

log = logging.getLogger(__name__)


class HandIn:
    """``finish`` and ``hand_back`` of the port, tried again while the ingress is away."""

    def __init__(
        self,
        port: LeasePort,
        identity: Identity,
        config: ReplicaConfig,
        clock: Clock,
        backoff: Backoff,
    ) -> None:
        self._port = port
        self._identity = identity
        self._config = config
        self._clock = clock
        self._backoff = backoff

    async def finish(self, attempt: Attempt, outcome: Outcome) -> Verdict | None:
        """None when nobody answered in ``finish_give_up_s``."""
        finish = Finish(attempt.held, self._identity.replica_id, outcome)
        return await self._insist(attempt, lambda: self._port.finish(finish))

    async def hand_back(
        self, attempt: Attempt, reason: str, snapshot: StoredSnapshot | None
    ) -> Verdict | None:
        held, replica_id = attempt.held, self._identity.replica_id
        return await self._insist(
            attempt, lambda: self._port.hand_back(held, replica_id, reason, snapshot)
        )

    async def _insist(
        self, attempt: Attempt, call: Callable[[], Awaitable[Verdict]]
    ) -> Verdict | None:
        give_up_at = self._clock.monotonic() + self._config.finish_give_up_s
        unanswered = False
        for delay_s in self._backoff.delays():
            # A lease is over too when the call was taken and its answer got lost. Only another
            # answer can tell that from the fence, and whether the files are to stay.
            if attempt.stopped is Stop.FENCED and not unanswered:
                return Verdict.FENCED
            try:
                async with asyncio.timeout(self._config.call_timeout_s):
                    return await call()
            except Fenced:
                return Verdict.FENCED
            except Exception as error:
                unanswered = True
                log.warning("The ingress did not take the outcome (%r); trying again.", error)
            if self._clock.monotonic() > give_up_at:
                break
            await asyncio.sleep(delay_s)
        log.error("Nobody took the outcome; it is dropped, and the request will be tried again.")
        return None

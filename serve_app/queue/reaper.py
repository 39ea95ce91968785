"""Periodic recovery: expired leases and deadlines, dead replicas, idle lanes."""

from __future__ import annotations

import logging

from serve_app.domain.lease import Death, Liveness
from serve_app.postgres.database import Database
from serve_app.postgres.leader_election import LeaderElection
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.transactions.cancel import any_late, expire_requests
from serve_app.queue.transactions.end_attempt import EndAttempts, EndReason
from serve_app.telemetry.logs import log_context
from serve_app.telemetry.queue_metrics import QueueMeter

log = logging.getLogger(__name__)

SILENT_S = 300.0
"""Time after its last call at which the term of a replica ends that the cluster believes alive.
Its leases ran out long before; a call takes at most a minute, also while an ingress hangs."""

HOLDERS = """
-- name: find_holders
SELECT DISTINCT actor_id, false FROM requests WHERE state = 'running' AND actor_id IS NOT NULL
UNION ALL
SELECT actor_id, true FROM replicas
WHERE stage <> 'starting' AND seen_at < now() - make_interval(secs => %(silent_s)s)
"""
FORGET_PROGRESS = """
-- name: forget_progress
DELETE FROM progress p WHERE NOT EXISTS (
    SELECT FROM requests r
    WHERE r.id = p.request_id AND r.attempt = p.attempt AND r.lease_until IS NOT NULL)
"""

LOOKS_FOR_S = 4.0
"""A process that looked for dead actors and is gone is replaced after this time at the latest."""
STOPPED = Death("Darkroom was stopped", by_itself=False)
SILENT = Death(f"it was silent for {SILENT_S / 60:g} minutes", by_itself=False)


class Reaper:
    """Find and end whatever time or death has ended.

    Any number of ingress processes may do this at once: each row is locked while it is decided on,
    and decided on once.
    """

    def __init__(
        self,
        database: Database,
        limits: QueueLimits,
        liveness: Liveness,
        election: LeaderElection,
        state: QueueState,
        after: AfterCommit,
        metrics: QueueMeter,
    ) -> None:
        self._database = database
        self._limits = limits
        self._liveness = liveness
        self._election = election
        self._state = state
        self._after = after
        self._metrics = metrics
        self._attempts = EndAttempts(database, limits)

    async def reap(self) -> None:
        """End the attempts whose lease or overall deadline has run out.

        This runs only after the database has answered for one lease period. While this process or
        the database was away, replicas could not renew their leases, and they are still working.
        The same is true after a jump of the database's clock.
        """
        armed = self._knows(self._limits.lease_s)
        self._metrics.recovery(armed=armed)
        if not armed:
            return
        while ended := [
            *await self._attempts.end_expired(),
            *await self._attempts.end_out_of_time(self._limits.overtime_s),
        ]:
            for attempt in ended:
                late = attempt.how is EndReason.OUT_OF_TIME
                if not late:
                    self._metrics.lease_expired(attempt.pool)
                with log_context(attempt.lease_key.request_id):
                    log.warning(
                        "Request %s, attempt %s, is taken from replica %s: its %s",
                        attempt.lease_key.request_id,
                        attempt.lease_key.attempt,
                        attempt.replica_id,
                        "deadline is over" if late else "lease ran out",
                    )
            self._after.publish_end(ended, fenced=True)

    def _knows(self, last_s: float) -> bool:
        """Return whether this process and the database were there for the last so many seconds."""
        return self._state.stats.healthy_s >= last_s

    async def end_dead_replicas(self) -> None:
        """End the terms of replicas that are known to be dead, and their leases, at once.

        One process of each cluster asks the cluster who is dead, because its list of actors costs
        the control store as much as it is long. The others read the ended terms.

        A replica whose process lives on is told to end it. What it computed counts against a
        request only if the process ended by itself.
        """
        actors, deaths = self._state.stats.actors(), dict[str, Death]()
        leads = f"actors/{self._liveness.cluster}"
        if await self._election.leads(leads, LOOKS_FOR_S):
            try:
                actors, deaths = await self._find_dead(actors)
            except Exception:
                await self._election.resign(leads)  # another may still reach the cluster
                raise
        if not actors:
            return
        known = await self._state.terms.end(deaths)
        ended = frozenset(known.keys() & actors)
        # Before their requests can be leased to them again.
        self._state.waiters.end_terms(ended)
        lost = frozenset(actor for actor in ended if known[actor].by_itself)
        stopped = frozenset(
            actor for actor in ended - lost if known[actor].reason.startswith(STOPPED.reason)
        )
        await self._attempts.confirm(self._state.waiters.named_by(lost))
        await self._end_of(stopped, EndReason.STOPPED)
        await self._end_of(lost, EndReason.LOST)
        await self._end_of(ended - lost - stopped, EndReason.INTERRUPTED)
        await self._state.replicas.remove_dead(ended)

    async def _find_dead(self, present: frozenset[str]) -> tuple[frozenset[str], dict[str, Death]]:
        """Actors of replicas that are ``present`` or have requests, and how the dead ones died."""
        rows = await self._database.rows(HOLDERS, {"silent_s": SILENT_S})
        actors = present.union(str(actor) for actor, _ in rows)
        if not actors:
            return actors, {}
        named = sorted(actors)
        of_previous_run = await self._liveness.of_previous_run(named)
        deaths = await self._liveness.dead(named)
        silent = [actor for actor, is_silent in rows if is_silent]
        if silent:
            await self._state.stats.refresh_replicas()  # they look silent after a jump of its clock
        # Nothing is known of them from a time in which this process or the database was away.
        if not self._knows(SILENT_S):
            silent = []
        return actors, {
            **dict.fromkeys(silent, SILENT),
            **dict.fromkeys(of_previous_run, STOPPED),
            **deaths,
        }

    async def _end_of(self, actors: frozenset[str], how: EndReason) -> None:
        while actors and (ended := await self._attempts.end_of_actors(sorted(actors), how)):
            for attempt in ended:
                key = attempt.lease_key
                with log_context(key.request_id):
                    log.warning(
                        "Replica %s is gone (%s); request %s, attempt %s, ends",
                        attempt.replica_id,
                        how,
                        key.request_id,
                        key.attempt,
                    )
            self._after.publish_end(ended)

    async def expire(self) -> None:
        """End queued requests whose start deadline or overall deadline has passed."""
        if not await any_late(self._database):
            return
        for failure, in_all in ((messages.not_in_time(), True), (messages.expiry(), False)):
            while removed := await expire_requests(self._database, failure, in_all=in_all):
                self._after.publish_removal(removed, failure)

    async def sweep_lanes(self) -> None:
        """Correct the lanes with work, put idle ones to sleep, and wake those with work."""
        await self._state.lanes.correct(self._state.stats.lanes())
        if self._state.snapshots.is_due("sleep"):
            await self._state.lanes.put_to_sleep()
        await self._state.lanes.wake()
        for pool, left_out in self._state.waiters.left_out().items():
            await self._state.lanes.skip_credit(pool, left_out)

    async def write_charges(self) -> None:
        """Write the charges to lanes that no leasing has written."""
        if self._state.snapshots.is_due("charges"):
            await self._state.charges.flush()

    async def forget_progress(self) -> None:
        """Delete the progress of attempts that have ended."""
        await self._database.rows(FORGET_PROGRESS)

"""Operator actions: PostgreSQL behind the port ``Operations``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serve_app.domain.audit.acts import Actor, NewAct
from serve_app.domain.errors import AlreadyFinal, RequestActive, RequestNotFound, Unavailable
from serve_app.domain.lease import LeaseKey
from serve_app.domain.operations import Pause, PauseKind
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock
from serve_app.domain.request import CancelVerdict, Priority, State
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.postgres.fair_reads import FairReads
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.audit_log import PostgresAuditLog
from serve_app.queue.fairness.fair_queue import HEAD_START_S
from serve_app.queue.fairness.pauses import Pauses
from serve_app.queue.overview import OverviewReader
from serve_app.queue.removal import Removal
from serve_app.queue.state.warm import StoredWarmTargets
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import known_id
from serve_app.queue.transactions.cancel import fail_request
from serve_app.queue.transactions.end_attempt import EndAttempts

CURRENT = """
SELECT CASE state WHEN 'following' THEN 'queued' ELSE state END, attempt, lease_nonce
FROM requests WHERE id = %(id)s::uuid
"""
# Its rank moves by the difference of the head starts.
PRIORITISE = f"""
-- name: prioritise
WITH target AS (
    SELECT id, priority FROM requests
    WHERE id = %(id)s::uuid AND state IN ('queued', 'following') FOR NO KEY UPDATE
),
moved AS (
    UPDATE requests r SET
        priority = %(priority)s,
        ranked_at = r.ranked_at + (t.priority - %(priority)s) * make_interval(secs => %(level_s)s),
        events = r.events + 1
    FROM target t WHERE r.id = t.id AND t.priority NOT IN (%(priority)s, %(realtime)s)
    RETURNING r.id, r.tenant, r.pool, r.events
),
logged AS (
    INSERT INTO events (request_id, sequence, message) SELECT id, events, %(message)s FROM moved
),
noted AS ({insert_audit("id::text", "moved")})
SELECT t.priority, m.tenant, m.pool FROM target t LEFT JOIN moved m ON m.id = t.id
"""
RECORD = """
-- name: write_audit
INSERT INTO audit (actor, address, action, subject, detail)
SELECT actor, address, action, subject, detail FROM json_to_recordset(%(acts)s::json)
    AS x(actor text, address text, action text, subject text, detail json)
"""
RACES = 10
"""Retries of an action when the request changes concurrently."""


class PostgresOperations:
    """Implements ``Operations``."""

    def __init__(
        self,
        database: Database,
        reads: FairReads,
        limits: QueueLimits,
        pauses: Pauses,
        warm: StoredWarmTargets,
        removal: Removal,
        after: AfterCommit,
        clock: Clock,
    ) -> None:
        self._database = database
        self._pauses = pauses
        self.set_warm = warm.set
        self.end_warm = warm.end
        self.warm_targets = warm.read
        self._removal = removal
        self._seen = OverviewReader(reads, pauses, clock)
        self.overview, self.waiting = self._seen.overview, self._seen.waiting
        log = self.log = PostgresAuditLog(database)
        self.audit, self.audit_chain, self.seal_audit = log.page, log.chain, log.seal
        self._attempts = EndAttempts(database, limits)
        self._after = after

    async def pause(self, endpoint: str, actor: Actor) -> Pause:
        pause, _ = await self._pauses.set(endpoint, PauseKind.PAUSED, actor)
        return pause

    async def drain(self, endpoint: str, actor: Actor) -> Pause:
        pause, pools = await self._pauses.set(endpoint, PauseKind.DRAINING, actor)
        self._after.notify(pools=pools)
        return pause

    async def resume(self, endpoint: str, actor: Actor) -> bool:
        pools = await self._pauses.end(endpoint, actor)
        self._after.notify(pools=pools or ())
        return pools is not None

    async def requeue(self, request_id: str, actor: Actor) -> State:
        id_ = known_id(request_id)
        noted = audit_params(actor, "request.requeue")
        for _ in range(RACES):
            state, lease = await self._current(id_)
            if state is State.QUEUED:
                return state
            after = await self._end(lease, None, noted)
            if after is not None:
                return after
        raise _keeps_changing(id_)

    async def cancel(self, tenant: str, request_id: str, actor: Actor) -> CancelVerdict:
        verdict = await self._removal.cancel(tenant, request_id, actor)
        self._seen.forget()
        return verdict

    async def fail(self, request_id: str, actor: Actor, reason: str) -> State:
        id_, failure = known_id(request_id), messages.failed_by_hand(reason)
        noted = audit_params(actor, "request.fail", reason=messages.clean(reason))
        for _ in range(RACES):
            state, lease = await self._current(id_)
            if state is State.RUNNING:
                after = await self._end(lease, failure, noted)
                if after is not None:
                    return after
                continue
            removed = await fail_request(self._database, id_, failure, noted)
            if removed is not None:
                self._seen.forget()
                self._after.publish_removal([removed], failure)
                return removed.state
        raise _keeps_changing(id_)

    async def prioritise(self, request_id: str, priority: Priority, actor: Actor) -> State:
        id_, name = known_id(request_id), priority.name.lower()
        params = {
            "id": id_,
            "priority": priority,
            "realtime": Priority.REALTIME,
            "level_s": HEAD_START_S,
            "message": messages.new_priority(name),
            **audit_params(actor, "request.prioritise", priority=name),
        }
        for _ in range(RACES):
            rows = await self._database.rows(PRIORITISE, params)
            if rows:
                ((before, tenant, pool),) = rows
                if before == Priority.REALTIME:
                    raise RequestActive(messages.SESSION_HAS_NO_PRIORITY)
                if pool is not None:
                    self._after.publish_move(id_, pool, tenant)
                return State.QUEUED
            state, _ = await self._current(id_)
            if state is State.RUNNING:
                raise RequestActive(messages.RUNS_ALREADY)
        raise _keeps_changing(id_)

    async def record(self, acts: Sequence[NewAct]) -> None:
        rows = [
            {
                "actor": act.actor.key_id,
                "address": act.actor.address,
                "action": act.action,
                "subject": messages.clean(act.subject),
                "detail": act.detail,
            }
            for act in acts
        ]
        if rows:
            await self._database.rows(RECORD, {"acts": messages.compact(rows)})

    async def _current(self, id_: str) -> tuple[State, LeaseKey]:
        """State and attempt of a request that has not ended."""
        row = await self._database.row(CURRENT, {"id": id_})
        if row is None:
            raise RequestNotFound(f"There is no request {id_}.")
        state, attempt, nonce = row
        state = State(state)
        if state.final:
            raise AlreadyFinal(f"The request {id_} has ended already: it is {state}.")
        return state, LeaseKey(id_, attempt, nonce)

    async def _end(
        self, lease_key: LeaseKey, failure: Outcome | None, noted: Mapping[str, str | None]
    ) -> State | None:
        """End the attempt by hand. None if it has already ended."""
        ended = await self._attempts.end_by_operator(lease_key, messages.REQUEUED, failure, noted)
        self._seen.forget()
        outcomes = {} if failure is None else {lease_key: failure}
        self._after.publish_end(ended, outcomes, fenced=True)
        return ended[0].state if ended else None


def _keeps_changing(id_: str) -> Unavailable:
    return Unavailable(f"The state of request {id_} kept changing, so nothing was done: try again.")

"""Requests to workflows that run: PostgreSQL behind the port ``WorkflowRuns``.

A request to a workflow is held by no process: its lease does not run out, and any process that
leads goes on with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.request import Priority, State
from serve_app.domain.workflows.definition import POOL
from serve_app.domain.workflows.plan import StepId
from serve_app.domain.workflows.runs import RUNNER, Step, StepState, WorkflowRun
from serve_app.postgres.database import Database
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import (
    COLUMNS,
    NEW_NONCE,
    lease_columns,
    outcome_from_json,
    outcome_to_json,
    request_from_row,
)

NO_ID = str(UUID(int=0))
LOST_AFTER_S = 60.0
"""After the end of a run: a request of a step that is not there by then was never stored."""

_HELD = """
    r.id = %(id)s::uuid AND r.attempt = %(attempt)s AND r.lease_nonce = %(nonce)s
      AND r.lease_until IS NOT NULL
"""
# As a leasing does, without lanes and limits: a request to a workflow takes nobody's slot.
START = f"""
-- name: start_workflows
WITH chosen AS (
    SELECT r.id FROM requests r
    WHERE r.pool = '{POOL}' AND r.state = 'queued' AND coalesce(r.start_by > now(), true)
      AND r.tenant <> ALL(%(disabled)s::text[])
      AND NOT EXISTS (SELECT FROM halts h WHERE h.endpoint = r.endpoint AND h.kind = 'paused')
    ORDER BY r.ranked_at, r.place LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
),
started AS (
    UPDATE requests r SET
        state = 'running', attempt = r.attempt + 1, replica_id = '{RUNNER}', actor_id = NULL,
        lease_nonce = {NEW_NONCE}, confirmed = true, start_by = NULL,
        lease_until = now() + interval '1000 years', started_at = now(), events = r.events + 1
    FROM chosen c WHERE r.id = c.id
    RETURNING r.*
),
noted AS (
    INSERT INTO events (request_id, sequence, state, message)
    SELECT id, events, 'running',
           CASE attempt WHEN 1 THEN 'The workflow started.' ELSE 'The workflow goes on.' END
    FROM started
),
run AS (
    INSERT INTO workflow_runs (request_id, tenant, definition)
    SELECT s.id, s.tenant, w.definition FROM started s
    LEFT JOIN workflows w ON w.tenant = split_part(s.endpoint, '/', 2)
        AND w.name = split_part(s.endpoint, '/', 3) AND (w.public OR w.tenant = s.tenant)
    ON CONFLICT (request_id) DO UPDATE SET ended_at = NULL
)
SELECT {COLUMNS} FROM started r
LEFT JOIN progress p ON p.request_id = r.id AND p.attempt = r.attempt
"""
# A run is due if it may go on: a step is to be sent, has ended, or nothing of it runs.
DUE = f"""
-- name: due_workflows
SELECT r.id::text, r.attempt, r.lease_nonce, r.tenant, r.endpoint, coalesce(r.key_id, ''), r.input,
       w.definition, r.priority, r.cancel_requested,
       extract(epoch FROM r.end_by - now())::double precision, r.forgetting IS NULL, l.keep_s,
       coalesce(r.file_access, ''), r.previews, coalesce(r.call ->> 'trace', ''),
       coalesce(r.call ->> 'origin', ''), r.alone, r.steps_stay, w.started_at
FROM workflow_runs w JOIN requests r ON r.id = w.request_id
LEFT JOIN lifecycles l ON l.request_id = r.id
WHERE w.ended_at IS NULL AND r.lease_until IS NOT NULL AND r.pool = '{POOL}'
  AND (w.started_at, w.request_id) > (%(after)s::timestamptz, %(after_id)s::uuid) AND (
    r.cancel_requested OR r.end_by <= now()
    OR NOT EXISTS (
        SELECT FROM workflow_steps s WHERE s.run_id = w.request_id AND s.state <> 'ended')
    OR EXISTS (
        SELECT FROM workflow_steps s LEFT JOIN requests c ON c.id = s.request_id
        WHERE s.run_id = w.request_id AND s.state <> 'ended'
          AND CASE s.state WHEN 'sending' THEN w.tenant <> ALL(%(full)s::text[])
                   ELSE c.id IS NULL OR c.outcome IS NOT NULL END))
ORDER BY w.started_at, w.request_id LIMIT %(most)s
"""
STEPS = """
-- name: steps_of_workflow
SELECT s.node, s.item, s.app, s.request_id::text, s.state,
       CASE s.state WHEN 'sending' THEN s.input END, s.outcome,
       c.state, s.refused IS NOT NULL, coalesce(s.waits, '')
FROM workflow_steps s LEFT JOIN requests c ON c.id = s.request_id
WHERE s.run_id = %(id)s::uuid
ORDER BY s.node, s.item
"""
# The run is locked: it cannot end before its steps are there to be cancelled.
TAKE = f"""
-- name: take_workflow_steps
WITH held AS (
    SELECT r.id FROM requests r WHERE {_HELD} AND NOT r.cancel_requested FOR SHARE
)
INSERT INTO workflow_steps (run_id, node, item, app, request_id, input)
SELECT h.id, x.node, x.item, x.app, x.request_id, x.input::json
FROM held h CROSS JOIN json_to_recordset(%(steps)s::json) AS x(
    node text, item integer, app text, request_id uuid, input text)
ON CONFLICT DO NOTHING
RETURNING node, item
"""
SENT = """
-- name: workflow_step_sent
UPDATE workflow_steps
SET state = 'sent', request_id = %(request)s::uuid, input = NULL, waits = NULL
WHERE run_id = %(id)s::uuid AND node = %(node)s AND item = %(item)s AND state = 'sending'
RETURNING 1
"""
PUT_OFF = """
-- name: put_workflow_step_off
UPDATE workflow_steps SET waits = %(why)s
WHERE run_id = %(id)s::uuid AND node = %(node)s AND item = %(item)s AND state = 'sending'
RETURNING 1
"""
SETTLE = """
-- name: settle_workflow_step
UPDATE workflow_steps SET state = 'ended', outcome = %(outcome)s::json, input = NULL, waits = NULL
WHERE run_id = %(id)s::uuid AND node = %(node)s AND item = %(item)s AND state <> 'ended'
RETURNING 1
"""
# One that an earlier look has stored is not refused, whatever is against it now: it runs.
REFUSE = """
-- name: refuse_workflow_step
UPDATE workflow_steps s
SET state = 'ended', outcome = %(outcome)s::json, input = NULL, refused = %(message)s, waits = NULL
WHERE s.run_id = %(id)s::uuid AND s.node = %(node)s AND s.item = %(item)s AND s.state = 'sending'
  AND NOT EXISTS (
    SELECT FROM requests r WHERE r.id = s.request_id AND r.tenant = %(tenant)s)
RETURNING 1
"""
_OVER = "w.ended_at IS NULL AND (p.id IS NULL OR p.outcome IS NOT NULL)"
_LOST = f"""
    coalesce(p.finished_at, '-infinity') < now() - interval '{LOST_AFTER_S} s' AND c.id IS NULL
"""
ABANDONED = f"""
-- name: abandoned_workflow_steps
SELECT w.tenant, w.request_id::text, s.request_id::text
FROM workflow_runs w LEFT JOIN requests p ON p.id = w.request_id
JOIN workflow_steps s ON s.run_id = w.request_id AND s.state <> 'ended'
JOIN requests c ON c.id = s.request_id AND c.outcome IS NULL
WHERE {_OVER}
ORDER BY w.started_at LIMIT %(limit)s
"""
_NO_STEP_RUNS = f"""
    NOT EXISTS (
        SELECT FROM workflow_steps s LEFT JOIN requests c ON c.id = s.request_id
        WHERE s.run_id = w.request_id AND s.state <> 'ended'
          AND NOT (c.outcome IS NOT NULL OR {_LOST}))
"""
# The request is locked: a deletion either finds the run closed, or leaves it to FORGET.
CLOSE = f"""
-- name: close_workflows
WITH over AS (
    SELECT w.request_id FROM workflow_runs w JOIN requests p ON p.id = w.request_id
    WHERE {_OVER} AND {_NO_STEP_RUNS}
    ORDER BY w.request_id LIMIT 1000
    FOR NO KEY UPDATE OF w SKIP LOCKED FOR KEY SHARE OF p SKIP LOCKED
),
emptied AS (
    UPDATE workflow_steps s SET state = 'ended', input = NULL, outcome = NULL, waits = NULL
    FROM over o WHERE s.run_id = o.request_id
)
UPDATE workflow_runs w SET ended_at = now() FROM over o WHERE w.request_id = o.request_id
"""
# Runs of requests that were deleted before their steps had ended.
FORGET = f"""
-- name: forget_workflows
DELETE FROM workflow_runs WHERE request_id = ANY(ARRAY(
    SELECT w.request_id FROM workflow_runs w LEFT JOIN requests p ON p.id = w.request_id
    WHERE w.ended_at IS NULL AND p.id IS NULL AND {_NO_STEP_RUNS}
    ORDER BY w.request_id LIMIT 1000
    FOR UPDATE OF w SKIP LOCKED))
"""


class PostgresWorkflowRuns:
    """Implements ``WorkflowRuns``."""

    def __init__(
        self, database: Database, limits: QueueLimits, state: QueueState, after: AfterCommit
    ) -> None:
        self._database = database
        self._limits = limits
        self._state = state
        self._after = after

    async def start(self, limit: int) -> int:
        params = {"limit": limit, "disabled": sorted(self._limits.disabled)}
        records = [request_from_row(row) for row in await self._database.rows(START, params)]
        for record in records:
            request = record.request
            self._state.stats.count_removal(request.pool, request.tenant, request.endpoint)
            self._state.requests.update(record)
        if records:
            self._after.notify([record.request.id for record in records])
        return len(records)

    async def due(
        self, most: int, after: WorkflowRun | None = None, full: Collection[str] = ()
    ) -> Sequence[WorkflowRun]:
        params = {
            "after": "-infinity" if after is None else after.started_at,
            "after_id": NO_ID if after is None else after.lease_key.request_id,
            "full": [*full],
            "most": most,
        }
        return [_run(row) for row in await self._database.rows(DUE, params)]

    async def steps(self, run: WorkflowRun) -> Sequence[Step]:
        rows = await self._database.rows(STEPS, {"id": run.lease_key.request_id})
        return [_step(row) for row in rows]

    async def take(
        self, run: WorkflowRun, steps: Sequence[tuple[StepId, str, str, Mapping[str, Any]]]
    ) -> Sequence[StepId]:
        records = [
            {
                "node": step.node,
                "item": step.item,
                "app": app,
                "request_id": request_id,
                "input": messages.compact(given_input),
            }
            for step, app, request_id, given_input in steps
        ]
        params = {**lease_columns(run.lease_key), "steps": messages.compact(records)}
        return [StepId(*row) for row in await self._database.rows(TAKE, params)]

    async def mark_sent(self, run: WorkflowRun, step: StepId, request_id: str) -> bool:
        return bool(
            await self._database.rows(SENT, {**_step_params(run, step), "request": request_id})
        )

    async def put_off(self, run: WorkflowRun, step: StepId, why: str) -> bool:
        params = {**_step_params(run, step), "why": messages.clean(why)}
        return bool(await self._database.rows(PUT_OFF, params))

    async def settle(self, run: WorkflowRun, step: StepId, outcome: Outcome) -> bool:
        text = messages.compact(outcome_to_json(outcome))
        return bool(await self._database.rows(SETTLE, {**_step_params(run, step), "outcome": text}))

    async def refuse(self, run: WorkflowRun, step: StepId, failure: Failure) -> bool:
        params = {
            **_step_params(run, step),
            "outcome": messages.compact(outcome_to_json(Outcome(failure=failure))),
            "message": messages.clean(failure.message),
            "tenant": run.tenant,
        }
        return bool(await self._database.rows(REFUSE, params))

    async def list_abandoned_steps(self, limit: int) -> Sequence[tuple[str, str, str]]:
        rows = await self._database.rows(ABANDONED, {"limit": limit})
        return [(str(tenant), str(run), str(request)) for tenant, run, request in rows]

    async def close(self) -> None:
        await self._database.rows(CLOSE)
        await self._database.rows(FORGET)


def _step_params(run: WorkflowRun, step: StepId) -> dict[str, Any]:
    return {"id": run.lease_key.request_id, "node": step.node, "item": step.item}


def _run(row: tuple[Any, ...]) -> WorkflowRun:
    id_, attempt, nonce, tenant, endpoint, key_id, whole, definition, priority, *rest = row
    lease = LeaseKey(id_, attempt, nonce)
    return WorkflowRun(
        lease, tenant, endpoint, key_id, whole, definition, Priority(priority), *rest
    )


def _step(row: tuple[Any, ...]) -> Step:
    node, item, app, request_id, state, unsent, outcome, of_request, refused, waits = row
    return Step(
        StepId(node, item),
        app,
        request_id,
        StepState(state),
        unsent or {},
        None if outcome is None else outcome_from_json(outcome),
        state_of(of_request),
        refused,
        waits,
    )


def state_of(stored: str | None) -> State | None:
    """State of a step's request: one that follows another one is queued."""
    if stored is None:
        return None
    return State.QUEUED if stored == "following" else State(stored)

"""Registered workflows, and the steps of requests to them: PostgreSQL behind ``WorkflowBook``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.workflows.definition import endpoint_id
from serve_app.domain.workflows.plan import StepId
from serve_app.domain.workflows.runs import NewWorkflow, RegisteredWorkflow, RunStatus, StepStatus
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database, Lock
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.state.queue_state import QueueState
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import known_id, outcome_from_json
from serve_app.queue.transactions.insert import outcome_lock_number
from serve_app.queue.workflows.runs import PostgresWorkflowRuns, state_of

_WORKFLOW = "tenant, name, definition, source, public, created_at, changed_at"

# Under a lock of its tenant, so that two calls at once do not both find room.
PUT = f"""
-- name: put_workflow
WITH room AS (
    SELECT count(*) < %(most)s AS yes FROM (
        SELECT FROM workflows WHERE tenant = %(tenant)s AND name <> %(name)s LIMIT %(most)s) a
),
stored AS (
    INSERT INTO workflows (tenant, name, definition, source, public)
    SELECT %(tenant)s, %(name)s, %(definition)s::json, %(source)s::json, %(public)s
    FROM room WHERE yes
    ON CONFLICT (tenant, name) DO UPDATE SET definition = excluded.definition,
        source = excluded.source, public = excluded.public, changed_at = clock_timestamp()
    RETURNING name
),
noted AS ({insert_audit("%(subject)s", "stored")})
SELECT 1 FROM stored
"""
FIND = f"SELECT {_WORKFLOW} FROM workflows WHERE tenant = %(tenant)s AND name = %(name)s"
PAGE = f"""
SELECT {_WORKFLOW} FROM workflows WHERE tenant = %(tenant)s OR public
ORDER BY tenant <> %(tenant)s, tenant, name
"""
REMOVE = f"""
-- name: remove_workflow
WITH removed AS (
    DELETE FROM workflows WHERE tenant = %(tenant)s AND name = %(name)s RETURNING name
),
noted AS ({insert_audit("%(subject)s", "removed")})
SELECT 1 FROM removed
"""
# The order of a table is not defined, and a row that was deleted leaves no trace of its time.
VERSION = """
-- name: workflows_version
SELECT coalesce(md5(string_agg(tenant || ' ' || name || ' ' || changed_at, ' '
    ORDER BY tenant, name)), '') FROM workflows
"""
ALL = f"SELECT {_WORKFLOW} FROM workflows ORDER BY tenant, name"
NODES = """
-- name: nodes_of_workflow
SELECT w.definition FROM workflow_runs w
JOIN requests p ON p.id = w.request_id
WHERE w.request_id = %(id)s::uuid AND w.tenant = %(tenant)s
"""
STATUS = """
-- name: status_of_workflow
SELECT s.node, s.item, s.app, CASE WHEN s.refused IS NULL THEN s.request_id::text END,
       CASE WHEN s.refused IS NULL THEN c.state ELSE 'failed' END,
       c.started_at, c.finished_at, u.run_s,
       u.amount, coalesce(u.price ->> 'currency', ''), coalesce(s.waits, ''),
       s.refused, CASE WHEN c.state IN ('failed', 'cancelled', 'expired') THEN c.outcome END
FROM workflow_runs w JOIN workflow_steps s ON s.run_id = w.request_id
LEFT JOIN requests c ON c.id = s.request_id
LEFT JOIN usage u ON u.request_id = s.request_id
WHERE w.request_id = %(id)s::uuid AND w.tenant = %(tenant)s
ORDER BY s.node, s.item
"""
STEP_REQUESTS = """
-- name: requests_of_workflow
SELECT s.request_id::text FROM workflow_runs w JOIN workflow_steps s ON s.run_id = w.request_id
JOIN requests p ON p.id = w.request_id
WHERE w.request_id = %(id)s::uuid AND w.tenant = %(tenant)s AND s.refused IS NULL
ORDER BY s.node, s.item
"""


class PostgresWorkflowDefinitions:
    """Implements ``WorkflowDefinitions``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, new: NewWorkflow, most: int, actor: Actor) -> bool:
        params = {
            "tenant": new.tenant,
            "name": new.name,
            "definition": messages.compact(new.definition),
            "source": messages.compact(new.source),
            "public": new.public,
            "most": most,
            "subject": endpoint_id(new.tenant, new.name),
            **audit_params(actor, "workflow.put", tenant=new.tenant, public=new.public),
        }
        lock = Lock([outcome_lock_number(new.tenant, b"workflows")])
        return bool(await self._database.rows(PUT, params, lock=lock))

    async def find(self, tenant: str, name: str) -> RegisteredWorkflow | None:
        params = {"tenant": tenant, "name": messages.clean(name)}
        row = await self._database.row(FIND, params)
        return RegisteredWorkflow(*row) if row else None

    async def page(self, tenant: str) -> Sequence[RegisteredWorkflow]:
        rows = await self._database.rows(PAGE, {"tenant": tenant})
        return [RegisteredWorkflow(*row) for row in rows]

    async def remove(self, tenant: str, name: str, actor: Actor) -> bool:
        clean = messages.clean(name)
        params = {
            "tenant": tenant,
            "name": clean,
            "subject": endpoint_id(tenant, clean),
            **audit_params(actor, "workflow.remove", tenant=tenant),
        }
        return bool(await self._database.rows(REMOVE, params))

    async def version(self) -> str:
        version = await self._database.value(VERSION)
        return str(version)

    async def all(self) -> Sequence[RegisteredWorkflow]:
        return [RegisteredWorkflow(*row) for row in await self._database.rows(ALL)]


class PostgresWorkflows:
    """Implements ``WorkflowBook``."""

    def __init__(
        self, database: Database, limits: QueueLimits, state: QueueState, after: AfterCommit
    ) -> None:
        self._database = database
        self.definitions = PostgresWorkflowDefinitions(database)
        self.runs = PostgresWorkflowRuns(database, limits, state, after)

    async def status(self, tenant: str, request_id: str) -> RunStatus | None:
        params = {"tenant": tenant, "id": known_id(request_id)}
        nodes = await self._database.rows(NODES, params)
        if not nodes:
            return None
        steps = [_status(row) for row in await self._database.rows(STATUS, params)]
        definition = nodes[0][0] or {"nodes": {}}
        return RunStatus(definition["nodes"], steps)

    async def step_requests(self, tenant: str, request_id: str) -> Sequence[str]:
        params = {"tenant": tenant, "id": known_id(request_id)}
        return [str(row[0]) for row in await self._database.rows(STEP_REQUESTS, params)]


def _status(row: tuple[Any, ...]) -> StepStatus:
    node, item, app, request_id, state, *rest, refused, outcome = row
    failure = None if outcome is None else outcome_from_json(outcome).failure
    error = refused if failure is None else failure.message
    step = StepId(node, item)
    return StepStatus(step, app, request_id, state_of(state), *rest, error=error)

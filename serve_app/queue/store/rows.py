"""A stored request as the domain's ``Request``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from serve_app.domain.errors import RequestNotFound
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import Forgetting, Priority, Request, State
from serve_app.domain.retries import Cause, Retries
from serve_app.domain.snapshot import StoredSnapshot
from serve_app.queue import outcomes

FOLLOWING = "following"
"""In the column ``state``: queued, and waiting for the outcome of another."""

COLUMNS = """
    r.id::text, r.tenant, r.endpoint, r.pool, r.state, coalesce(r.shown, r.input), r.priority,
    r.attempt, r.failures,
    r.created_at, r.started_at, r.finished_at, r.cancel_requested, r.replica_id, r.outcome,
    p.stage, p.step, p.steps, r.events, r.alone, r.snapshot, r.snapshot_step, r.reuses::text,
    r.end_by, r.work, r.previews, p.rate, p.preview_step, r.forgetting, r.retries_left,
    CASE WHEN r.follows IS NOT NULL THEN coalesce((
        SELECT l.id FROM requests l WHERE l.leads = r.follows AND l.outcome IS NULL
        ), r.follows)::text END
"""
SOURCE = """
    requests r LEFT JOIN progress p
        ON p.request_id = r.id AND p.attempt = r.attempt AND r.lease_until IS NOT NULL
"""


RETRIES_LEFT = (
    "('Retries left: ' || "
    + " || ', ' || ".join(
        f"'{cause.value.replace('_', ' ')} ' || retries_left[{n}]"
        for n, cause in enumerate(Cause, start=1)
    )
    + " || '.')"
)
"""In words; null by the installation's rule. The column has them in the order of ``Cause``."""


def retries_column(retries: Retries | None) -> str | None:
    """As PostgreSQL reads an array."""
    if retries is None:
        return None
    return "{" + ",".join(str(retries.left(cause)) for cause in Cause) + "}"


_CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class Stored:
    """A request as it was at some moment. ``version`` grows with every change but progress."""

    request: Request
    version: int


def stored(row: tuple[Any, ...]) -> Stored:
    """From a row of ``COLUMNS``."""
    (id_, tenant, endpoint, pool, state, input_, priority, attempt, failures) = row[:9]
    (created_at, started_at, finished_at, cancel_requested, replica_id, outcome) = row[9:15]
    (stage, step, steps, version, alone, snapshot, snapshot_step, reuses) = row[15:23]
    (end_by, work, previews, rate, preview_step, forgetting) = row[23:29]
    retries_left, follows = row[29:31]
    request = Request(
        id=id_,
        tenant=tenant,
        endpoint=endpoint,
        pool=pool,
        state=State.QUEUED if state == FOLLOWING else State(state),
        input=input_,
        priority=Priority(priority),
        attempt=attempt,
        failures=failures,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        cancel_requested=cancel_requested,
        alone=alone,
        end_by=end_by,
        work=work,
        replica_id=replica_id,
        outcome=None if outcome is None else outcomes.from_json(outcome),
        reuses=reuses,
        follows=follows,
        forgetting=None if forgetting is None else Forgetting(forgetting),
        retries_left=None if retries_left is None else Retries(*retries_left),
        progress=progress_of(stage, step, steps, rate),
        previews=previews,
        preview_step=preview_step or 0,
        snapshot=None if snapshot is None else StoredSnapshot(snapshot, snapshot_step),
        events=version,
    )
    return Stored(request, version)


def progress_of(stage: str | None, step: int, steps: int, rate: float) -> Progress | None:
    """From the columns of ``progress``, which are null where nothing was reported."""
    return None if stage is None else Progress(Stage(stage), step, steps, rate)


def known_id(request_id: str) -> str:
    """The id in its canonical form; ``RequestNotFound`` for what cannot be one."""
    if _CANONICAL(request_id):  # nearly always, and a tenth of what parsing costs
        return request_id
    try:
        return str(UUID(request_id))
    except ValueError:
        raise RequestNotFound(f"There is no request {request_id}.") from None

"""Conversion of stored rows to the domain's ``Request``, and of outcomes to and from JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

from serve_app.domain.artifact import Artifact
from serve_app.domain.audit.acts import Actor
from serve_app.domain.billing.price import Price
from serve_app.domain.errors import RequestNotFound
from serve_app.domain.executors.fallback import Fallback
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.upload_policy import UploadPolicy
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.progress import Progress, Stage, StoredSnapshot
from serve_app.domain.request import Cause, Priority, Redacted, Request, Retries, State

T = TypeVar("T", Artifact, Failure, Usage)


def flatten_outcome(value: Artifact | Failure | Usage) -> dict[str, Any]:
    """Fields by name, all of them plain values. (``asdict`` inspects and copies each: measured, a
    fifth of the time that this process spends on finishes.)
    """
    return {name: getattr(value, name) for name in value.__slots__}


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    failure = outcome.failure
    return {
        "output": outcome.output,
        "artifacts": [_artifact_to_json(artifact) for artifact in outcome.artifacts],
        "failure": None if failure is None else flatten_outcome(failure),
        "usage": flatten_outcome(outcome.usage),
    }


def outcome_from_json(stored: Mapping[str, Any]) -> Outcome:
    failure = stored["failure"]
    return Outcome(
        output=stored["output"],
        artifacts=tuple(_artifact(artifact) for artifact in stored["artifacts"]),
        failure=None if failure is None else _of(Failure, failure),
        usage=_of(Usage, stored["usage"]),
    )


def _artifact_to_json(artifact: Artifact) -> dict[str, Any]:
    thumbnail = artifact.thumbnail
    small = None if thumbnail is None else flatten_outcome(thumbnail)
    return flatten_outcome(artifact) | {"thumbnail": small}


def _artifact(stored: Mapping[str, Any]) -> Artifact:
    made, small = _of(Artifact, stored), stored.get("thumbnail")
    return made if small is None else replace(made, thumbnail=_of(Artifact, small))


def _of(kind: type[T], stored: Mapping[str, Any]) -> T:
    """Build ``kind`` without the fields that only a newer version knows."""
    known = kind.__slots__  # pyright: ignore[reportAttributeAccessIssue]
    return kind(**{name: value for name, value in stored.items() if name in known})


FOLLOWING = "following"
"""Value of the column ``state``: queued, and waiting for the outcome of another request."""

COLUMNS = """
    r.id::text, r.tenant, r.endpoint, r.pool, r.state, coalesce(r.shown, r.input), r.priority,
    r.attempt, r.failures,
    r.created_at, r.started_at, r.finished_at, r.cancel_requested, r.replica_id, r.outcome,
    p.stage, p.step, p.steps, r.events, r.alone, r.snapshot, r.snapshot_step, r.reuses::text,
    r.end_by, r.work, r.previews, p.rate, p.preview_step, r.forgetting, r.retries_left,
    CASE WHEN r.follows IS NOT NULL THEN coalesce((
        SELECT l.id FROM requests l WHERE l.leads = r.follows AND l.outcome IS NULL
        ), r.follows)::text END,
    r.lease_nonce, r.trace, r.draft_key, r.price, r.file_access,
    r.upload_policy, r.fallback, r.fell_back_to, r.fell_back_for
"""


def term_has_ended(actor: str) -> str:
    """Condition for a replica whose term has ended, by the SQL of its actor's id."""
    ended = f"t.actor_id = {actor} AND t.ended_at IS NOT NULL"
    return f"EXISTS (SELECT FROM processes t WHERE {ended})"


NEW_NONCE = "(random() * 9007199254740991)::bigint"
"""SQL for the nonce of a lease: 53 bits, which JSON numbers hold."""
SOURCE = """
    requests r LEFT JOIN progress p
        ON p.request_id = r.id AND p.attempt = r.attempt AND r.lease_until IS NOT NULL
"""


def lease_columns(held: LeaseKey) -> Mapping[str, str | int]:
    """Columns that name a lease in a statement: ``id``, ``attempt`` and ``nonce``."""
    return {"id": held.request_id, "attempt": held.attempt, "nonce": held.nonce}


RETRIES_LEFT = (
    "('Retries left: ' || "
    + " || ', ' || ".join(
        f"'{cause.value.replace('_', ' ')} ' || retries_left[{n}]"
        for n, cause in enumerate(Cause, start=1)
    )
    + " || '.')"
)
"""SQL for the retries left, in words; null under the installation's own rule. The column has them
in the order of ``Cause``.
"""


def retries_column(retries: Retries | None) -> str | None:
    """Retries in PostgreSQL's array syntax."""
    if retries is None:
        return None
    return "{" + ",".join(str(retries.left(cause)) for cause in Cause) + "}"


_CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request at one moment. ``version`` grows with every change except progress."""

    request: Request
    version: int


def audit_columns(actor: Actor | None) -> Mapping[str, str | None]:
    """Parameters of a statement that writes to the audit log, unless there is no actor."""
    if actor is None:
        return {"actor": None, "address": ""}
    return {"actor": actor.key_id, "address": actor.address}


def stored(row: tuple[Any, ...]) -> StoredRequest:
    """Build the request from a row of ``COLUMNS``."""
    (id_, tenant, endpoint, pool, state, input_, priority, attempt, failures) = row[:9]
    (created_at, started_at, finished_at, cancel_requested, replica_id, outcome) = row[9:15]
    (stage, step, steps, version, alone, snapshot, snapshot_step, reuses) = row[15:23]
    (end_by, work, previews, rate, preview_step, forgetting) = row[23:29]
    retries_left, follows, lease_nonce, trace, draft_key, price, file_access = row[29:36]
    upload_policy, fallback, fell_back_to, fell_back_for = row[36:40]
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
        outcome=None if outcome is None else outcome_from_json(outcome),
        reuses=reuses,
        follows=follows,
        forgetting=None if forgetting is None else Redacted(forgetting),
        retries_left=None if retries_left is None else Retries(*retries_left),
        progress=progress_of(stage, step, steps, rate),
        previews=previews,
        preview_step=preview_step or 0,
        lease_nonce=lease_nonce,
        trace=trace or "",
        snapshot=None if snapshot is None else StoredSnapshot(snapshot, snapshot_step),
        events=version,
        draft_key=draft_key,
        price=None if price is None else Price.from_json(price),
        file_access=file_access or "",
        upload_policy=None if upload_policy is None else UploadPolicy.from_json(upload_policy),
        fallback=None if fallback is None else Fallback.from_json(fallback),
        fell_back_to=fell_back_to or "",
        fell_back_for=fell_back_for or "",
    )
    return StoredRequest(request, version)


def progress_of(stage: str | None, step: int, steps: int, rate: float) -> Progress | None:
    """Build the progress from its columns, which are null if nothing was reported."""
    return None if stage is None else Progress(Stage(stage), step, steps, rate)


def known_id(request_id: str) -> str:
    """The id in its canonical form. Raises ``RequestNotFound`` if it cannot be an id."""
    if _CANONICAL(request_id):  # the usual case, at a tenth of the cost of parsing
        return request_id
    try:
        return str(UUID(request_id))
    except ValueError:
        raise RequestNotFound(f"There is no request {request_id}.") from None

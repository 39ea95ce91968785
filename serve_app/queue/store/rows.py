"""Conversion of stored rows to the domain's ``Request``, and of outcomes to and from JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints
from uuid import UUID

from serve_app.domain.artifact import Artifact
from serve_app.domain.billing.price import Price
from serve_app.domain.errors import RequestNotFound
from serve_app.domain.executors.fallback import Fallback
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.upload_policy import UploadPolicy
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.progress import Progress, Stage, StoredSnapshot
from serve_app.domain.request import Cause, Priority, Redacted, Request, Retries, State

T = TypeVar("T", Artifact, Failure, Usage)
Stored = TypeVar("Stored")
Value = TypeVar("Value")


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
    artifact, small = _of(Artifact, stored), stored.get("thumbnail")
    return artifact if small is None else replace(artifact, thumbnail=_of(Artifact, small))


def _of(kind: type[T], stored: Mapping[str, Any]) -> T:
    """Build ``kind`` without the fields that only a newer version knows."""
    known = kind.__slots__
    return kind(**{name: value for name, value in stored.items() if name in known})


FOLLOWING = "following"
"""Value of the column ``state``: queued, and waiting for the outcome of another request."""


class RequestRow(NamedTuple):
    """Row of ``COLUMNS``. Each field is the column of its name, or the SQL in its annotation; ``r``
    and ``p`` are the tables of ``SOURCE``."""

    id: Annotated[str, "r.id::text"]
    tenant: str
    endpoint: str
    pool: str
    state: str
    input: Annotated[Any, "coalesce(r.shown, r.input)"]
    priority: int
    attempt: int
    failures: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    replica_id: str | None
    outcome: Mapping[str, Any] | None
    stage: Annotated[str | None, "p.stage"]
    step: Annotated[int, "p.step"]
    steps: Annotated[int, "p.steps"]
    rate: Annotated[float, "p.rate"]
    preview_step: Annotated[int | None, "p.preview_step"]
    events: int
    alone: bool
    snapshot: str | None
    snapshot_step: int
    reuses: Annotated[str | None, "r.reuses::text"]
    end_by: datetime | None
    work: Any
    previews: bool
    forgetting: str | None
    retries_left: Sequence[int] | None
    follows: Annotated[
        str | None,
        """CASE WHEN r.follows IS NOT NULL THEN coalesce((
            SELECT l.id FROM requests l WHERE l.leads = r.follows AND l.outcome IS NULL
        ), r.follows)::text END""",
    ]
    lease_nonce: int
    trace: Annotated[str | None, "r.call ->> 'trace'"]
    draft_key: str | None
    price: Mapping[str, Any] | None
    file_access: str | None
    upload_policy: str | None
    fallback: Mapping[str, Any] | None
    fell_back_to: str | None
    fell_back_for: str | None
    endpoint_digest: str
    requested_model: Annotated[str | None, "r.call ->> 'model'"]


def _column(name: str, annotation: Any) -> str:
    (sql,) = getattr(annotation, "__metadata__", (f"r.{name}",))
    return sql


COLUMNS = ", ".join(
    _column(*hint) for hint in get_type_hints(RequestRow, include_extras=True).items()
)


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


def lease_columns(lease_key: LeaseKey) -> Mapping[str, str | int]:
    """Columns that name a lease in a statement: ``id``, ``attempt`` and ``nonce``."""
    return {"id": lease_key.request_id, "attempt": lease_key.attempt, "nonce": lease_key.nonce}


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
    return "{" + ",".join(str(retries.remaining(cause)) for cause in Cause) + "}"


_CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request at one moment. ``version`` grows with every change except progress."""

    request: Request
    version: int


def request_from_row(columns: Iterable[Any]) -> StoredRequest:
    """Build the request from a row of ``COLUMNS``."""
    row = RequestRow(*columns)
    return StoredRequest(
        Request(
            id=row.id,
            tenant=row.tenant,
            endpoint=row.endpoint,
            pool=row.pool,
            state=State.QUEUED if row.state == FOLLOWING else State(row.state),
            input=row.input,
            priority=Priority(row.priority),
            attempt=row.attempt,
            failures=row.failures,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            cancel_requested=row.cancel_requested,
            alone=row.alone,
            end_by=row.end_by,
            work=row.work,
            replica_id=row.replica_id,
            outcome=_read(outcome_from_json, row.outcome),
            reuses=row.reuses,
            follows=row.follows,
            forgetting=_read(Redacted, row.forgetting),
            retries_left=None if row.retries_left is None else Retries(*row.retries_left),
            progress=progress_of(row.stage, row.step, row.steps, row.rate),
            previews=row.previews,
            preview_step=row.preview_step or 0,
            lease_nonce=row.lease_nonce,
            trace=row.trace or "",
            snapshot=None
            if row.snapshot is None
            else StoredSnapshot(row.snapshot, row.snapshot_step),
            events=row.events,
            draft_key=row.draft_key,
            price=_read(Price.from_json, row.price),
            file_access=row.file_access or "",
            upload_policy=_read(UploadPolicy.from_json, row.upload_policy),
            fallback=_read(Fallback.from_json, row.fallback),
            fell_back_to=row.fell_back_to or "",
            fell_back_for=row.fell_back_for or "",
            endpoint_digest=row.endpoint_digest,
            requested_model=row.requested_model or "",
        ),
        version=row.events,
    )


def _read(convert: Callable[[Stored], Value], value: Stored | None) -> Value | None:
    return None if value is None else convert(value)


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

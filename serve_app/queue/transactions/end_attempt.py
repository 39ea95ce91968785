"""The end of an attempt: one statement, whatever the cause.

A finish, a hand-back, an expired lease and the death of a replica differ only in which attempts
they name and in ``how``. The statement decides the next state of each request. It writes the state,
the attempt, the event, the usage line, the artifacts and the webhook delivery in one transaction.
An attempt that no longer holds its lease is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

from serve_app.domain.artifact import is_elsewhere
from serve_app.domain.billing.price import made_by
from serve_app.domain.errors import ReplicaDied
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.draft import DRAFTS
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import MAX_FAILURES, Cause, State
from serve_app.postgres.database import Database
from serve_app.queue.fairness.fair_queue import wake_lanes
from serve_app.queue.store import messages
from serve_app.queue.store.billing import BILL_COLUMNS, QUANTITY, bill
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import RETRIES_LEFT, flatten_outcome, lease_columns, outcome_to_json


class EndReason(StrEnum):
    """Cause of the end of an attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its overall deadline passed
    RETRY = "retry"  # it failed, and another attempt can help
    HAND_BACK = "hand_back"
    UNDELIVERED = "undo"  # the lease never reached the replica
    LOST = "lost"  # the lease ran out, or the replica is dead
    BY_OPERATOR = "by_hand"  # an operator ended it
    # its replica did not end it after the overall deadline; the attempt is recorded as lost
    OUT_OF_TIME = "out_of_time"
    # it ran when the backup was made that was restored; the attempt is recorded as lost
    RESTORED = "restored"
    STOPPED = "stopped"  # the whole installation was stopped, with every running attempt


UNCONFIRMED_REPLICAS = 3
"""Number of replicas that must have had a request before it fails because none confirmed it."""

BY_FINISH = (
    EndReason.SUCCEEDED,
    EndReason.FAILED,
    EndReason.CANCELLED,
    EndReason.EXPIRED,
    EndReason.RETRY,
)


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """End of one attempt, to be written."""

    held: LeaseKey
    how: EndReason
    message: str  # for the request's own log
    outcome: Outcome = field(default_factory=Outcome)
    counts: bool = True  # False: its files and its usage are those of other requests


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """Result of an ended attempt."""

    held: LeaseKey
    state: State
    how: EndReason
    pool: str
    tenant: str
    replica_id: str | None
    failures: int
    version: int
    finished_at: datetime | None
    endpoint: str
    run_s: float
    work: float
    expected_s: float  # of a slot; the amount its lane was charged
    held_s: float  # how long the attempt held its slot, by the database's clock
    leads: str | None = None  # the coalescing group that it leads
    resumed: bool = False  # it may have resumed from a snapshot: `run_s` covers part of the work
    total_s: float = 0.0  # since the submit
    code: str | None = None  # of the error, if the request failed or expired
    trace: str = ""  # W3C trace context of the request


# Sources of the attempts to end: three ways to name them.
_NAMED = """
    SELECT * FROM json_to_recordset(%(ends)s::json) AS x(
        id uuid, attempt integer, nonce bigint, how text, message text, cause integer,
        outcome text, artifacts json, drafts json,
        run_s double precision, steps integer, units double precision,
        images integer, megapixels integer, seconds numeric)
"""
_NAMELESS = """
    SELECT id, attempt, lease_nonce AS nonce, %(how)s::text AS how,
           %(message)s::text || coalesce(replica_id, '?') AS message,
           %(cause)s::integer AS cause, NULL::text AS outcome, NULL::json AS artifacts,
           NULL::json AS drafts,
           0::double precision AS run_s, 0 AS steps, 0::double precision AS units,
           0 AS images, 0 AS megapixels, 0::numeric AS seconds
    FROM requests
"""
_EXPIRED = f"""{_NAMELESS}
    WHERE state = 'running' AND lease_until < now()
    ORDER BY lease_until LIMIT 200
"""
_OF_ACTORS = f"""{_NAMELESS}
    WHERE state = 'running' AND actor_id = ANY(%(actors)s::text[])
    LIMIT 1000
"""
_RUNNING = f"{_NAMELESS} WHERE state = 'running' ORDER BY lease_until LIMIT 1000"
# In this order, to use the index of running requests.
_OUT_OF_TIME = """
    SELECT id, attempt, lease_nonce AS nonce, 'out_of_time' AS how,
           'Out of time on replica ' || coalesce(replica_id, '?') AS message,
           %(cause)s::integer AS cause, %(outcome)s::text AS outcome, NULL::json AS artifacts,
           NULL::json AS drafts,
           0::double precision AS run_s, 0 AS steps, 0::double precision AS units,
           0 AS images, 0 AS megapixels, 0::numeric AS seconds
    FROM requests
    WHERE state = 'running' AND end_by < now() - make_interval(secs => %(overtime_s)s)
    ORDER BY lease_until LIMIT 200
"""
# A lease that was renewed after the snapshot was taken is not lost.
_STILL_EXPIRED = "AND r.lease_until < now()"

# The code of a failure is cut out of the text: what stands beside it may have `\u0000`, and then
# `->>` is an error, whatever it asks for.
#
# `lease_until IS NOT NULL` is the same as `state = 'running'`, by a CHECK of the table. It is used
# where rows are looked up by id: with the state, the planner might read all running requests.
_STATEMENT = """
-- name: end_attempts
WITH ending AS ({source}),
held AS (
    SELECT r.id, e.attempt, e.how, e.message, e.cause, e.outcome AS own, e.artifacts, e.drafts,
           e.run_s, e.steps, e.units, e.images, e.megapixels, e.seconds, r.cancel_requested,
           r.confirmed,
           (e.how = 'retry' OR e.how = 'lost' AND r.confirmed)::integer AS failed,
           (e.how = 'stopped' OR e.how = 'lost' AND NOT r.confirmed)::integer AS missed,
           r.failures, r.unconfirmed, r.retries_left,
           CASE WHEN r.retries_left IS NULL THEN r.failures + 1 >= %(max_failures)s
                ELSE r.retries_left[e.cause] < 1 OR r.failures + 1 >= {most_failures}
                END AS spent
    FROM ending e JOIN requests r ON r.id = e.id
    WHERE r.lease_until IS NOT NULL AND r.attempt = e.attempt AND r.lease_nonce = e.nonce {still}
    ORDER BY r.id
    FOR NO KEY UPDATE OF r
),
-- Materialized: otherwise `next` is computed at each of its seven uses, with a subquery each, which
-- was a seventh of the statement's CPU time.
decided AS MATERIALIZED (
    SELECT *, CASE
        WHEN how IN ('succeeded', 'failed', 'cancelled', 'expired') THEN how
        WHEN how = 'by_hand' AND own IS NOT NULL THEN 'failed'
        WHEN cancel_requested THEN 'cancelled'
        WHEN how = 'out_of_time' THEN 'expired'
        WHEN failed = 1 AND spent THEN 'failed'
        -- One replica that stands still is no reason.
        WHEN missed = 1 AND unconfirmed + 1 >= %(max_unconfirmed)s AND (
            SELECT count(DISTINCT a.replica_id) FROM attempts a WHERE a.request_id = held.id
            ) >= %(unconfirmed_replicas)s THEN 'failed'
        ELSE 'queued' END AS next
    FROM held
),
judged AS MATERIALIZED (
    SELECT *, CASE
        WHEN next = 'queued' THEN NULL
        WHEN next = 'cancelled' AND how <> 'cancelled' THEN %(cancelled)s::text
        WHEN how = 'lost' AND confirmed AND failures + 1 >= %(max_failures)s
            THEN %(ended_its_replica)s::text
        WHEN how = 'lost' AND confirmed THEN %(no_retry_left)s::text
        WHEN how IN ('lost', 'stopped') THEN %(never_confirmed)s::text
        ELSE own END AS final,
        how IN ('succeeded', 'failed', 'cancelled', 'expired')
            OR how = 'retry' AND NOT cancel_requested
            AS says_itself
    FROM decided
),
ended AS (
    UPDATE requests r SET
        state = j.next,
        outcome = j.final::json,
        failures = r.failures + j.failed,
        unconfirmed = r.unconfirmed + j.missed,
        retries_left = CASE WHEN r.retries_left IS NULL OR j.failed = 0 THEN r.retries_left
            ELSE ARRAY[{less}]::smallint[] END,
        alone = r.alone OR j.how = 'lost' AND j.confirmed OR j.how = 'retry' AND j.cause = {died},
        confirmed = false,
        lease_until = NULL,
        actor_id = NULL,
        -- A report has cleared the start deadline, but not the overall deadline.
        start_by = coalesce(r.start_by, r.end_by),
        replica_id = CASE WHEN j.next = 'queued' THEN NULL ELSE r.replica_id END,
        finished_at = CASE WHEN j.next = 'queued' THEN NULL ELSE now() END,
        upload_policy = CASE WHEN j.next = 'queued' THEN r.upload_policy END,
        events = r.events + 1
    FROM judged j WHERE r.id = j.id
    RETURNING r.id, r.attempt, r.state, r.pool, r.tenant, r.endpoint, r.webhook_url, r.work,
              r.expected_s, r.started_at, r.failures, r.finished_at, r.events, j.how, j.message,
              j.failed, r.retries_left, j.final, j.says_itself, j.artifacts, j.drafts, j.run_s,
              j.steps, j.units, j.images, j.megapixels, j.seconds, r.key_id, r.price, r.reserved,
              r.leads, r.created_at, r.lease_nonce,
              coalesce(r.trace, '') AS trace,
              r.attempt > 1 AND r.snapshot IS NOT NULL AS resumed
),
closed AS (
    UPDATE attempts a SET
        ended = CASE WHEN e.how IN ('out_of_time', 'restored') THEN 'lost' ELSE e.how END,
        ended_at = now(), message = e.message, run_s = e.run_s, steps = e.steps, units = e.units
    FROM ended e WHERE a.request_id = e.id AND a.attempt = e.attempt
    RETURNING a.request_id, a.replica_id
),
notified AS (
    INSERT INTO events (request_id, sequence, level, state, message)
    SELECT id, events, CASE
               WHEN state = 'failed' THEN 'ERROR'
               WHEN how IN ('lost', 'stopped', 'retry') THEN 'WARNING'
               ELSE 'INFO' END,
           state,
           CASE WHEN state = 'queued' THEN message || '; queued again.'
                    || CASE failed WHEN 1 THEN coalesce(' ' || {retries}, '') ELSE '' END
                WHEN how = 'retry' AND failed = 1 AND retries_left IS NOT NULL
                    THEN message || ' ' || {retries}
                WHEN says_itself THEN message
                ELSE final::json -> 'failure' ->> 'message' END
    FROM ended
),
counted AS (
    INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units, images,
        megapixels, {bill_columns})
    SELECT id, tenant, endpoint, state, attempt, run_s, steps, units, images,
           megapixels, {bill}
    FROM ended WHERE state <> 'queued'
),
kept AS (
    INSERT INTO artifacts
        (key, request_id, attempt, tenant, media_type, size, sha256, width, height, thumbnail_of)
    SELECT a.key, e.id, e.attempt, e.tenant, a.media_type, a.size, a.sha256, a.width, a.height,
           a.thumbnail_of
    FROM ended e CROSS JOIN LATERAL json_to_recordset(e.artifacts) AS a(
        key text, media_type text, size bigint, sha256 text, width integer, height integer,
        thumbnail_of text)
    WHERE e.state = 'succeeded'
    ON CONFLICT (key) DO NOTHING
),
drafted AS (
    INSERT INTO drafts (id, tenant, request_id, key, size, sha256, facts, expires_at)
    SELECT d.id, e.tenant, e.id, d.key, d.size, d.sha256, d.facts, d.expires_at
    FROM ended e CROSS JOIN LATERAL json_to_recordset(e.drafts) AS d(
        id text, key text, size bigint, sha256 text, facts json, expires_at timestamptz)
    WHERE e.state = 'succeeded'
    ON CONFLICT DO NOTHING
),
outbox AS (
    INSERT INTO webhook_deliveries (request_id, tenant, url)
    SELECT id, tenant, webhook_url FROM ended
    WHERE state <> 'queued' AND webhook_url IS NOT NULL
),
{wake_lanes}{noted}
SELECT e.id::text, e.attempt, e.lease_nonce, e.state, e.how, e.pool, e.tenant, c.replica_id,
       e.failures, e.events, e.finished_at, e.endpoint, e.run_s, e.work, e.expected_s,
       extract(epoch FROM now() - e.started_at)::double precision, e.leads::text, e.resumed,
       extract(epoch FROM now() - e.created_at)::double precision,
       CASE WHEN e.state IN ('failed', 'expired')
            THEN substring(e.final FROM '"failure":{{"code":"([a-z0-9_]+)"') END,
       e.trace
FROM ended e LEFT JOIN closed c ON c.request_id = e.id
"""

_NOTED = """,
noted AS (
    INSERT INTO audit (actor, address, action, subject, detail)
    SELECT %(actor)s, %(address)s, %(action)s, id::text, %(detail)s::json FROM ended
)
"""

_CAUSES = (*Cause,)
_NUMBER = {cause: n for n, cause in enumerate(_CAUSES, start=1)}
_statement = partial(
    _STATEMENT.format,
    most_failures=MAX_FAILURES,
    # Not below 0: a cancelled request is not retried, but its failure is counted.
    less=", ".join(
        f"greatest(0, r.retries_left[{n}] - (j.cause = {n})::integer)" for n in _NUMBER.values()
    ),
    died=_NUMBER[Cause.CONNECTION_ERROR],
    retries=RETRIES_LEFT,
    wake_lanes=wake_lanes("ended"),
    bill_columns=BILL_COLUMNS,
    bill=bill("CASE state WHEN 'succeeded' THEN " + QUANTITY + " ELSE 0 END"),
    still="",
    noted="",
)
END_NAMED = _statement(source=_NAMED)
END_EXPIRED = _statement(source=_EXPIRED, still=_STILL_EXPIRED)
END_OUT_OF_TIME = _statement(source=_OUT_OF_TIME)
END_RUNNING = _statement(source=_RUNNING)
END_OF_ACTORS = _statement(source=_OF_ACTORS)
END_BY_HAND = _statement(source=_NAMED, noted=_NOTED)

LOST_MESSAGES = {
    EndReason.LOST: "The process ended on replica ",
    EndReason.STOPPED: "Darkroom was stopped, and with it replica ",
}
CONFIRM = """
-- name: confirm_leases
WITH chosen AS (
    SELECT r.id FROM requests r
    JOIN json_to_recordset(%(held)s::json) AS h(id uuid, attempt integer, nonce bigint)
        ON h.id = r.id AND h.attempt = r.attempt AND h.nonce = r.lease_nonce
    WHERE r.lease_until IS NOT NULL AND NOT r.confirmed
    ORDER BY r.id
    FOR NO KEY UPDATE OF r
)
UPDATE requests r SET confirmed = true, start_by = NULL FROM chosen c WHERE r.id = c.id
"""
ENDED_BY = """
-- name: find_ended
SELECT a.request_id::text, a.attempt, a.nonce
FROM json_to_recordset(%(held)s::json) AS h(id uuid, attempt integer, nonce bigint)
JOIN attempts a ON a.request_id = h.id AND a.attempt = h.attempt AND a.nonce = h.nonce
WHERE a.ended = ANY(%(how)s::text[])
"""


class EndAttempts:
    """End attempts and return the results. Notifies no one."""

    def __init__(self, database: Database, limits: QueueLimits) -> None:
        self._database = database
        self._rules = {
            "max_failures": limits.max_failures,
            "max_unconfirmed": limits.max_unconfirmed,
            "unconfirmed_replicas": min(limits.max_unconfirmed, UNCONFIRMED_REPLICAS),
            "cancelled": _text(messages.cancelled()),
            "ended_its_replica": _text(messages.ended_its_replica(limits.max_failures)),
            "no_retry_left": _text(messages.no_retry_left()),
            "never_confirmed": _text(messages.never_confirmed(limits.max_unconfirmed)),
        }

    async def end(self, ends: Sequence[AttemptEnd]) -> Sequence[EndedAttempt]:
        """End the named attempts. Returns those that still held their lease."""
        rows = [_row(end) for end in ends]
        return await self._run(END_NAMED, {"ends": messages.compact(rows)})

    async def end_by_operator(
        self, held: LeaseKey, message: str, failure: Outcome | None, noted: Mapping[str, str | None]
    ) -> Sequence[EndedAttempt]:
        """End one attempt by hand, if it holds its lease: failed with ``failure``, or else queued
        again.

        ``noted`` is written to the audit log: ``actor``, ``address``, ``action``, and ``detail`` as
        JSON.
        """
        row = {**_row(AttemptEnd(held, EndReason.BY_OPERATOR, message, failure or Outcome()))}
        if failure is None:
            row["outcome"] = None
        return await self._run(END_BY_HAND, {"ends": messages.compact([row]), **noted})

    async def confirm(self, held: frozenset[LeaseKey]) -> None:
        """Confirm the leases of attempts of which it is known, without a report, that they ran."""
        if held:
            named = messages.compact([lease_columns(each) for each in held])
            await self._database.rows(CONFIRM, {"held": named})

    async def end_expired(self) -> Sequence[EndedAttempt]:
        """End some of the attempts whose lease has run out. Call it until none is left."""
        return await self._run(
            END_EXPIRED,
            {
                "how": EndReason.LOST,
                "message": "The lease ran out on replica ",
                "cause": _NUMBER[Cause.TIMEOUT],
            },
        )

    async def end_out_of_time(self, overtime_s: float) -> Sequence[EndedAttempt]:
        """End some of the attempts that run ``overtime_s`` past the overall deadline. Call it until
        none is left.
        """
        params = {
            "cause": _NUMBER[Cause.TIMEOUT],
            "outcome": _text(messages.not_in_time()),
            "overtime_s": overtime_s,
        }
        return await self._run(END_OUT_OF_TIME, params)

    async def end_restored(self) -> Sequence[EndedAttempt]:
        """End some of the attempts that a restored backup has as running. Call it until none is
        left. No failure is counted.
        """
        params = {
            "how": EndReason.RESTORED,
            "message": "Restored from a backup that was made while it ran on replica ",
            "cause": None,
        }
        return await self._run(END_RUNNING, params)

    async def end_of_actors(
        self, actor_ids: Sequence[str], how: EndReason
    ) -> Sequence[EndedAttempt]:
        """End the attempts of replicas that are known to be dead. ``how``: ``LOST`` or
        ``STOPPED``.
        """
        params = {
            "how": how,
            "message": LOST_MESSAGES[how],
            "cause": _NUMBER[Cause.CONNECTION_ERROR],
            "actors": list(actor_ids),
        }
        return await self._run(END_OF_ACTORS, params)

    async def ended_by(
        self, held: Sequence[LeaseKey], how: Sequence[EndReason]
    ) -> frozenset[LeaseKey]:
        """Attempts among ``held`` that ended in one of these ways.

        Runs as a new statement, after one that ended nothing: the statement that lost a race has a
        snapshot from before the winner's commit.
        """
        named = [lease_columns(each) for each in held]
        params = {"held": messages.compact(named), "how": [str(each) for each in how]}
        rows = await self._database.rows(ENDED_BY, params)
        return frozenset(LeaseKey(*row) for row in rows)

    async def _run(self, statement: str, params: Mapping[str, Any]) -> Sequence[EndedAttempt]:
        rows = await self._database.rows(statement, {**self._rules, **params})
        return [
            EndedAttempt(LeaseKey(*row[:3]), State(row[3]), EndReason(row[4]), *row[5:])
            for row in rows
        ]


def _row(end: AttemptEnd) -> Mapping[str, Any]:
    outcome = end.outcome
    made = made_by(own := outcome if end.counts else Outcome())
    return {
        **lease_columns(end.held),
        "how": end.how,
        "message": messages.clean(end.message),
        "cause": _NUMBER[_cause(outcome)],
        # A string within JSON: the server never sees escapes that it cannot store.
        "outcome": _text(outcome),
        "artifacts": [*_files(own)],
        "drafts": [*_drafts(end.held, outcome)],
        **flatten_outcome(own.usage),
        "images": made.images,
        "megapixels": made.megapixels,
        "seconds": str(made.seconds),
    }


def _files(outcome: Outcome) -> Iterator[Mapping[str, Any]]:
    """Rows of the table ``artifacts``: every file in storage, so that all are deleted alike."""
    for artifact in (each for each in outcome.artifacts if not is_elsewhere(each.key)):
        yield flatten_outcome(replace(artifact, thumbnail=None))
        if artifact.thumbnail is not None:
            yield flatten_outcome(artifact.thumbnail) | {"thumbnail_of": artifact.key}


def _drafts(held: LeaseKey, outcome: Outcome) -> Iterator[Mapping[str, Any]]:
    """Rows of the table ``drafts``, of files for which the attempt got a ticket."""
    described = (outcome.output or {}).get(DRAFTS, ())
    for facts, file in zip(described, outcome.drafts, strict=False):
        if file.key.startswith(f"d/{held.request_id}/{held.attempt}/"):
            yield {
                "id": facts["id"],
                "key": file.key,
                "size": file.size,
                "sha256": file.sha256,
                "facts": facts,
                "expires_at": facts["expires_at"],
            }


def _cause(outcome: Outcome) -> Cause:
    """Cause of a failure that another attempt may help."""
    failure = outcome.failure
    died = failure is not None and failure.code == ReplicaDied.code
    return Cause.CONNECTION_ERROR if died else Cause.SERVER_ERROR


def _text(outcome: Outcome) -> str:
    return messages.compact(outcome_to_json(outcome))

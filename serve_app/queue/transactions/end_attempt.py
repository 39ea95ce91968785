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
from typing import Any

from serve_app.domain.artifact import is_elsewhere
from serve_app.domain.billing.price import made_by
from serve_app.domain.errors import ReplicaDied
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.draft import DRAFTS
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import Cause, State
from serve_app.postgres.database import Database
from serve_app.queue.attempts.ending import (
    CAUSE_NUMBERS,
    END_BY_HAND,
    END_EXPIRED,
    END_NAMED,
    END_OF_ACTORS,
    END_OUT_OF_TIME,
    END_RUNNING,
)
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import flatten_outcome, lease_columns, outcome_to_json


class EndReason(StrEnum):
    """Cause of the end of an attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its overall deadline passed
    RETRY = "retry"  # it failed, and another attempt can help
    DIED = "died"  # the device or engine under it failed, as the replica says
    HAND_BACK = "hand_back"
    UNDELIVERED = "undo"  # the lease never reached the replica
    LOST = "lost"  # the replica's process ended by itself: what it computed may be the reason
    INTERRUPTED = "interrupted"  # the replica, its node or the way to it failed: not the request's
    BY_OPERATOR = "by_hand"  # an operator ended it
    # its replica did not end it after the overall deadline; the attempt is recorded as lost
    OUT_OF_TIME = "out_of_time"
    # it ran when the backup was made that was restored; the attempt is recorded as lost
    RESTORED = "restored"
    STOPPED = "stopped"  # the whole installation was stopped, with every running attempt


WITHOUT_REPLICA = frozenset(
    {
        EndReason.LOST,
        EndReason.INTERRUPTED,
        EndReason.STOPPED,
        EndReason.OUT_OF_TIME,
        EndReason.BY_OPERATOR,
    }
)
"""Ends of attempts of which their replica reports nothing."""

UNCONFIRMED_REPLICAS = 3
"""Number of replicas that must have had a request before it fails because none confirmed it."""

BY_FINISH = (
    EndReason.SUCCEEDED,
    EndReason.FAILED,
    EndReason.CANCELLED,
    EndReason.EXPIRED,
    EndReason.RETRY,
    EndReason.DIED,
)


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """End of one attempt, to be written."""

    lease_key: LeaseKey
    how: EndReason
    message: str  # for the request's own log
    outcome: Outcome = field(default_factory=Outcome)
    counts: bool = True  # False: its files and its usage are those of other requests


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """Result of an ended attempt."""

    lease_key: LeaseKey
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
    queued_in: str = ""  # pool in which it is queued again
    fell_back: bool = False  # by this end
    ran_elsewhere: bool = False  # as its fallback, in the pool of its own endpoint
    node: str = ""  # of its replica, if it did not end well and the node is known


LOST_MESSAGES = {
    EndReason.LOST: "The process ended on replica ",
    EndReason.INTERRUPTED: "The cluster or the node failed under replica ",
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
UNION ALL
SELECT r.id::text, r.attempt, r.lease_nonce
FROM json_to_recordset(%(held)s::json) AS h(id uuid, attempt integer, nonce bigint)
JOIN requests r ON r.id = h.id AND r.attempt = h.attempt AND r.lease_nonce = h.nonce
WHERE r.state = 'succeeded' AND 'succeeded' = ANY(%(how)s::text[])
"""


class EndAttempts:
    """End attempts and return the results. Notifies no one."""

    def __init__(self, database: Database, limits: QueueLimits) -> None:
        self._database = database
        self._rules = {
            "max_failures": limits.max_failures,
            "max_unconfirmed": limits.max_unconfirmed,
            "unconfirmed_replicas": min(limits.max_unconfirmed, UNCONFIRMED_REPLICAS),
            "cancelled": _text(messages.cancellation()),
            "ended_its_replica": _text(messages.ended_its_replica(limits.max_failures)),
            "no_retry_left": _text(messages.no_retry_left()),
            "never_confirmed": _text(messages.never_confirmed(limits.max_unconfirmed)),
        }

    async def end(self, ends: Sequence[AttemptEnd]) -> Sequence[EndedAttempt]:
        """End the named attempts. Returns those that still held their lease."""
        rows = [_row(end) for end in ends]
        return await self._run(END_NAMED, {"ends": messages.compact(rows)})

    async def end_by_operator(
        self,
        lease_key: LeaseKey,
        message: str,
        failure: Outcome | None,
        noted: Mapping[str, str | None],
    ) -> Sequence[EndedAttempt]:
        """End one attempt by hand, if it holds its lease: failed with ``failure``, or else queued
        again.

        ``noted`` is written to the audit log: ``actor``, ``address``, ``action``, and ``detail`` as
        JSON.
        """
        row = {**_row(AttemptEnd(lease_key, EndReason.BY_OPERATOR, message, failure or Outcome()))}
        if failure is None:
            row["outcome"] = None
        return await self._run(END_BY_HAND, {"ends": messages.compact([row]), **noted})

    async def confirm(self, lease_keys: frozenset[LeaseKey]) -> None:
        """Confirm the leases of attempts of which it is known, without a report, that they ran."""
        if lease_keys:
            named = messages.compact([lease_columns(lease) for lease in lease_keys])
            await self._database.rows(CONFIRM, {"held": named})

    async def end_expired(self) -> Sequence[EndedAttempt]:
        """End some of the attempts whose lease has run out. Call it until none is left."""
        return await self._run(
            END_EXPIRED,
            {
                "how": EndReason.INTERRUPTED,
                "message": "The lease ran out on replica ",
                "cause": CAUSE_NUMBERS[Cause.TIMEOUT],
            },
        )

    async def end_out_of_time(self, overtime_s: float) -> Sequence[EndedAttempt]:
        """End some of the attempts that run ``overtime_s`` past the overall deadline. Call it until
        none is left.
        """
        params = {
            "cause": CAUSE_NUMBERS[Cause.TIMEOUT],
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
        """End the attempts of replicas whose term has ended. ``how``: ``LOST``, ``INTERRUPTED`` or
        ``STOPPED``.
        """
        params = {
            "how": how,
            "message": LOST_MESSAGES[how],
            "cause": CAUSE_NUMBERS[Cause.CONNECTION_ERROR],
            "actors": list(actor_ids),
        }
        return await self._run(END_OF_ACTORS, params)

    async def ended_by(
        self, lease_keys: Sequence[LeaseKey], how: Sequence[EndReason]
    ) -> frozenset[LeaseKey]:
        """Attempts among ``lease_keys`` that ended in one of these ways.

        Runs as a new statement, after one that ended nothing: the statement that lost a race has a
        snapshot from before the winner's commit.
        """
        named = [lease_columns(lease) for lease in lease_keys]
        params = {"held": messages.compact(named), "how": [str(reason) for reason in how]}
        rows = await self._database.rows(ENDED_BY, params)
        return frozenset(LeaseKey(*row) for row in rows)

    async def _run(self, statement: str, params: Mapping[str, Any]) -> Sequence[EndedAttempt]:
        rows = await self._database.rows(statement, {**self._rules, **params})
        return [
            EndedAttempt(LeaseKey(id_, attempt, nonce), State(state), EndReason(reason), *others)
            for id_, attempt, nonce, state, reason, *others in rows
        ]


def _row(end: AttemptEnd) -> Mapping[str, Any]:
    outcome = end.outcome
    quantities = made_by(own := outcome if end.counts else Outcome())
    return {
        **lease_columns(end.lease_key),
        "how": end.how,
        "message": messages.clean(end.message),
        "cause": CAUSE_NUMBERS[_cause(outcome)],
        # A string within JSON: the server never sees escapes that it cannot store.
        "outcome": _text(outcome),
        "artifacts": [*_files(own)],
        "drafts": [*_drafts(end.lease_key, outcome)],
        **flatten_outcome(own.usage),
        "images": quantities.images,
        "megapixels": quantities.megapixels,
        "seconds": str(quantities.seconds),
        "share": str(quantities.share),
    }


def _files(outcome: Outcome) -> Iterator[Mapping[str, Any]]:
    """Rows of the table ``artifacts``: every file in storage, so that all are deleted alike."""
    for artifact in (file for file in outcome.artifacts if not is_elsewhere(file.key)):
        yield flatten_outcome(replace(artifact, thumbnail=None))
        if artifact.thumbnail is not None:
            yield flatten_outcome(artifact.thumbnail) | {"thumbnail_of": artifact.key}


def _drafts(lease_key: LeaseKey, outcome: Outcome) -> Iterator[Mapping[str, Any]]:
    """Rows of the table ``drafts``, of files for which the attempt got a ticket."""
    described = (outcome.output or {}).get(DRAFTS, ())
    for facts, file in zip(described, outcome.drafts, strict=False):
        if file.key.startswith(f"d/{lease_key.request_id}/{lease_key.attempt}/"):
            yield {
                "id": facts["id"],
                "key": file.key,
                "size": file.size,
                "sha256": file.sha256,
                "facts": facts,
                "expires_at": facts["expires_at"],
            }


def says_it_died(outcome: Outcome) -> bool:
    """Return whether the replica says that its device or engine failed under the attempt."""
    return outcome.failure is not None and outcome.failure.code == ReplicaDied.code


def _cause(outcome: Outcome) -> Cause:
    """Cause of a failure that another attempt may help."""
    return Cause.CONNECTION_ERROR if says_it_died(outcome) else Cause.SERVER_ERROR


def _text(outcome: Outcome) -> str:
    return messages.compact(outcome_to_json(outcome))

"""Insert of new requests: they are stored, and leased in the same statement if a poll is waiting
here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from serve_app.domain.request import NewRequest, Redacted, Request, State
from serve_app.postgres.database import UNAWAITED, Database, Lock, LongTexts
from serve_app.queue.fairness.fair_queue import head_start_s, wake_lanes
from serve_app.queue.store import messages
from serve_app.queue.store.quotas import ADMITTED, LEFT, REFUSALS, REFUSED, Quota
from serve_app.queue.store.rows import (
    NEW_NONCE,
    RETRIES_LEFT,
    retries_column,
    term_has_ended,
)
from serve_app.queue.store.words import words_column

# Short forms of inputs that are too long to show in full, mostly because of embedded images. Only
# the replica gets the whole input. A status, a list or a log would otherwise carry megabytes at
# each read, and a process that caches many requests would hold all their images.

LARGE_CHARACTERS = 64 * 1024
"""Characters of JSON in ASCII."""
FIELD_CHARACTERS = 2048
BEGINNING = 100
FIELDS = 64


class EncodedInput:
    """An input as it is stored. It is encoded when that is first needed: a request that is refused
    before costs no pass over its images.
    """

    __slots__ = ("_input", "_summary", "_text")

    def __init__(self, input: Mapping[str, Any]) -> None:
        self._input = input
        self._text: str | None = None
        self._summary: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The input as JSON."""
        if self._text is None:
            self._text = messages.compact(self._input)
        return self._text

    @property
    def large(self) -> bool:
        return len(self.text) > LARGE_CHARACTERS

    @property
    def summary(self) -> Mapping[str, Any]:
        """The form that is shown: the input itself unless it is large."""
        if self._summary is None:
            self._summary = summarize(self._input) if self.large else self._input
        return self._summary

    @property
    def large_bytes(self) -> int:
        """Size of a large input; otherwise 0."""
        return len(self.text) if self.large else 0

    @property
    def stored_summary(self) -> str | None:
        """``summary`` as it is stored beside a large input; None otherwise."""
        return messages.compact(self.summary) if self.large else None


def summarize(input: Mapping[str, Any]) -> Mapping[str, Any]:
    """The short form of an input. Short fields are unchanged; a long text becomes its beginning and
    length, any other long value its length.
    """
    cut = {name[:BEGINNING]: _summarize(value) for name, value in list(input.items())[:FIELDS]}
    left_out = len(input) - FIELDS
    return cut | ({"…": f"{left_out} more fields"} if left_out > 0 else {})


def _summarize(value: object) -> object:
    if isinstance(value, str):
        if len(value) <= FIELD_CHARACTERS:
            return value
        return f"{value[:BEGINNING]}… ({len(value)} characters)"
    length = len(messages.compact(value))
    return value if length <= FIELD_CHARACTERS else f"… ({length} characters of JSON)"


# No coalescing: every submitted request runs by itself.
_ALONE = "SELECT n.*, NULL::uuid AS follows, NULL::uuid AS leader FROM new n"
# The leader to coalesce with: in the database, or earlier in this statement. An outcome that was
# handed in a moment ago is for requests that did not see it when they looked. One that may not fall
# back does not wait for one that may, whose outcome may be another endpoint's.
_COALESCED = """
    SELECT n.*, who.grp AS follows, who.leader FROM (
        SELECT *, CASE WHEN reuse IS NOT NULL THEN first_value(id) OVER (
                PARTITION BY tenant, reuse, fallback IS NULL ORDER BY priority DESC, n) END AS first
        FROM new
    ) n LEFT JOIN LATERAL (SELECT * FROM (
        SELECT 1 AS nth, l.leads AS grp, l.id AS leader FROM requests l
        WHERE l.tenant = n.tenant AND l.reuse_digest = decode(n.reuse, 'hex')
          AND l.leads IS NOT NULL AND l.outcome IS NULL AND NOT l.cancel_requested
          AND (l.lease_until IS NOT NULL OR l.priority >= n.priority)
          AND (l.fallback IS NULL) = (n.fallback IS NULL)
        UNION ALL
        SELECT 2, l.leads, l.id FROM requests l
        WHERE l.tenant = n.tenant AND l.reuse_digest = decode(n.reuse, 'hex')
          AND l.leads IS NOT NULL AND l.state = 'succeeded'
          AND l.finished_at > now() - interval '10 s'
        UNION ALL
        SELECT 3, n.first, n.first WHERE n.first <> n.id
    ) each ORDER BY nth LIMIT 1) who ON true
"""
_STATEMENT = f"""
-- name: insert
WITH {{source}} AS (
    SELECT * FROM json_to_recordset(%(new)s::json) AS x(
        n integer, id uuid, tenant text, endpoint text, digest text, pool text, priority smallint,
        input text, start_within_s double precision, end_within_s double precision,
        work double precision, expected_s double precision, head_start_s double precision,
        alone boolean, previews boolean, warnings json, replica text, actor text, key text,
        body text, reuse text, forgetting text, retries text, webhook text, call jsonb,
        shown text, large integer, words tsvector, draft_key text, draft_bytes bigint,
        key_id text, price jsonb, reserved numeric, needed numeric, file_access text,
        upload_policy text, fallback json, shadow text, steps_stay boolean)
),{{admitted}}
alike AS MATERIALIZED ({{alike}}),
placed AS MATERIALIZED (
    -- Leased at once only if nothing is queued before it and it is not paused. (No EXISTS: the
    -- planner builds a hash table of the whole queue for it; measured, 25 ms with 100,000 queued.)
    SELECT n.*, (n.replica IS NOT NULL AND n.follows IS NULL AND (%(beside_snapshot)s::boolean OR (
        SELECT 1 FROM requests q WHERE q.pool = n.pool AND q.state = 'queued' LIMIT 1
        ) IS NULL) AND (
        SELECT 1 FROM halts h WHERE h.endpoint = n.endpoint AND h.kind = 'paused'
        ) IS NULL AND NOT {term_has_ended("n.actor")})::integer AS here
    FROM alike n
),
keyed AS (
    INSERT INTO idempotency_keys (tenant, endpoint, key, request_id, body_digest)
    SELECT tenant, endpoint, key, id, decode(body, 'hex') FROM placed WHERE key IS NOT NULL
    -- In one order: two statements that insert the same keys do not deadlock.
    ORDER BY tenant, endpoint, key, n
    ON CONFLICT DO NOTHING
    RETURNING request_id
),
stored AS (
    INSERT INTO requests (
        id, tenant, endpoint, endpoint_digest, pool, priority, input, shown, start_by, end_by,
        ranked_at, work, expected_s, alone, previews, events, reuse_digest, forgetting,
        retries_left, webhook_url, call, leads, follows, state, attempt, replica_id,
        actor_id, lease_nonce, lease_until, start_line, started_at, draft_key, draft_bytes, key_id,
        price, reserved, file_access, upload_policy, fallback, steps_stay)
    SELECT id, tenant, endpoint, digest, pool, priority,
           coalesce(input, (%(large)s::text[])[large])::json, shown::json,
           -- A request that has not started by its overall deadline has expired too.
           now() + make_interval(secs => least(start_within_s, end_within_s)),
           now() + make_interval(secs => end_within_s),
           now() + make_interval(secs => head_start_s), work, expected_s, alone, previews,
           1 + json_array_length(warnings) + here + (follows IS NOT NULL)::integer,
           decode(reuse, 'hex'), forgetting, retries::smallint[], webhook, call,
           CASE WHEN reuse IS NOT NULL AND follows IS NULL THEN id END, follows,
           CASE WHEN follows IS NOT NULL THEN 'following'
                WHEN here = 1 THEN 'running' ELSE 'queued' END, here,
           CASE here WHEN 1 THEN replica END,
           CASE here WHEN 1 THEN actor END,
           here * {NEW_NONCE},
           CASE here WHEN 1 THEN now() + make_interval(secs => %(first_lease_s)s) END,
           CASE here WHEN 1 THEN 2 + json_array_length(warnings) END,
           CASE here WHEN 1 THEN now() END, draft_key, draft_bytes, key_id, price, reserved,
           file_access, upload_policy, fallback, steps_stay
    FROM placed WHERE key IS NULL OR id IN (SELECT request_id FROM keyed)
    ORDER BY n
    RETURNING id, tenant, pool, state, attempt, replica_id, actor_id, created_at, events, end_by,
              retries_left, follows, lease_nonce
),
notified AS (
    INSERT INTO events (request_id, sequence, level, state, message)
    SELECT id, 1, 'INFO', 'queued', '{messages.QUEUED} ' || {RETRIES_LEFT} FROM stored
    WHERE retries_left IS NOT NULL
    UNION ALL
    SELECT n.id, 1 + w.place, 'WARNING', NULL, w.message
    FROM new n CROSS JOIN LATERAL
        json_array_elements_text(n.warnings) WITH ORDINALITY AS w(message, place)
    WHERE n.key IS NULL OR n.id IN (SELECT id FROM stored)
    UNION ALL
    SELECT s.id, s.events, 'INFO', NULL, %(follows)s::text || p.leader || %(will_do)s::text
    FROM stored s JOIN placed p ON p.id = s.id WHERE s.follows IS NOT NULL
),
searched AS (
    INSERT INTO request_words (tenant, request_id, words)
    SELECT s.tenant, s.id, n.words FROM stored s JOIN new n ON n.id = s.id
    WHERE n.words IS NOT NULL
),{{shadowed}}
{wake_lanes("stored")}
SELECT s.id::text, s.state, s.created_at, s.events, s.end_by, s.lease_nonce, s.follows::text,
       CASE WHEN s.follows IS NOT NULL THEN (
           SELECT p.leader FROM placed p WHERE p.id = s.id)::text END,
       {{left}},
       CASE WHEN NOT %(durable)s::boolean THEN {UNAWAITED} END
FROM stored s{{refusals}}
"""
# A request that waits for the outcome of another one computes nothing that could be compared.
_SHADOWED = """
shadowed AS (
    INSERT INTO shadows (original, tenant, endpoint, target)
    SELECT s.id, s.tenant, n.endpoint, n.shadow FROM stored s JOIN new n ON n.id = s.id
    WHERE n.shadow IS NOT NULL AND s.state <> 'following'
),"""
_ALL = {"source": "new", "admitted": "", "left": "NULL", "refusals": ""}
_ADMITTED = {"source": "given", "admitted": ADMITTED, "left": LEFT, "refusals": REFUSALS}
INSERTS = {
    (coalescing, admitted, shadowed): _STATEMENT.format(
        alike=_COALESCED if coalescing else _ALONE,
        shadowed=_SHADOWED if shadowed else "",
        **(_ADMITTED if admitted else _ALL),
    )
    for coalescing in (False, True)
    for admitted in (False, True)
    for shadowed in (False, True)
}
"""Forms of the statement: each has only the parts that its requests need."""


@dataclass(frozen=True, slots=True)
class DirectLease:
    """A waiting replica that can take a new request at once."""

    replica_id: str
    actor_id: str


@dataclass(frozen=True, slots=True)
class NewRow:
    """A request to be stored, the replica that can take it at once, and its expected time."""

    request: NewRequest
    input: EncodedInput
    offer: DirectLease | None = None
    expected_s: float = 1.0  # of a slot
    reserved: Decimal | None = None  # of its tenant's budget
    needed: Decimal | None = None  # that the budget has to have left, without reserving it


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was not stored, because of its tenant's rate or budget."""

    verdict: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InsertResult:
    """A stored request."""

    request: Request
    version: int
    leased: bool
    group: str | None = None  # the group whose outcome it waits for
    left: Mapping[str, Any] | None = None  # of its tenant's rate and budget, if it has any


async def insert_requests(
    database: Database,
    new: Sequence[NewRow],
    first_lease_s: float,
    *,
    durable: bool = True,
    beside_snapshot: bool = False,
    quotas: Sequence[Quota] = (),
) -> Sequence[InsertResult | Refusal | None]:
    """Store all requests in one transaction, in this order. ``durable`` False: without waiting
    for the disk. ``beside_snapshot``: without looking for queued requests before these, since that
    would read all that a snapshot that is open for long keeps. ``quotas``: of all tenants of the
    batch, if they are checked.

    A request is coalesced with another one of the same tenant that computes the same. The result is
    None for a request that was not stored because its idempotency key is in use. Only a new
    statement can find the other request: the snapshot of this one may be older than that request's
    commit.
    """
    rows = [_row(n, new_row) for n, new_row in enumerate(new)]
    # Each large input is a parameter of its own: within JSON it would be encoded and parsed twice.
    large = [row for row, new_row in zip(rows, new, strict=True) if new_row.input.large]
    texts = LongTexts(row.pop("input") for row in large)
    for place, row in enumerate(large, start=1):
        row["large"] = place
    locks = [
        outcome_lock_number(new_row.request.tenant, new_row.request.reuse_digest)
        for new_row in new
        if new_row.request.reuse_digest
    ]
    inserted = await database.rows(
        INSERTS[bool(locks), bool(quotas), any(new_row.request.shadow for new_row in new)],
        {
            "new": messages.compact(rows),
            "large": texts,
            "first_lease_s": first_lease_s,
            "follows": messages.FOLLOWS[0],
            "will_do": messages.FOLLOWS[1],
            "durable": durable,
            "beside_snapshot": beside_snapshot,
            "quotas": messages.compact([quota.columns for quota in quotas]),
        },
        # Of requests that arrive together, exactly one becomes the leader.
        lock=Lock(locks) if locks else None,
    )
    stored = {id_: columns for id_, *columns, _ in inserted}
    column_lists = [stored.get(new_row.request.id.lower()) for new_row in new]
    return [
        None if columns is None else _result_or_refusal(new_row, columns)
        for new_row, columns in zip(new, column_lists, strict=True)
    ]


def _result_or_refusal(new_row: NewRow, columns: Sequence[Any]) -> InsertResult | Refusal:
    state, *_, left = columns
    return Refusal(json.loads(left)) if state == REFUSED else _result(new_row, *columns)


def outcome_lock_number(tenant: str, digest: bytes) -> int:
    """Number of an advisory lock for one outcome: held while a request for it is stored or
    promoted.
    """
    hashed = hashlib.sha256(tenant.encode() + b"\0" + digest).digest()
    return int.from_bytes(hashed[:8], "big", signed=True)


def columns_of(new: NewRequest, input: EncodedInput) -> dict[str, Any]:
    """Columns stored for every request, whether it is to run or already has its outcome."""
    return {
        "id": new.id,
        "tenant": new.tenant,
        "endpoint": new.endpoint,
        "digest": new.endpoint_digest,
        "pool": new.pool,
        "priority": int(new.priority),
        # A string within JSON: see end_attempt.py.
        "input": input.text,
        "shown": input.stored_summary,
        "alone": new.alone,
        "warnings": [messages.clean(warning) for warning in new.warnings],
        "key": new.idempotency_key,
        "webhook": new.webhook.url if new.webhook else None,
        "call": _call(new) or None,
        "words": words_column(new.tenant, new.input) if new.store_io else None,
        "key_id": new.key_id or None,
        "price": new.price.to_json() if new.price else None,
    }


def _call(new: NewRequest) -> dict[str, str]:
    fields = {
        "trace": new.trace,
        "origin": new.webhook.origin if new.webhook else "",
        "model": new.requested_model,
    }
    return {name: value for name, value in fields.items() if value}


def _row(n: int, new_row: NewRow) -> dict[str, Any]:
    new, offer = new_row.request, new_row.offer
    return columns_of(new, new_row.input) | {
        "n": n,
        "start_within_s": new.start_within_s,
        "end_within_s": new.end_within_s,
        "work": new.work,
        "expected_s": new_row.expected_s,
        "head_start_s": head_start_s(new.priority),
        "previews": new.previews,
        "replica": offer.replica_id if offer else None,
        "actor": offer.actor_id if offer else None,
        "body": new.body_digest.hex() or None,
        "reuse": new.reuse_digest.hex() or None,
        "forgetting": None if new.store_io else Redacted.INPUT,
        "retries": retries_column(new.retries),
        "draft_key": new.draft_key,
        "draft_bytes": new.draft_bytes or None,
        "file_access": new.file_access_id or None,
        "upload_policy": new.upload_policy.to_json() if new.upload_policy else None,
        "reserved": None if new_row.reserved is None else str(new_row.reserved),
        "needed": None if new_row.needed is None else str(new_row.needed),
        "fallback": new.fallback and new.fallback.to_json(),
        "shadow": new.shadow or None,
        "steps_stay": new.steps_stay,
    }


def _result(
    new_row: NewRow,
    state: str,
    created_at: datetime,
    version: int,
    end_by: datetime | None,
    lease_nonce: int,
    group: str | None,
    leader: str | None,
    left: str | None,
) -> InsertResult:
    new, offer = new_row.request, new_row.offer
    leased = state == State.RUNNING
    request = Request(
        id=new.id,
        tenant=new.tenant,
        endpoint=new.endpoint,
        pool=new.pool,
        state=State.RUNNING if leased else State.QUEUED,
        input=new_row.input.summary,
        priority=new.priority,
        attempt=1 if leased else 0,
        failures=0,
        alone=new.alone,
        end_by=end_by,
        work=new.work,
        previews=new.previews,
        created_at=created_at,
        started_at=created_at if leased else None,
        replica_id=offer.replica_id if offer and leased else None,
        forgetting=None if new.store_io else Redacted.INPUT,
        retries_left=new.retries,
        follows=leader,
        events=version,
        lease_nonce=lease_nonce,
        trace=new.trace,
        draft_key=new.draft_key,
        price=new.price,
        file_access=new.file_access_id,
        upload_policy=new.upload_policy,
        endpoint_digest=new.endpoint_digest,
        requested_model=new.requested_model,
        fallback=new.fallback,
    )
    return InsertResult(request, version, leased, group, json.loads(left) if left else None)

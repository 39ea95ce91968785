"""A stored request of the fake queue."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import Preview
from serve_app.domain.request import LogLine, NewRequest, Redacted, Request, State
from serve_app.queue.transactions.redaction import OUTCOME_TTL_S, redacted_input, redacted_outcome
from tests.fakes.lane_order import QueuedRequest, ranked_at

NEVER_S = 1e9


def suspect(request: Request) -> bool:
    """It may have ended its replica. A replica runs one such at a time."""
    return request.alone and request.failures > 0


class Row:
    """A stored request with what the port does not show of it."""

    def __init__(self, request: Request, place: int, new: NewRequest, expected_s: float) -> None:
        self.request = request
        self.place = place
        self.input = dict(new.input)  # whole, for a replica
        self.webhook = new.webhook
        self.key_id = new.key_id
        self.draft_bytes = new.draft_bytes
        self.steps_stay = new.steps_stay
        self.reserved: Decimal | None = None  # of its tenant's budget
        self.endpoint_digest = new.endpoint_digest
        self.expected_s = expected_s
        self.ranked_at = ranked_at(request.created_at, request.priority)
        within = [limit for limit in (new.start_within_s, new.end_within_s) if limit is not None]
        self.start_by = request.created_at + timedelta(seconds=min(within, default=NEVER_S))
        self.leased_at = 0.0  # monotonic
        self.actor_id = ""
        self.confirmed = False
        self.lease_until = 0.0  # monotonic
        self.unconfirmed = 0
        self.died_on: set[str] = set()  # nodes on which a replica died with it
        self.replicas: set[str] = set()  # those that had a lease of it
        self.preview: Preview | None = None
        self.watched_until = 0.0  # monotonic
        self.followed_until = 0.0  # monotonic
        self.ended: dict[LeaseKey, str] = {}  # lease → the act that ended it
        self.log: list[LogLine] = []
        self.logged: State | None = None  # the last that the log names

    def to_queued_request(self) -> QueuedRequest:
        """As far as its order goes."""
        request = self.request
        return QueuedRequest(
            request.id,
            request.tenant,
            request.endpoint,
            self.ranked_at,
            self.place,
            self.expected_s,
            self.start_by,
        )


def forgetting(row: Row, now: datetime) -> Request:
    """The row's request without what is to be forgotten of it by ``now``."""
    request = row.request
    ended_at = request.finished_at
    if ended_at is None:
        return request
    if request.forgetting is Redacted.INPUT:
        request = replace(request, input=redacted_input(request.input), forgetting=Redacted.OUTCOME)
    over = ended_at + timedelta(seconds=OUTCOME_TTL_S) <= now
    if request.forgetting is Redacted.OUTCOME and over:
        left = redacted_outcome(request.outcome or Outcome())
        request = replace(request, outcome=left, forgetting=Redacted.DONE)
        row.log.clear()
    return request

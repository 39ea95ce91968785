"""What the queue in memory knows of submits that come twice: ids of requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from serve_app.domain.outcome import Outcome, Usage
from serve_app.domain.ports import Clock
from serve_app.domain.request import NewRequest, Request, State
from serve_app.queue.transactions.idempotency import (
    UNDELIVERED_S,
    another_body,
    request_deleted_error,
)
from serve_app.queue.transactions.insert import EncodedInput


class HasRequest(Protocol):
    @property
    def request(self) -> Request: ...


class FakeRepeats:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_key: dict[tuple[str, str, str | None], tuple[str, bytes]] = {}
        self._reusable: dict[str, bytes] = {}
        self._deleted: set[str] = set()
        self._undelivered: dict[str, tuple[tuple[str | None, bytes], float]] = {}

    def learn(self, new: NewRequest) -> None:
        if new.idempotency_key is not None:
            by = (new.tenant, new.endpoint, new.idempotency_key)
            self._by_key[by] = (new.id, new.body_digest)
        if new.reuse_digest:
            self._reusable[new.id] = new.reuse_digest

    def of(self, new: NewRequest) -> str | None:
        by = (new.tenant, new.endpoint, new.idempotency_key)
        request_id, body_digest = self._by_key.get(by, (None, b""))
        if request_id is not None and body_digest != new.body_digest:
            raise another_body()
        if request_id in self._deleted:
            raise request_deleted_error()
        return request_id

    def find_by_key(self, tenant: str, endpoint: str, key: str) -> str | None:
        """Request with this idempotency key, also if it was deleted."""
        return self._by_key.get((tenant, endpoint, key), (None, b""))[0]

    def note_deleted(self, request_id: str) -> None:
        self._deleted.add(request_id)
        self._undelivered.pop(request_id, None)

    def reusable(self, new: NewRequest, rows: Iterable[HasRequest]) -> Request | None:
        """The youngest that succeeded by itself and may be shared with ``new``."""
        if not new.reuse_digest:
            return None
        candidates = [
            row.request
            for row in rows
            if row.request.tenant == new.tenant
            and row.request.state is State.SUCCEEDED
            and row.request.reuses is None
            and self._reusable.get(row.request.id) == new.reuse_digest
        ]
        return max(candidates, key=lambda request: request.id, default=None)

    def leader(self, new: NewRequest, rows: Iterable[HasRequest]) -> str | None:
        """A request that makes the same, is not being cancelled, and runs no later than ``new``."""
        if not new.reuse_digest:
            return None
        leaders = (
            row.request.id
            for row in rows
            if row.request.tenant == new.tenant
            and not row.request.state.final
            and row.request.follows is None
            and not row.request.cancel_requested
            and (row.request.state is State.RUNNING or row.request.priority >= new.priority)
            and row.request.id != new.id
            and (row.request.fallback is None) == (new.fallback is None)
            and self._reusable.get(row.request.id) == new.reuse_digest
        )
        return next(leaders, None)

    def forget_reusable(self, request_id: str) -> None:
        """What was given is not passed on."""
        self._reusable.pop(request_id, None)

    def note_undelivered(self, new: NewRequest, request_id: str) -> None:
        body = (new.replay_key, new.body_digest)
        self._undelivered[request_id] = (body, self._clock.monotonic())

    def take_undelivered(self, new: NewRequest) -> str | None:
        oldest = self._clock.monotonic() - UNDELIVERED_S
        for request_id, (body, at) in self._undelivered.items():
            if body == (new.replay_key, new.body_digest) and at > oldest:
                del self._undelivered[request_id]
                return request_id
        return None


def reusing(new: NewRequest, earlier: Request, now: datetime) -> Request:
    """``new`` at its end, with the outcome of ``earlier``."""
    return Request(
        id=new.id,
        tenant=new.tenant,
        endpoint=new.endpoint,
        pool=new.pool,
        state=State.SUCCEEDED,
        input=dict(EncodedInput(new.input).summary),
        priority=new.priority,
        alone=new.alone,
        attempt=0,
        failures=0,
        created_at=now,
        started_at=now,
        finished_at=now,
        outcome=replace(earlier.outcome or Outcome(), usage=Usage()),
        reuses=earlier.id,
        trace=new.trace,
        price=new.price,
        requested_model=new.requested_model,
    )

"""Requests of the fake queue that run elsewhere than their endpoint says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from serve_app.domain.executors.fallback import Fallback, FallbackMove, QueuedGroup
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock
from serve_app.domain.request import Priority, State
from serve_app.queue.store import messages
from tests.fakes.queue_row import Row


class FakeFallbacks:
    """Implements ``Fallbacks`` in memory."""

    def __init__(
        self,
        clock: Clock,
        rows: Mapping[str, Row],
        line: Callable[..., None],
        changed: Callable[[], None],
        not_shared: Callable[[str], None],
        open_lane: Callable[[str, str], None],
    ) -> None:
        self._clock = clock
        self._rows = rows
        self._line = line
        self._changed = changed
        self._not_shared = not_shared
        self._open_lane = open_lane
        self._spent: dict[tuple[str, str], tuple[datetime, Decimal]] = {}

    async def move(self, moves: Sequence[FallbackMove]) -> Sequence[str]:
        moved: list[str] = []
        for move in moves:
            row = self._rows.get(move.request_id)
            if row is None or row.request.state is not State.QUEUED or row.request.follows:
                continue
            if row.request.snapshot is None and self._falls(row, move.reason, ""):
                moved.append(move.request_id)
        return moved

    async def queued_outside(self, pools: Collection[str]) -> Sequence[QueuedGroup]:
        groups = {_group(row) for row in self._rows.values() if _is_queued(row)}
        return sorted(
            (group for group in groups if group.pool not in pools),
            key=lambda group: (group.pool, group.tenant, group.endpoint),
        )

    async def queued_within(self, pools: Collection[str]) -> Sequence[QueuedGroup]:
        queued = {_group(r) for r in self._rows.values() if _is_queued(r) and not _fell(r)}
        return sorted(
            (group for group in queued if group.pool in pools),
            key=lambda group: (group.pool, group.tenant, group.endpoint),
        )

    async def change_pool(self, group: QueuedGroup, pool: str) -> int:
        rows = [
            queued
            for queued in self._rows.values()
            if _is_queued(queued) and _group(queued) == group
        ]
        self._open_lane(pool, group.tenant)
        for row in rows:
            row.request = replace(row.request, pool=pool)
            self._line(row, messages.other_pool(group.pool, pool))
        self._changed()
        return len(rows)

    async def period_cost(self, endpoint: str, currency: str) -> Decimal:
        return self._spent.get((endpoint, currency), (None, Decimal(0)))[1]

    def after_failure(self, row: Row, outcome: Outcome) -> bool:
        """Queue a request again that failed, if its fallback allows it."""
        request, failure = row.request, outcome.failure
        in_time = request.end_by is None or request.end_by > self._clock.now()
        if request.fallback is None or failure is None or request.cancel_requested or not in_time:
            return False
        if failure.code not in request.fallback.errors:
            return False
        return self._falls(row, failure.code, failure.message)

    def _falls(self, row: Row, reason: str, message: str) -> bool:
        request, fallback = row.request, row.request.fallback
        if fallback is None or request.fell_back_to:
            return False
        if not self._pays(request.endpoint, fallback):
            return False
        row.request = replace(
            request,
            state=State.QUEUED,
            pool=fallback.pool,
            price=fallback.price,
            fell_back_to=fallback.endpoint,
            fell_back_for=reason,
            failures=0,
            replica_id=None,
            progress=None,
            preview_step=0,
            snapshot=None,
        )
        row.unconfirmed = 0
        self._not_shared(request.id)
        row.expected_s = fallback.expected_s
        self._line(row, f"{message} It falls back to {fallback.endpoint} ({reason}).".strip())
        self._changed()
        return True

    def _pays(self, endpoint: str, fallback: Fallback) -> bool:
        budget = fallback.budget
        if budget is None:
            return True
        day = self._clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        begun = day if budget.period == "day" else day.replace(day=1)
        period, spent = self._spent.get((endpoint, budget.currency), (begun, Decimal(0)))
        spent = (spent if period >= begun else Decimal(0)) + fallback.cost
        if spent > budget.amount:
            return False
        self._spent[endpoint, budget.currency] = max(period, begun), spent
        return True


def _is_queued(row: Row) -> bool:
    request = row.request
    waits = request.state is State.QUEUED and not request.follows
    return waits and request.priority is not Priority.REALTIME


def _fell(row: Row) -> bool:
    return bool(row.request.fell_back_to)


def _group(row: Row) -> QueuedGroup:
    request = row.request
    return QueuedGroup(request.pool, request.tenant, request.runs_at)

"""Requests of the fake queue of which copies go to other endpoints."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from serve_app.domain.executors.fallback import FallbackBudget
from serve_app.domain.executors.shadow import (
    SHADOW_TENANT,
    ShadowCandidate,
    ShadowPair,
    ShadowSide,
    ShadowState,
    ShadowSums,
    UnwantedCopy,
)
from serve_app.domain.ports import Clock
from serve_app.domain.request import NewRequest, Request, State
from serve_app.queue.shadows.book import NOT_COVERED
from tests.fakes.jobs import FakeJobs
from tests.fakes.ledger import FakeLedger
from tests.fakes.queue_row import Row

OPEN = ShadowState.WAITING, ShadowState.SENDING


@dataclass
class _Shadow:
    endpoint: str
    target: str
    state: ShadowState = ShadowState.WAITING
    copy: str | None = None
    reason: str = ""


class CopyJobs(FakeJobs):
    """Jobs that delete copies, put when they are looked for."""

    def __init__(self, clock: Clock, put_due: Callable[[], None]) -> None:
        super().__init__(clock)
        self._put_due = put_due

    def _due(self, kinds: Collection[str]) -> list[tuple[str, str]]:
        self._put_due()
        return super()._due(kinds)


class FakeShadows:
    """Implements ``ShadowBook`` in memory."""

    def __init__(
        self,
        clock: Clock,
        rows: Mapping[str, Row],
        ledger: FakeLedger,
        copy_of: Callable[[str, str], str | None],
        is_halted: Callable[[str], bool],
    ) -> None:
        """``copy_of``: id of the copy of an original at a target, by its idempotency key.
        ``is_halted``: whether an endpoint is paused or drained."""
        self._clock = clock
        self._rows = rows
        self._ledger = ledger
        self._copy_of = copy_of
        self._is_halted = is_halted
        self.jobs = CopyJobs(clock, self._forget)
        self._shadows: dict[str, _Shadow] = {}
        self._spent: dict[tuple[str, str], Decimal] = {}

    def note_request(self, new: NewRequest) -> None:
        """Note a new request, if it is to be copied."""
        if new.shadow:
            self._shadows[new.id] = _Shadow(new.endpoint, new.shadow)

    async def candidates(self, most: int) -> Sequence[ShadowCandidate]:
        by_target: dict[str, list[ShadowCandidate]] = defaultdict(list)
        self._forget()
        for id_, shadow in sorted(self._shadows.items()):
            if shadow.state in OPEN and not self._is_halted(shadow.target):
                row, request = self._rows[id_], self._rows[id_].request
                age_s = (self._clock.now() - request.created_at).total_seconds()
                by_target[shadow.target].append(
                    ShadowCandidate(
                        *(id_, request.tenant, shadow.endpoint, shadow.target, shadow.state),
                        input=row.input,
                        age_s=age_s,
                    )
                )
        return [candidate for target in sorted(by_target) for candidate in by_target[target][:most]]

    async def running(self) -> Mapping[str, int]:
        counts: dict[str, int] = defaultdict(int)
        for row in self._rows.values():
            if row.request.tenant == SHADOW_TENANT and row.request.state is State.RUNNING:
                counts[row.request.endpoint] += 1
        return counts

    async def take(self, original: str, budget: FallbackBudget | None, cost: Decimal) -> bool:
        self._forget()
        shadow = self._shadows.get(original)
        if shadow is None or shadow.state is not ShadowState.WAITING:
            return False
        if budget is not None:
            spent = self._spent.get((shadow.endpoint, budget.currency), Decimal(0)) + cost
            if spent > budget.amount:
                shadow.state, shadow.reason = ShadowState.SKIPPED, NOT_COVERED
                return False
            self._spent[shadow.endpoint, budget.currency] = spent
        shadow.state = ShadowState.SENDING
        return True

    async def mark_sent(self, candidate: ShadowCandidate, copy: str) -> bool:
        self._forget()
        shadow = self._shadows.get(candidate.original)
        if shadow is None:
            payload = {"target": candidate.target, "copy": copy, "state": "sent"}
            self.jobs.put("copy", candidate.original, payload=payload)
            return False
        was_sent = shadow.state is ShadowState.SENT
        shadow.state, shadow.copy = ShadowState.SENT, copy
        return not was_sent

    async def skip(self, original: str, reason: str) -> None:
        shadow = self._shadows.get(original)
        if shadow is not None and shadow.state in OPEN:
            shadow.state, shadow.reason = ShadowState.SKIPPED, reason

    async def find_copy(self, original: str, target: str, copy: str | None) -> UnwantedCopy | None:
        row = self._rows.get(copy or self._copy_of(original, target) or "")
        if row is None:
            return None
        return UnwantedCopy(row.request.id, not row.request.state.final)

    async def page(
        self, endpoint: str | None, before: str | None, limit: int
    ) -> Sequence[ShadowPair]:
        self._forget()
        chosen = [
            (id_, shadow)
            for id_, shadow in sorted(self._shadows.items(), reverse=True)
            if endpoint in (None, shadow.endpoint) and (before is None or id_ < before)
        ]
        return [
            ShadowPair(
                *(id_, shadow.endpoint, shadow.target, shadow.state, shadow.reason),
                self._side(id_),
                self._side(shadow.copy),
            )
            for id_, shadow in chosen[:limit]
        ]

    async def sums(self) -> Sequence[ShadowSums]:
        pairs: dict[tuple[str, str], list[tuple[ShadowSide, ShadowSide]]] = defaultdict(list)
        self._forget()
        for id_, shadow in self._shadows.items():
            first, second = self._side(id_), self._side(shadow.copy)
            if first is None or second is None:
                continue
            if first.request.state.final and second.request.state.final:
                pairs[shadow.endpoint, shadow.target].append((first, second))
        sums: list[ShadowSums] = []
        for (endpoint, target), several in sorted(pairs.items()):
            a, b = ([pair[n] for pair in several] for n in (0, 1))
            sums.append(
                ShadowSums(
                    *(endpoint, target, len(several)),
                    failed=(_failed(a), _failed(b)),
                    median_s=(_median(a), _median(b)),
                    amounts=(_sum(a), _sum(b)),
                    currencies=(a[0].currency, b[0].currency),
                )
            )
        return sums

    def _forget(self) -> None:
        """Forget requests that were deleted, and put the jobs that delete their copies."""
        for original, shadow in [*self._shadows.items()]:
            row = self._rows.get(original)
            if row is not None and row.request.forgetting is None:
                continue
            del self._shadows[original]
            if shadow.state is not ShadowState.WAITING:
                payload = {"target": shadow.target, "copy": shadow.copy, "state": shadow.state}
                self.jobs.put("copy", original, payload=payload)

    def _side(self, request_id: str | None) -> ShadowSide | None:
        row = self._rows.get(request_id or "")
        if row is None:
            return None
        request, price = row.request, row.request.price
        lines = [line for line in self._ledger.lines if line.id == request.id]
        amount = None if price is None or not lines else lines[0].made.cost(price)
        currency = "" if price is None or not lines else price.currency
        return ShadowSide(request, amount, currency)


def _seconds(request: Request) -> float | None:
    done = request.outcome is not None and request.state is State.SUCCEEDED
    return request.outcome.usage.run_s if done and request.outcome else None


def _median(sides: Sequence[ShadowSide]) -> float | None:
    durations = [seconds for side in sides if (seconds := _seconds(side.request)) is not None]
    return statistics.median(durations) if durations else None


def _failed(sides: Sequence[ShadowSide]) -> int:
    return sum(side.request.state is not State.SUCCEEDED for side in sides)


def _sum(sides: Sequence[ShadowSide]) -> Decimal:
    return sum((side.amount or Decimal(0) for side in sides), Decimal(0))

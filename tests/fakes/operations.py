"""Acts by hand on the fake queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain.audit.acts import Act, Actor, NewAct
from serve_app.domain.audit.chain import SealedAct
from serve_app.domain.errors import AlreadyFinal, EndpointDraining, RequestActive, RequestNotFound
from serve_app.domain.operations import (
    LaneFigures,
    Overview,
    Pause,
    PauseKind,
    QueueEntry,
    RunningLease,
    WarmTarget,
)
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock
from serve_app.domain.request import CancelVerdict, Priority, State
from serve_app.queue.audit_log import chain_acts
from serve_app.queue.store import messages
from tests.fakes.lane_order import ranked_at
from tests.fakes.queue_row import Row

Cancel = Callable[[str, str, Actor | None], Awaitable[CancelVerdict]]
End = Callable[[Row, Outcome | None], None]
Log = Callable[[Row, str], None]


class FakeOperations:
    """``cancel``: of the queue. ``end`` ends a request that has not ended with a failure, or queues
    the running one again; ``changed`` wakes all that wait; ``log`` adds a line to the log of a
    request."""

    def __init__(
        self,
        clock: Clock,
        rows: Mapping[str, Row],
        cancel: Cancel,
        end: End,
        changed: Callable[[], None],
        log: Log,
    ) -> None:
        self._clock = clock
        self._rows = rows
        self.cancel = cancel
        self._end = end
        self._changed = changed
        self._log = log
        self._halts: dict[str, Pause] = {}
        self._warm: dict[str, WarmTarget] = {}
        self._version: list[Act] = []

    def is_paused(self, endpoint: str) -> bool:
        halt = self._halts.get(endpoint)
        return halt is not None and halt.kind is PauseKind.PAUSED

    def is_halted(self, endpoint: str) -> bool:
        return endpoint in self._halts

    def admit(self, endpoint: str) -> None:
        if endpoint in self._halts and not self.is_paused(endpoint):
            raise EndpointDraining(f"{endpoint} accepts no new requests for now.")

    async def pause(self, endpoint: str, actor: Actor) -> Pause:
        return self._halt(endpoint, PauseKind.PAUSED, actor, "endpoint.pause")

    async def drain(self, endpoint: str, actor: Actor) -> Pause:
        return self._halt(endpoint, PauseKind.DRAINING, actor, "endpoint.drain")

    async def resume(self, endpoint: str, actor: Actor) -> bool:
        if self._halts.pop(endpoint, None) is None:
            return False
        self.note(actor, "endpoint.resume", endpoint)
        self._changed()
        return True

    async def set_warm(self, target: WarmTarget, actor: Actor) -> WarmTarget:
        now = self._clock.now()
        until = None if target.until is None else target.until.isoformat()
        detail = {"replicas": target.replicas, "level": target.level, "until": until}
        self.note(actor, "warm.set", target.endpoint, detail)
        stored = replace(target, at=now, actor=actor.key_id)
        self._warm[target.endpoint] = stored
        return stored

    async def end_warm(self, endpoint: str, actor: Actor) -> bool:
        targets = [target for target in await self.warm_targets() if target.endpoint == endpoint]
        self._warm.pop(endpoint, None)
        if targets:
            self.note(actor, "warm.end", endpoint)
        return bool(targets)

    async def warm_targets(self) -> Sequence[WarmTarget]:
        now = self._clock.now()
        targets = [
            target for target in self._warm.values() if target.until is None or target.until > now
        ]
        return sorted(targets, key=lambda target: target.endpoint)

    async def requeue(self, request_id: str, actor: Actor) -> State:
        row = self._row(request_id)
        if row.request.state is State.RUNNING:
            self._end(row, None)
            self.note(actor, "request.requeue", request_id)
        return row.request.state

    async def fail(self, request_id: str, actor: Actor, reason: str) -> State:
        row = self._row(request_id)
        self._end(row, messages.failed_by_hand(reason))
        self.note(actor, "request.fail", request_id, {"reason": reason})
        return row.request.state

    async def prioritise(self, request_id: str, priority: Priority, actor: Actor) -> State:
        row, name = self._row(request_id), priority.name.lower()
        if row.request.state is State.RUNNING:
            raise RequestActive(messages.RUNS_ALREADY)
        if row.request.priority is Priority.REALTIME:
            raise RequestActive(messages.SESSION_HAS_NO_PRIORITY)
        if row.request.priority is not priority:
            row.request = replace(row.request, priority=priority)
            row.ranked_at = ranked_at(row.request.created_at, priority)
            self._log(row, messages.new_priority(name))
            self.note(actor, "request.prioritise", request_id, {"priority": name})
            self._changed()
        return State.QUEUED

    async def overview(self) -> Overview:
        requests = [row.request for row in self._rows.values() if not row.request.state.final]
        queued = Counter((r.pool, r.tenant) for r in requests if r.state is State.QUEUED)
        running = Counter((r.pool, r.tenant) for r in requests if r.state is State.RUNNING)
        now = self._clock.now()
        oldest = {
            lane: max(
                (now - r.created_at).total_seconds()
                for r in requests
                if r.state is State.QUEUED and (r.pool, r.tenant) == lane
            )
            for lane in queued
        }
        lanes = [
            LaneFigures(*lane, queued[lane], running[lane], oldest.get(lane))
            for lane in sorted({*queued, *running}, key=lambda pair: (-queued[pair], pair))
        ]
        running_rows = [row for row in self._rows.values() if row.request.state is State.RUNNING]
        leases = [_lease(row, self._clock) for row in running_rows]
        return Overview(lanes, leases, [*self._halts.values()], None)

    async def waiting(
        self,
        *,
        tenant: str | None = None,
        endpoints: Sequence[str] = (),
        after: int = 0,
        limit: int = 50,
    ) -> Sequence[QueueEntry]:
        places = [(row.place + 1, row.request) for row in self._rows.values()]
        entries = [
            QueueEntry(
                *(
                    request.id,
                    request.tenant,
                    request.endpoint,
                    request.pool,
                    request.priority,
                    request.attempt,
                ),
                *(request.created_at, place),
            )
            for place, request in sorted(places, key=lambda pair: pair[0])
            if request.state is State.QUEUED
            and place > after
            and tenant in (None, request.tenant)
            and (not endpoints or request.endpoint in endpoints)
        ]
        return entries[:limit]

    async def record(self, acts: Sequence[NewAct]) -> None:
        for act in acts:
            self.note(act.actor, act.action, act.subject, act.detail)

    async def audit(
        self, before: int | None = None, limit: int = 50, tenant: str | None = None
    ) -> Sequence[Act]:
        acts = [act for act in reversed(self._version) if before is None or act.id < before]
        if tenant is not None:
            acts = [act for act in acts if self._tenant_of(act) == tenant]
        return acts[:limit]

    async def audit_chain(self, after: int = 0, limit: int = 500) -> Sequence[SealedAct]:
        sealed = [
            SealedAct(
                0,
                *(act.id, act.at, act.actor, act.address, act.action, act.subject),
                *(act.detail, self._tenant_of(act), ""),
            )
            for act in self._version
        ]
        return chain_acts(None, sealed)[after : after + limit]

    async def seal_audit(self) -> SealedAct | None:
        return next(reversed(await self.audit_chain(limit=len(self._version))), None)

    def _tenant_of(self, act: Act) -> str:
        """Tenant that an act is about."""
        if act.action.startswith("tenant.") or act.action in ("safety.input", "budget.warning"):
            return act.subject
        row = self._rows.get(act.subject)
        return str(act.detail.get("tenant", "" if row is None else row.request.tenant))

    def _halt(self, endpoint: str, kind: PauseKind, actor: Actor, action: str) -> Pause:
        halt = self._halts[endpoint] = Pause(endpoint, kind, self._clock.now(), actor.key_id)
        self.note(actor, action, endpoint)
        self._changed()
        return halt

    def _row(self, request_id: str) -> Row:
        row = self._rows.get(request_id)
        if row is None:
            raise RequestNotFound(f"There is no request {request_id}.")
        if row.request.state.final:
            raise AlreadyFinal(f"It has ended already: it is {row.request.state}.")
        return row

    def note(
        self, actor: Actor, action: str, subject: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        now = self._clock.now()
        act = Act(
            *(len(self._version) + 1, now, actor.key_id, action, subject, detail or {}),
            address=actor.address,
        )
        self._version.append(act)


def _lease(row: Row, clock: Clock) -> RunningLease:
    request = row.request
    return RunningLease(
        request_id=request.id,
        attempt=request.attempt,
        tenant=request.tenant,
        endpoint=request.endpoint,
        pool=request.pool,
        replica_id=request.replica_id or "",
        age_s=(clock.now() - (request.started_at or clock.now())).total_seconds(),
        expires_in_s=row.lease_until - clock.monotonic(),
    )

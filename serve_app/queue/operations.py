"""Acts by hand: PostgreSQL behind the port ``Operations``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serve_app.domain.errors import AlreadyFinal, RequestNotFound, Unavailable
from serve_app.domain.lease import Held
from serve_app.domain.operations import Act, Halt, HaltKind, Overview
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import State
from serve_app.queue import leaving, wording
from serve_app.queue.aftermath import Aftermath
from serve_app.queue.database import Database
from serve_app.queue.endings import Endings
from serve_app.queue.halts import Halts
from serve_app.queue.overview import overview
from serve_app.queue.rows import known_id

STANDING = """
SELECT CASE state WHEN 'following' THEN 'queued' ELSE state END, attempt
FROM requests WHERE id = %(id)s::uuid
"""
AUDIT = """
SELECT id, at, actor, action, subject, coalesce(detail, '{}'::json) FROM audit
WHERE id < coalesce(%(before)s::bigint, 9223372036854775807) ORDER BY id DESC LIMIT %(limit)s
"""
RACES = 10
"""So often an act looks again at a request that changes under it."""


class PostgresOperations:
    def __init__(
        self, database: Database, halts: Halts, endings: Endings, aftermath: Aftermath
    ) -> None:
        self._database = database
        self._halts = halts
        self._endings = endings
        self._aftermath = aftermath

    async def pause(self, endpoint: str, actor: str) -> Halt:
        halt, _ = await self._halts.set(endpoint, HaltKind.PAUSED, actor)
        return halt

    async def drain(self, endpoint: str, actor: str) -> Halt:
        halt, pools = await self._halts.set(endpoint, HaltKind.DRAINING, actor)
        self._aftermath.free(pools)
        return halt

    async def resume(self, endpoint: str, actor: str) -> bool:
        pools = await self._halts.end(endpoint, actor)
        self._aftermath.free(pools or ())
        return pools is not None

    async def requeue(self, request_id: str, actor: str) -> State:
        id_ = known_id(request_id)
        noted = _noted(actor, "request.requeue", {})
        for _ in range(RACES):
            state, held = await self._standing(id_)
            if state is State.QUEUED:
                return state
            after = await self._end(held, None, noted)
            if after is not None:
                return after
        raise _restless(id_)

    async def fail(self, request_id: str, actor: str, reason: str) -> State:
        id_, failure = known_id(request_id), wording.failed_by_hand(reason)
        noted = _noted(actor, "request.fail", {"reason": wording.clean(reason)})
        for _ in range(RACES):
            state, held = await self._standing(id_)
            if state is State.RUNNING:
                after = await self._end(held, failure, noted)
                if after is not None:
                    return after
                continue
            left = await leaving.fail(self._database, id_, failure, noted)
            if left is not None:
                self._aftermath.left([left], failure)
                return left.state
        raise _restless(id_)

    async def overview(self) -> Overview:
        return await overview(self._database, [*await self._halts.refresh()])

    async def audit(self, before: int | None = None, limit: int = 50) -> Sequence[Act]:
        rows = await self._database.rows(AUDIT, {"before": before, "limit": limit})
        return [Act(*row) for row in rows]

    async def _standing(self, id_: str) -> tuple[State, Held]:
        """Of a request that has not ended."""
        rows = await self._database.rows(STANDING, {"id": id_})
        if not rows:
            raise RequestNotFound(f"There is no request {id_}.")
        state = State(rows[0][0])
        if state.final:
            raise AlreadyFinal(f"The request {id_} has ended already: it is {state}.")
        return state, Held(id_, rows[0][1])

    async def _end(
        self, held: Held, failure: Outcome | None, noted: Mapping[str, str]
    ) -> State | None:
        """None: the attempt has ended meanwhile."""
        ended = await self._endings.end_by_hand(held, wording.REQUEUED, failure, noted)
        outcomes = {} if failure is None else {held: failure}
        self._aftermath.ended(ended, outcomes, fenced=True)
        return ended[0].state if ended else None


def _noted(actor: str, action: str, detail: Mapping[str, str]) -> Mapping[str, str]:
    return {"actor": actor, "action": action, "detail": wording.compact(detail)}


def _restless(id_: str) -> Unavailable:
    return Unavailable(f"The request {id_} changed its state each time: try again.")

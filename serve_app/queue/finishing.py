"""Handing in: an outcome, or the lease itself. Both may be repeated, and a late one is refused."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.lease import Finish, Held, Verdict
from serve_app.domain.outcome import Outcome
from serve_app.domain.snapshot import StoredSnapshot
from serve_app.queue import snapshots, wording
from serve_app.queue.aftermath import Aftermath
from serve_app.queue.batcher import Batcher
from serve_app.queue.database import Database
from serve_app.queue.endings import BY_FINISH, Ending, Endings, How
from serve_app.queue.rows import known_id


class Finishing:
    def __init__(self, database: Database, endings: Endings, aftermath: Aftermath) -> None:
        self._database = database
        self._endings = endings
        self._aftermath = aftermath
        self._batcher: Batcher[Ending, Verdict] = Batcher(self._run)

    async def finish(self, finish: Finish) -> Verdict:
        held = Held(known_id(finish.held.request_id), finish.held.attempt)
        outcome = wording.storable(finish.outcome)
        return await self._batcher.put(Ending(held, _how(outcome), _message(outcome), outcome))

    async def hand_back(
        self, held: Held, replica_id: str, reason: str, snapshot: StoredSnapshot | None = None
    ) -> Verdict:
        held = Held(known_id(held.request_id), held.attempt)
        if snapshot is not None:
            await snapshots.keep(self._database, {held: snapshot})
        message = f"Replica {replica_id} handed it back: {reason}"
        return await self._batcher.put(Ending(held, How.HAND_BACK, message))

    async def aclose(self) -> None:
        await self._batcher.aclose()

    async def _run(self, endings: Sequence[Ending]) -> Sequence[Verdict]:
        # Of several acts on one attempt in a batch the first counts, as if it had come alone.
        first: dict[Held, Ending] = {}
        for each in endings:
            first.setdefault(each.held, each)
        ended = await self._endings.end([*first.values()])
        outcomes: dict[Held, Outcome] = {
            each.held: each.outcome for each in first.values() if each.how is not How.HAND_BACK
        }
        self._aftermath.ended(ended, outcomes)
        done = {each.held for each in ended}
        accepted = {id(each) for held, each in first.items() if held in done}
        late = [each for each in endings if id(each) not in accepted]
        if late:
            accepted |= await self._repeated(late)
        return [Verdict.ACCEPTED if id(each) in accepted else Verdict.FENCED for each in endings]

    async def _repeated(self, late: Sequence[Ending]) -> set[int]:
        """Those that were accepted before."""
        held = [each.held for each in late]
        finished = await self._endings.ended_by(held, BY_FINISH)
        handed_back = await self._endings.ended_by(held, (How.HAND_BACK,))
        return {
            id(each)
            for each in late
            if each.held in (handed_back if each.how is How.HAND_BACK else finished)
        }


def _how(outcome: Outcome) -> How:
    failure = outcome.failure
    if failure is None:
        return How.SUCCEEDED
    if wording.is_cancel(failure):
        return How.CANCELLED
    if wording.is_expiry(failure):
        return How.EXPIRED
    return How.RETRY if failure.retryable else How.FAILED


def _message(outcome: Outcome) -> str:
    return wording.SUCCEEDED if outcome.failure is None else outcome.failure.message

"""Finish and hand-back of attempts. Both may be repeated; late ones are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from psycopg import DataError

from serve_app.domain.batcher import Batcher
from serve_app.domain.errors import PipelineFailed
from serve_app.domain.lease import Finish, LeaseKey, Verdict
from serve_app.domain.media.draft import with_expiry
from serve_app.domain.outcome import Outcome
from serve_app.domain.ports import Clock
from serve_app.domain.progress import StoredSnapshot
from serve_app.domain.workflows.runs import RUNNER
from serve_app.postgres.database import Database
from serve_app.queue.after_commit import AfterCommit
from serve_app.queue.state.stats import QueueStats
from serve_app.queue.store import messages
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.rows import known_id
from serve_app.queue.transactions import snapshots
from serve_app.queue.transactions.end_attempt import (
    BY_FINISH,
    AttemptEnd,
    EndAttempts,
    EndReason,
    says_it_died,
)
from serve_app.telemetry.queue_metrics import QueueMeter

# The files of a step are those of the workflow, whose end is not known yet.
KEPT_S = """
-- name: draft_lifetime
SELECT l.keep_s FROM lifecycles l
WHERE l.request_id = %(id)s::uuid
  AND NOT EXISTS (SELECT FROM workflow_steps s WHERE s.request_id = l.request_id)
"""


class Finisher:
    """End attempts at the request of their replicas, in batches."""

    def __init__(
        self,
        database: Database,
        limits: QueueLimits,
        stats: QueueStats,
        after: AfterCommit,
        metrics: QueueMeter,
        clock: Clock,
    ) -> None:
        self._database = database
        self._limits = limits
        self._stats = stats
        self._clock = clock
        self._attempts = EndAttempts(database, limits)
        self._after = after
        self._metrics = metrics
        self._batcher: Batcher[AttemptEnd, Verdict] = Batcher(self._run)

    async def finish(self, finish: Finish) -> Verdict:
        """End the attempt with its outcome. FENCED if another cause ended it first.

        ``PipelineFailed``: PostgreSQL cannot store the outcome. Its replica should fail the attempt
        with that, since no repetition helps.
        """
        lease = replace(finish.lease_key, request_id=known_id(finish.lease_key.request_id))
        outcome = messages.storable(finish.outcome)
        if outcome.drafts:
            keep_s = await self._keep_drafts_s(lease.request_id)
            outcome = with_expiry(outcome, self._clock.now() + timedelta(seconds=keep_s))
        # Files, times and costs of a workflow are those of its steps, which are counted there.
        own = finish.replica_id != RUNNER
        how = _how(outcome)
        if how is EndReason.FAILED and self._may_be_the_code(finish):
            how = EndReason.RETRY
        end = AttemptEnd(lease, how, _message(outcome), outcome, counts=own)
        try:
            return await self._batcher.call(end)
        except DataError as error:  # NaN, or a number that is too large for its column
            raise PipelineFailed(messages.unstorable(error)) from error

    def _may_be_the_code(self, finish: Finish) -> bool:
        """True for an exception in a canary: other replicas run other code."""
        failure = finish.outcome.failure
        raised = failure is not None and failure.code == PipelineFailed.code
        return raised and self._stats.is_in_canary(finish.replica_id)

    async def hand_back(
        self,
        lease_key: LeaseKey,
        replica_id: str,
        reason: str,
        snapshot: StoredSnapshot | None = None,
    ) -> Verdict:
        """Queue the request again without counting a failure, keeping ``snapshot`` as its resume
        point.
        """
        lease_key = replace(lease_key, request_id=known_id(lease_key.request_id))
        if snapshot is not None:
            await snapshots.store(self._database, {lease_key: snapshot})
        message = f"Replica {replica_id} handed the request back: {reason}"
        return await self._batcher.call(AttemptEnd(lease_key, EndReason.HAND_BACK, message))

    async def aclose(self) -> None:
        await self._batcher.aclose()

    async def _keep_drafts_s(self, request_id: str) -> float:
        """How long a request's drafts are kept: no longer than its client said of its files."""
        limits = await self._database.rows(KEPT_S, {"id": request_id})
        return min([self._limits.keep_drafts_s, *(keep_s for (keep_s,) in limits)])

    async def _run(self, ends: Sequence[AttemptEnd]) -> Sequence[Verdict]:
        self._metrics.batch("finish", len(ends))
        # If a batch has several acts on one attempt, the first counts, as if it had come alone.
        first: dict[LeaseKey, AttemptEnd] = {}
        for end in ends:
            first.setdefault(end.lease_key, end)
        ended = await self._attempts.end([*first.values()])
        outcomes: dict[LeaseKey, Outcome] = {
            act.lease_key: act.outcome
            for act in first.values()
            if act.how is not EndReason.HAND_BACK
        }
        self._after.publish_end(ended, outcomes)
        done = {attempt.lease_key for attempt in ended}
        accepted = {id(act) for lease, act in first.items() if lease in done}
        late = [act for act in ends if id(act) not in accepted]
        if late:
            accepted |= await self._find_repeats(late)
            for end in late:
                if id(end) not in accepted:
                    handed_back = end.how is EndReason.HAND_BACK
                    self._metrics.count_fenced("hand_back" if handed_back else "finish")
        return [Verdict.ACCEPTED if id(act) in accepted else Verdict.FENCED for act in ends]

    async def _find_repeats(self, late: Sequence[AttemptEnd]) -> set[int]:
        """Late acts that repeat an accepted one, by ``id``."""
        keys = [act.lease_key for act in late]
        finished = await self._attempts.ended_by(keys, BY_FINISH)
        handed_back = await self._attempts.ended_by(keys, (EndReason.HAND_BACK,))
        return {
            id(act)
            for act in late
            if act.lease_key in (handed_back if act.how is EndReason.HAND_BACK else finished)
        }


def _how(outcome: Outcome) -> EndReason:
    failure = outcome.failure
    if failure is None:
        return EndReason.SUCCEEDED
    if messages.is_cancel(failure):
        return EndReason.CANCELLED
    if messages.is_expiry(failure):
        return EndReason.EXPIRED
    if not failure.retryable:
        return EndReason.FAILED
    return EndReason.DIED if says_it_died(outcome) else EndReason.RETRY


def _message(outcome: Outcome) -> str:
    return messages.SUCCEEDED if outcome.failure is None else outcome.failure.message

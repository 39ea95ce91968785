"""Forgetting what requests with ``X-Fal-Store-IO: 0`` were given and answered.

A durable queue has to store both at first: the input until the request has ended, the outcome until
its client has had the time to fetch it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain.outcome import Outcome
from serve_app.domain.request import Forgetting
from serve_app.queue import outcomes, wording
from serve_app.queue.database import Database

OUTCOME_KEPT_S = 3600.0
"""After the end. As long as fal keeps the results of requests whose payloads it does not store."""

STILL_NEEDED = ("sync_mode",)
"""Fields of the input by which the outcome is handed out; they hold nothing of the content."""

AT_ONCE = 200

# What is left of each is made here, not there: PostgreSQL cannot look into JSON that has a NUL.
_DUE = """
SELECT id::text, {column} FROM requests
WHERE forgetting = '{now}' AND finished_at IS NOT NULL
  AND finished_at <= now() - make_interval(secs => %(after_s)s) {also}
ORDER BY finished_at LIMIT %(most)s
"""
# From its input follows what a failed attempt may have left in storage.
INPUTS = _DUE.format(
    column="coalesce(shown, input)",
    now=Forgetting.INPUT,
    also="""AND (
    SELECT 1 FROM attempts a WHERE a.request_id = requests.id
      AND a.ended NOT IN ('succeeded', 'undo') AND NOT a.collected LIMIT 1) IS NULL""",
)
OUTCOMES = _DUE.format(column="outcome", now=Forgetting.OUTCOME, also="")
_LEFT = """
WITH rest AS (SELECT * FROM json_to_recordset(%(rest)s::json) AS x(id uuid, left_over text))
"""
FORGET_INPUTS = f"""{_LEFT}
UPDATE requests r SET input = x.left_over::json, shown = NULL, forgetting = 'outcome'
FROM rest x WHERE r.id = x.id AND r.forgetting = 'input'
RETURNING r.id::text
"""
# Errors, in the log and with the attempts, may quote the input.
FORGET_OUTCOMES = f"""{_LEFT},
forgot AS (
    UPDATE requests r SET outcome = x.left_over::json, forgetting = 'done'
    FROM rest x WHERE r.id = x.id AND r.forgetting = 'outcome'
    RETURNING r.id
),
untold AS (DELETE FROM events e USING forgot f WHERE e.request_id = f.id),
unsaid AS (UPDATE attempts a SET message = '' FROM forgot f WHERE a.request_id = f.id),
unsent AS (
    UPDATE webhook_deliveries w SET
        body = NULL,
        claims = w.claims + 1,
        error = CASE w.state WHEN 'pending' THEN 'Forgotten before it was delivered. ' || w.error
                ELSE w.error END,
        ended_at = coalesce(w.ended_at, now()),
        state = CASE w.state WHEN 'pending' THEN 'dead' ELSE w.state END
    FROM forgot f WHERE w.request_id = f.id
)
SELECT id::text FROM forgot
"""


def input_left(input: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stays of an input when its request has ended."""
    return {name: input[name] for name in STILL_NEEDED if isinstance(input.get(name), bool)}


def outcome_left(outcome: Outcome) -> Outcome:
    """What stays of an outcome: how it went, and what it took."""
    failure = outcome.failure
    told = failure and replace(failure, message=wording.FORGOTTEN, field=None)
    return Outcome(failure=told, usage=outcome.usage)


class Forgetfulness:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def forget(self) -> Sequence[str]:
        """Whatever is due; returns the ids of those requests."""
        inputs = await self._each(INPUTS, FORGET_INPUTS, input_left, 0.0)
        return [*inputs, *await self._each(OUTCOMES, FORGET_OUTCOMES, _stored_left, OUTCOME_KEPT_S)]

    async def _each(
        self, due: str, forget: str, left: Callable[[Mapping[str, Any]], object], after_s: float
    ) -> Sequence[str]:
        forgot: list[str] = []
        while rows := await self._database.rows(due, {"after_s": after_s, "most": AT_ONCE}):
            rest = [{"id": id_, "left_over": wording.compact(left(had))} for id_, had in rows]
            done = await self._database.rows(forget, {"rest": wording.compact(rest)})
            forgot += [id_ for (id_,) in done]
            if not done:
                break  # another process was faster
        return forgot


def _stored_left(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    return outcomes.to_json(outcome_left(outcomes.from_json(stored)))

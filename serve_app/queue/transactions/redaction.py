"""Redaction of requests with ``X-Fal-Store-IO: 0``.

A durable queue must first store both: the input until the request has ended, and the outcome until
its client has had time to fetch it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain.outcome import Outcome
from serve_app.domain.request import Redacted
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.rows import outcome_from_json, outcome_to_json

OUTCOME_TTL_S = 3600.0
"""Lifetime of an outcome after the end of its request. fal keeps results as long for requests whose
payloads it does not store.
"""

KEPT_INPUT_FIELDS = ("sync_mode",)
"""Input fields that are needed to return the outcome. They hold none of the content."""

AT_ONCE = 200

# The remainder of each is computed here, not in SQL: PostgreSQL cannot look into JSON that has a
# NUL.
_DUE = """
SELECT id::text, {column} FROM requests
WHERE forgetting = '{now}' AND finished_at IS NOT NULL
  AND finished_at <= now() - make_interval(secs => %(after_s)s) {also}
ORDER BY finished_at LIMIT %(most)s
"""
# The input tells which files a failed attempt may have left in storage, so it is kept until they
# are collected.
INPUTS = _DUE.format(
    column="coalesce(shown, input)",
    now=Redacted.INPUT,
    also="""AND (
    SELECT 1 FROM attempts a WHERE a.request_id = requests.id
      AND a.ended <> 'undo' AND NOT a.collected LIMIT 1) IS NULL""",
)
OUTCOMES = _DUE.format(column="outcome", now=Redacted.OUTCOME, also="")
_LEFT = """
WITH rest AS (SELECT * FROM json_to_recordset(%(rest)s::json) AS x(id uuid, left_over text))
"""
FORGET_INPUTS = f"""{_LEFT}
UPDATE requests r SET input = x.left_over::json, shown = NULL, forgetting = 'outcome'
FROM rest x WHERE r.id = x.id AND r.forgetting = 'input'
RETURNING r.id::text
"""
# Errors, in the log, in the attempts and of refused steps, may quote the input.
FORGET_OUTCOMES = f"""{_LEFT},
forgot AS (
    UPDATE requests r SET outcome = x.left_over::json, forgetting = 'done'
    FROM rest x WHERE r.id = x.id AND r.forgetting = 'outcome'
    RETURNING r.id
),
untold AS (DELETE FROM events e USING forgot f WHERE e.request_id = f.id),
unsaid AS (
    UPDATE attempts a SET message = '', start_line = NULL FROM forgot f WHERE a.request_id = f.id
),
unrefused AS (
    UPDATE workflow_steps s SET refused = '' FROM forgot f
    WHERE s.run_id = f.id AND s.refused IS NOT NULL
),
unsent AS (
    UPDATE webhook_deliveries w SET
        body = NULL,
        claims = w.claims + 1,
        error = CASE w.state WHEN 'pending' THEN rtrim('{messages.UNDELIVERED} ' || w.error)
                ELSE w.error END,
        ended_at = coalesce(w.ended_at, now()),
        state = CASE w.state WHEN 'pending' THEN 'dead' ELSE w.state END
    FROM forgot f WHERE w.request_id = f.id
)
SELECT id::text FROM forgot
"""


def redacted_input(input: Mapping[str, Any]) -> Mapping[str, Any]:
    """Part of an input that is kept when its request has ended."""
    return {name: input[name] for name in KEPT_INPUT_FIELDS if isinstance(input.get(name), bool)}


def redacted_outcome(outcome: Outcome) -> Outcome:
    """Part of an outcome that is kept: success or failure, and usage."""
    failure = outcome.failure
    redacted = failure and replace(failure, message=messages.FORGOTTEN, field=None)
    return Outcome(failure=redacted, usage=outcome.usage)


class Redaction:
    """Redact the inputs and outcomes that are due."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def redact_due(self) -> Sequence[str]:
        """Redact everything that is due and return the ids of those requests."""
        inputs = await self._each(INPUTS, FORGET_INPUTS, redacted_input, 0.0)
        return [*inputs, *await self._each(OUTCOMES, FORGET_OUTCOMES, _stored_left, OUTCOME_TTL_S)]

    async def _each(
        self, due: str, forget: str, left: Callable[[Mapping[str, Any]], object], after_s: float
    ) -> Sequence[str]:
        forgot: list[str] = []
        while rows := await self._database.rows(due, {"after_s": after_s, "most": AT_ONCE}):
            rest = [{"id": id_, "left_over": messages.compact(left(had))} for id_, had in rows]
            done = await self._database.rows(forget, {"rest": messages.compact(rest)})
            forgot += [id_ for (id_,) in done]
            if not done:
                break  # another process was faster
        return forgot


def _stored_left(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    return outcome_to_json(redacted_outcome(outcome_from_json(stored)))

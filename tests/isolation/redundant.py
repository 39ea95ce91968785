"""Conditions on the tenant that no test can miss, each with the reason.

They stay for an index, or for the day on which the other condition goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Redundant:
    line: str  # of the statement, with the condition
    within: str  # another text of the statement: others have the same line, and need it
    reason: str

    def is_in(self, statement: str) -> bool:
        return self.within in statement and self.line in map(str.strip, statement.splitlines())


_WALKED = "The rows that are walked are the tenant's, and so are their requests."
_COUNTED = "Of another's endpoint, nothing is counted. The index begins with the tenant."
_MATCH = "SELECT FROM requests r WHERE r.id = x.id AND r.tenant = %(tenant)s"

REDUNDANT = (
    Redundant(_MATCH, "FROM request_words w\n    WHERE w.tenant >= %(tenant)s", _WALKED),
    Redundant(_MATCH, "FROM favourites w\n    WHERE w.tenant >= %(tenant)s", _WALKED),
    Redundant(
        "WHERE w.tenant = %(tenant)s AND w.request_id = x.id)",
        "FROM favourites w\n    WHERE w.tenant >= %(tenant)s",
        "A request has words of its own tenant only. The index begins with the tenant.",
    ),
    Redundant(
        "WHERE r.tenant = %(tenant)s AND r.finished_at IS NOT NULL ORDER BY r.endpoint LIMIT 1)",
        "WITH RECURSIVE names",
        _COUNTED,
    ),
    Redundant(
        "SELECT (SELECT r.endpoint FROM requests r WHERE r.tenant = %(tenant)s "
        "AND r.finished_at IS NOT NULL",
        "WITH RECURSIVE names",
        _COUNTED,
    ),
    Redundant(
        "DELETE FROM share_links WHERE tenant = %(tenant)s AND expires_at <= now()",
        "",
        "An expired link is shown to no one, whoever deletes it. The index begins with the tenant.",
    ),
    Redundant(
        "WHERE request_id = %(id)s::uuid AND tenant = %(tenant)s",
        "UPDATE webhook_deliveries SET state = 'pending'",
        "The delivery was found by its tenant just before, and a request never changes its tenant.",
    ),
    Redundant(
        "WHERE w.request_id = %(id)s::uuid AND w.tenant = %(tenant)s",
        "-- name: status_of_workflow",
        "Its nodes were found by their tenant just before: without them, there is no status.",
    ),
)


def reason_of(statement: str, changed: str) -> str:
    """Reason why no test misses the condition that ``changed`` is without; "" if there is none."""
    before, after = statement.splitlines(), changed.splitlines()
    lines = {line.strip() for line, other in zip(before, after, strict=True) if line != other}
    matches = (entry for entry in REDUNDANT if entry.line in lines and entry.is_in(statement))
    return next((match.reason for match in matches), "")


def stale(statements: Iterable[str]) -> Sequence[Redundant]:
    """Entries whose condition is in none of these statements."""
    texts = [*statements]
    return [entry for entry in REDUNDANT if not any(map(entry.is_in, texts))]

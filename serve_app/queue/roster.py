"""The replicas that said something lately, for the status page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.queue.database import Database

SEEN_WITHIN_S = 15  # an ask returns after five seconds at the latest, and is sent again
SELECT = """
SELECT replica_id, pool, stage, detail, loading, slots,
       extract(epoch FROM now() - seen_at)::double precision
FROM replicas
WHERE seen_at > now() - make_interval(secs => %(within_s)s)
ORDER BY pool, replica_id
"""


async def roster(database: Database) -> Sequence[Mapping[str, Any]]:
    """One JSON object a replica; ``seen_s`` is how long ago it was heard of."""
    rows = await database.rows(SELECT, {"within_s": SEEN_WITHIN_S})
    names = ("replica_id", "pool", "stage", "detail", "loading", "slots", "seen_s")
    return [dict(zip(names, row, strict=True)) for row in rows]

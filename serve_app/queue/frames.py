"""What the frames of realtime sessions take: a usage line each, under an id of their own."""

from __future__ import annotations

from serve_app.domain.lease import Held
from serve_app.domain.outcome import Usage
from serve_app.domain.request import State
from serve_app.queue.charges import Charges
from serve_app.queue.database import Database

COUNT = """
INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units)
SELECT %(frame)s::uuid, tenant, endpoint, %(state)s, %(attempt)s, %(run_s)s, %(steps)s, %(units)s
FROM requests WHERE id = %(session)s::uuid
ON CONFLICT (request_id) DO NOTHING
RETURNING tenant, (SELECT pool FROM requests WHERE id = %(session)s::uuid)
"""


async def count(
    database: Database,
    charges: Charges,
    session: Held,
    request_id: str,
    state: State,
    usage: Usage,
) -> None:
    """Once, however often it is called. The tenant's lane pays for it too."""
    rows = await database.rows(
        COUNT,
        {
            "frame": request_id,
            "session": session.request_id,
            "attempt": session.attempt,
            "state": state,
            "run_s": usage.run_s,
            "steps": usage.steps,
            "units": usage.units,
        },
    )
    for tenant, pool in rows:
        charges.add(pool, tenant, usage.run_s)

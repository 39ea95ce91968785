"""Previews of running requests: handing out the newest, and noting that somebody looks."""

from __future__ import annotations

from serve_app.domain.errors import NotFound
from serve_app.domain.progress import Preview
from serve_app.domain.request import State
from serve_app.queue import wording
from serve_app.queue.database import Database
from serve_app.queue.watch import Watch

WATCHED_S = 5.0
"""So long after somebody has looked, replicas are told to make the next. They are asked twice a
second, so one look is enough for one more preview, however long its step takes."""

# Written again only when some of the time has passed: many may look at the same request.
LOOK = """
WITH noted AS (
    UPDATE progress SET watched_until = now() + make_interval(secs => %(watched_s)s)
    WHERE request_id = %(id)s::uuid AND (watched_until IS NULL
        OR watched_until < now() + make_interval(secs => 0.8 * %(watched_s)s))
)
SELECT preview_step, preview FROM progress
WHERE request_id = %(id)s::uuid AND attempt = %(attempt)s AND preview IS NOT NULL
"""


class Previews:
    def __init__(self, database: Database, watch: Watch) -> None:
        self._database = database
        self._watch = watch

    async def newest(self, tenant: str, request_id: str) -> Preview | None:
        """As ``Queue.preview``."""
        request = await self._watch.get(tenant, request_id)
        if not request.previews:
            raise NotFound(wording.NO_PREVIEWS)
        if request.state is not State.RUNNING:
            raise NotFound(wording.PREVIEWS_WHILE_RUNNING)
        rows = await self._database.rows(
            LOOK, {"id": request.id, "attempt": request.attempt, "watched_s": WATCHED_S}
        )
        return next((Preview(step, bytes(picture)) for step, picture in rows), None)

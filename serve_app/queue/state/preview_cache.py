"""Previews of running requests."""

from __future__ import annotations

from serve_app.domain.errors import NotFound
from serve_app.domain.progress import Preview
from serve_app.domain.request import State
from serve_app.postgres.database import Database
from serve_app.queue.state.request_cache import RequestCache
from serve_app.queue.store import messages

WATCH_TTL_S = 5.0
"""How long after a client's read replicas are asked for the next preview. They are asked several
times within it, so one read is enough for one more preview, however long its step takes.
"""

# Written again only when part of the time has passed: many clients may watch the same request.
LOOK = """
-- name: look_at_requests
WITH noted AS (
    UPDATE progress SET watched_until = now() + make_interval(secs => %(watched_s)s)
    WHERE request_id = %(id)s::uuid AND (watched_until IS NULL
        OR watched_until < now() + make_interval(secs => 0.8 * %(watched_s)s))
)
SELECT preview_step, preview FROM progress
WHERE request_id = %(id)s::uuid AND attempt = %(attempt)s AND preview IS NOT NULL
"""


class PreviewCache:
    """Newest previews of running requests, and who watches them."""

    def __init__(self, database: Database, requests: RequestCache) -> None:
        self._database = database
        self._requests = requests

    async def preview(self, tenant: str, request_id: str) -> Preview | None:
        request = await self._requests.get(tenant, request_id)
        if not request.previews:
            raise NotFound(messages.NO_PREVIEWS)
        if request.state is not State.RUNNING:
            return None  # its preview may be asked for just as it ends
        rows = await self._database.rows(
            LOOK, {"id": request.id, "attempt": request.attempt, "watched_s": WATCH_TTL_S}
        )
        return next((Preview(step, bytes(image)) for step, image in rows), None)

"""Share links: who has one reads one request, without a key, until it expires or is revoked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Overloaded, RequestNotFound
from serve_app.domain.request import NewShareLink, OpenedShare, RequestShare
from serve_app.postgres.audit import audit_params, insert_audit
from serve_app.postgres.database import Database
from serve_app.queue.store import messages
from serve_app.queue.store.rows import COLUMNS, SOURCE, known_id, request_from_row

MAX_LINKS = 1000
"""Links of a tenant that have not expired."""

_COLUMNS = "id, request_id::text, created_at, expires_at, created_by"
_DETAIL = "json_build_object('tenant', %(tenant)s::text, 'request_id', request_id)"
DELETE_EXPIRED = "DELETE FROM share_links WHERE tenant = %(tenant)s AND expires_at <= now()"
CREATE = f"""
WITH created AS (
    INSERT INTO share_links (id, digest, tenant, request_id, created_by, expires_at)
    SELECT %(link)s, %(digest)s, r.tenant, r.id, %(actor)s,
           now() + make_interval(secs => %(valid_s)s)
    FROM requests r
    WHERE r.id = %(id)s::uuid AND r.tenant = %(tenant)s
      AND (SELECT count(*) FROM share_links s WHERE s.tenant = %(tenant)s) < %(most)s
    RETURNING {_COLUMNS}
),
noted AS ({insert_audit("id", "created", _DETAIL)})
SELECT {_COLUMNS} FROM created
"""
EXISTS = """
SELECT 1 FROM requests
WHERE id = %(id)s::uuid AND tenant = %(tenant)s
"""
LIST = f"""
SELECT {_COLUMNS} FROM share_links
WHERE tenant = %(tenant)s AND expires_at > now()
ORDER BY tenant, created_at DESC, id LIMIT %(most)s
"""
REVOKE = f"""
WITH revoked AS (
    DELETE FROM share_links WHERE id = %(link)s AND tenant = %(tenant)s
    RETURNING id, request_id
),
noted AS ({insert_audit("id", "revoked", _DETAIL)})
SELECT id FROM revoked
"""
SHARED = f"""
SELECT s.expires_at, {COLUMNS} FROM {SOURCE} JOIN share_links s ON s.request_id = r.id
WHERE s.digest = %(digest)s AND s.expires_at > now()
"""


class ShareLinks:
    """Share links of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def share(
        self, tenant: str, request_id: str, new: NewShareLink, actor: Actor
    ) -> RequestShare:
        params: dict[str, Any] = {
            "tenant": tenant,
            "id": known_id(request_id),
            "link": new.id,
            "digest": new.digest,
            "valid_s": new.valid_s,
            "most": MAX_LINKS,
            **audit_params(actor, "share.create"),
        }
        await self._database.rows(DELETE_EXPIRED, {"tenant": tenant})
        if row := await self._database.row(CREATE, params):
            return RequestShare(*row)
        if not await self._database.rows(EXISTS, params):
            raise RequestNotFound(f"There is no request {request_id}.")
        raise Overloaded(messages.TOO_MANY_LINKS, 60.0, "share_links")

    async def shares(self, tenant: str) -> Sequence[RequestShare]:
        rows = await self._database.rows(LIST, {"tenant": tenant, "most": MAX_LINKS})
        return [RequestShare(*row) for row in rows]

    async def revoke_share(self, tenant: str, link: str, actor: Actor) -> bool:
        params = {"tenant": tenant, "link": link, **audit_params(actor, "share.revoke")}
        return bool(await self._database.rows(REVOKE, params))

    async def find_shared(self, digest: bytes) -> OpenedShare | None:
        row = await self._database.row(SHARED, {"digest": digest})
        if row is None:
            return None
        expires_at, *columns = row
        return OpenedShare(request_from_row(columns).request, expires_at)

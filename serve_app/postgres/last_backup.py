"""Time of an installation's last backup, which its database has for the ingress's metrics."""

from __future__ import annotations

from serve_app.postgres.database import Database

KEY = "last_backup"

KEEP = """
INSERT INTO installation (key, value) VALUES (%(key)s, %(value)s)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""
READ = """
-- name: last_backup
SELECT extract(epoch FROM value::timestamptz)::double precision
FROM installation WHERE key = %(key)s
"""


async def record_backup(database: Database, created_at: str) -> None:
    """Record a complete backup. ``created_at``: see ``Manifest``."""
    await database.rows(KEEP, {"key": KEY, "value": created_at})


async def last_backup(database: Database) -> float:
    """Unix time of the last recorded backup; 0: there is none."""
    return await database.value(READ, {"key": KEY}) or 0.0

"""Values of a whole installation by their keys, in its database."""

from __future__ import annotations

import secrets
from datetime import datetime

from serve_app.postgres.database import Database

READ = """
-- name: read_installation
SELECT value FROM installation WHERE key = %(key)s
"""
ADD = "INSERT INTO installation (key, value) VALUES (%(key)s, %(value)s) ON CONFLICT DO NOTHING"
PUT = """
INSERT INTO installation (key, value) VALUES (%(key)s, %(value)s)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
"""
LAST_BACKUP = "last_backup"


async def read_value(database: Database, key: str) -> str | None:
    return await database.value(READ, {"key": key})


async def put_value(database: Database, key: str, value: str) -> None:
    await database.rows(PUT, {"key": key, "value": value})


async def shared_secret(database: Database, name: str) -> bytes:
    """256 random bits, created by the first caller and the same for every later one: a secret of
    all ingress replicas."""
    # Two statements: one that inserts and reads would not see the row of a winner that committed
    # after its snapshot.
    await database.rows(ADD, {"key": name, "value": secrets.token_hex(32)})
    value = await database.value(READ, {"key": name})
    return bytes.fromhex(value)


async def record_backup(database: Database, created_at: str) -> None:
    """Record a complete backup. ``created_at``: see ``Manifest``."""
    await put_value(database, LAST_BACKUP, created_at)


async def last_backup(database: Database) -> float:
    """Unix time of the last recorded backup; 0: there is none."""
    created_at = await read_value(database, LAST_BACKUP)
    return datetime.fromisoformat(created_at).timestamp() if created_at else 0.0

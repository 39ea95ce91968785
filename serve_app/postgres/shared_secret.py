"""Secrets shared by all ingress replicas of an installation, stored in its database."""

from __future__ import annotations

import secrets

from serve_app.postgres.database import Database

KEEP = "INSERT INTO installation (key, value) VALUES (%(key)s, %(value)s) ON CONFLICT DO NOTHING"
READ = "SELECT value FROM installation WHERE key = %(key)s"


async def shared_secret(database: Database, name: str) -> bytes:
    """256 random bits, created by the first caller and the same for every later one."""
    # Two statements: one that inserts and reads would not see the row of a winner that committed
    # after its snapshot.
    await database.rows(KEEP, {"key": name, "value": secrets.token_hex(32)})
    value = await database.value(READ, {"key": name})
    return bytes.fromhex(value)

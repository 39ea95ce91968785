"""Live settings that were valid last, in the database."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serve_app.postgres.database import Database

NAME = "configuration file"

READ = "SELECT settings FROM live_settings WHERE name = %(name)s"
KEEP = """
INSERT INTO live_settings (name, settings) VALUES (%(name)s, %(settings)s::jsonb)
ON CONFLICT (name) DO UPDATE SET settings = excluded.settings, changed_at = now()
WHERE live_settings.settings IS DISTINCT FROM excluded.settings
"""


class PostgresLiveSettings:
    """Implements ``KeptSettings``. All ingress replicas share the row."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Mapping[str, Any] | None:
        return await self._database.value(READ, {"name": NAME})

    async def keep(self, settings: Mapping[str, Any]) -> None:
        values = {"name": NAME, "settings": json.dumps(settings)}
        await self._database.rows(KEEP, values)

"""Places of an installation's files, as the ingress had them at its last start, in the database.

A command with other settings would take all files for missing. So the commands that compare rows
with files compare these places first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from serve_app.domain.errors import Misconfigured
from serve_app.postgres.database import Database
from serve_app.postgres.installation import put_value, read_value

KEY = "file_places"

THERE = "SELECT to_regclass('installation') IS NOT NULL"

Places = Mapping[str, str]
"""Place of the files by the id of its location, in words. The installation's own has the id ""."""


async def read_places(database: Database) -> Places:
    """Recorded places. Empty before the first record, and without tables."""
    there = await database.value(THERE)
    text = await read_value(database, KEY) if there else None
    return json.loads(text or "{}")


async def record_places(database: Database, places: Places) -> Places:
    """Replace the recorded places. Returns those from before."""
    before = await read_places(database)
    if before != places:
        await put_value(database, KEY, json.dumps(dict(places)))
    return before


def difference(recorded: Places, places: Places) -> str:
    """Sentence about the first recorded place that is another one in ``places``; empty: none is."""
    for id_, place in sorted(recorded.items()):
        if places.get(id_) != place:
            whose = f"the files of the storage location {id_}" if id_ else "the files"
            now = places.get(id_) or "none for it (DARKROOM_STORAGE_LOCATIONS)"
            return f"The database says that {whose} are in {place}, and these settings name {now}."
    return ""


async def refuse_other_places(database: Database, places: Places) -> None:
    """Raise ``Misconfigured`` if files were recorded in another place than ``places`` has."""
    if problem := difference(await read_places(database), places):
        raise Misconfigured(
            f"{problem} Nothing was done, because every file would seem to be missing. Name the "
            "configuration file with --config, or set the variables that Darkroom starts with, "
            "such as DARKROOM_S3_BUCKET. If the files were moved since it started, add "
            "--other-storage."
        )

"""Migrations that the next version might have, which tests add to those of this version."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from serve_app.queue.store.migrations import Migration, list_migrations, read

SCHEMA = Path(str(resources.files("serve_app.queue.schema")))
LAST = list_migrations()[-1].number
COLOURS = Migration(
    LAST + 1,
    f"{LAST + 1:04}_colours.sql",
    f"""\
-- compatible since {LAST}
-- Requests and replicas have colours.

CREATE TABLE colours (name text PRIMARY KEY);
CREATE INDEX colours_by_length ON colours (length(name));
ALTER TABLE requests
    ADD COLUMN colour text NOT NULL DEFAULT 'red',
    ADD COLUMN shade integer NOT NULL DEFAULT 3;
ALTER TABLE replicas ADD COLUMN colour text;
UPDATE requests SET colour = colour || '!';
""",
)
INDEXES = Migration(
    LAST + 2,
    f"{LAST + 2:04}_indexes.sql",
    f"""\
-- compatible since {LAST}
-- one statement, outside a transaction
-- Requests are found by their work, and by the digest of their endpoint.

CREATE INDEX CONCURRENTLY IF NOT EXISTS by_work ON requests (work);

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS by_digest ON requests (endpoint_digest);
""",
)


def add_migrations(folder: Path) -> None:
    """Write the files into a folder of this version's migrations."""
    for migration in (COLOURS, INDEXES):
        (folder / migration.name).write_text(migration.sql, encoding="utf-8")


def migrations_of_next_version(folder: Path) -> Sequence[Migration]:
    """Migrations of this version and those above, read from their files in ``folder``."""
    shutil.copytree(SCHEMA, folder, dirs_exist_ok=True)
    add_migrations(folder)
    return read(folder)

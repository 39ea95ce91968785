from tests.queue.database import (
    conninfo,
    database,
    empty,
    empty_tables,
    ingress,
    liveness,
    server,
    terms,
)

__all__ = [
    "conninfo",
    "database",
    "empty",
    "empty_tables",
    "ingress",
    "liveness",
    "server",
    "terms",
]

from tests.contract.queues import at, make, queue
from tests.queue.database import conninfo, database, empty_tables, ingress, liveness, server, terms
from tests.storage.conftest import moto_server, s3rver_server, swift_server

__all__ = [
    "at",
    "conninfo",
    "database",
    "empty_tables",
    "ingress",
    "liveness",
    "make",
    "moto_server",
    "queue",
    "s3rver_server",
    "server",
    "swift_server",
    "terms",
]

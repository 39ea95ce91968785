from tests.queue.database import conninfo, database, ingress, liveness, server, terms
from tests.storage.conftest import moto_server, s3rver_server

__all__ = [
    "conninfo",
    "database",
    "ingress",
    "liveness",
    "moto_server",
    "s3rver_server",
    "server",
    "terms",
]

from tests.queue.database import conninfo, database, empty, ingress, liveness, server, terms

__all__ = ["conninfo", "database", "empty", "ingress", "liveness", "server", "terms"]

from tests.queue.database import conninfo, database, ingress, liveness, server, terms

__all__ = ["conninfo", "database", "ingress", "liveness", "server", "terms"]

from tests.queue.database import conninfo, database, empty_tables, ingress, liveness, server, terms

__all__ = ["conninfo", "database", "empty_tables", "ingress", "liveness", "server", "terms"]

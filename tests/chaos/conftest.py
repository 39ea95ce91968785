from tests.queue.database import conninfo, empty_tables, ingress, liveness, server, terms

__all__ = ["conninfo", "empty_tables", "ingress", "liveness", "server", "terms"]

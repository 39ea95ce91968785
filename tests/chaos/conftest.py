from tests.queue.database import conninfo, ingress, liveness, server, terms

__all__ = ["conninfo", "ingress", "liveness", "server", "terms"]

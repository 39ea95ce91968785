from tests.queue.database import conninfo, server

__all__ = ["conninfo", "server"]

from tests.queue.database import conninfo, empty_tables, server

__all__ = ["conninfo", "empty_tables", "server"]

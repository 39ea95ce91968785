"""What clients said about their files, in memory. Deleting is the database's."""

from __future__ import annotations


class FakeLifecycles:
    def __init__(self) -> None:
        self.kept_s: dict[str, float] = {}  # by request

    async def keep(self, request_id: str, keep_s: float) -> None:
        self.kept_s.setdefault(request_id, keep_s)

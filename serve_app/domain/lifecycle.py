"""For how long a request's files are kept, where its client said so."""

from __future__ import annotations

from typing import Protocol


class Lifecycles(Protocol):
    """``DatabaseUnavailable``."""

    async def keep(self, request_id: str, keep_s: float) -> None:
        """Its files are deleted so many seconds after its end. To be called before the request is
        stored; whether it ever is does not matter."""
        ...

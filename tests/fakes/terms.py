"""What the catalogue and storage would add to a lease."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights


class FakeTerms:
    """Knows every endpoint but those in ``gone``; one ticket for an attempt."""

    files_url = "memory://files"

    def __init__(self) -> None:
        self.gone: set[str] = set()

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        if endpoint_id in self.gone:
            return None
        return Endpoint(
            id=endpoint_id, family="fake", weights=Weights(source="/nowhere"), schema="fake"
        )

    def tickets(
        self, request_id: str, attempt: int, endpoint: Endpoint, input: Mapping[str, Any]
    ) -> tuple[UploadTicket, ...]:
        del endpoint, input
        key = f"{request_id}/{attempt}/0.png"
        return (UploadTicket(key, f"memory://{key}", "image/png", max_bytes=2**20),)

"""Storage over httpx2's transport: real requests without a socket."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import httpx2

from deployments.transfer.uploader import HttpTransport
from serve_app.domain.artifact import UploadTicket


@dataclass
class HttpStorage:
    """Stores what is PUT. Each request first takes a status from ``problems``, if there is one."""

    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[httpx2.Request] = field(default_factory=list)
    problems: deque[int | type[Exception]] = field(default_factory=deque)
    closed: asyncio.Event | None = None  # if set, requests wait for it

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=HttpTransport(httpx2.MockTransport(self._answer)))

    def ticket(self, key: str, media_type: str = "image/png", max_bytes: int = 10**6):
        return UploadTicket(
            key, f"http://storage/{key}", media_type, max_bytes, (("x-ticket", "signed"),)
        )

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if self.closed is not None:
            await self.closed.wait()
        if self.problems:
            problem = self.problems.popleft()
            if isinstance(problem, int):
                return httpx2.Response(problem, text="as asked")
            raise problem("as asked")
        key = request.url.path.removeprefix("/")
        if request.method == "GET":
            body = self.objects.get(key.removeprefix("files/"))
            return httpx2.Response(404) if body is None else httpx2.Response(200, content=body)
        if request.method == "DELETE":
            self.objects.pop(key, None)
        else:
            self.objects[key] = request.content
        return httpx2.Response(200)

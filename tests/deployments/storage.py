"""Storage over httpx's transport: real requests without a socket."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

import httpx

from deployments.transfer.uploader import HttpTransport
from serve_app.domain.artifact import UploadTicket


@dataclass
class HttpStorage:
    """Stores what is PUT. Each request first takes a status from ``problems``, if there is one."""

    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    problems: deque[int | type[Exception]] = field(default_factory=deque)
    closed: asyncio.Event | None = None  # if set, requests wait for it

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=HttpTransport(httpx.MockTransport(self._answer)))

    def ticket(self, key: str, media_type: str = "image/png", max_bytes: int = 10**6):
        return UploadTicket(
            key, f"http://storage/{key}", media_type, max_bytes, (("x-ticket", "signed"),)
        )

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.closed is not None:
            await self.closed.wait()
        if self.problems:
            problem = self.problems.popleft()
            if isinstance(problem, int):
                return httpx.Response(problem, text="as asked")
            raise problem("as asked")
        key = request.url.path.removeprefix("/")
        if request.method == "GET":
            body = self.objects.get(key.removeprefix("files/"))
            return httpx.Response(404) if body is None else httpx.Response(200, content=body)
        if request.method == "DELETE":
            self.objects.pop(key, None)
        else:
            self.objects[key] = request.content
        return httpx.Response(200)

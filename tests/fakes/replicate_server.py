"""Replicate's predictions, by its public HTTP reference."""

from __future__ import annotations

import re
from typing import Any

from tests.fakes.provider_server import Call, Job, ProviderServer, Reply

_MODEL = re.compile(r"/v1/models/([^/]+/[^/]+)/predictions")
_ONE = re.compile(r"/v1/predictions/([^/]+)(/cancel)?")
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"


class ReplicateServer(ProviderServer):
    """Its list has predictions in all states, the newest first."""

    def __init__(self) -> None:
        super().__init__()
        self.page = 100
        self.status = ""  # in place of how jobs end: ``failed``
        self.error: str | None = None

    def is_submit(self, call: Call) -> bool:
        return call.method == "POST" and not call.path.endswith("/cancel")

    def refusal(self) -> Reply:
        detail = "You did not pass a valid authentication token"
        return Reply(401, {"title": "Unauthenticated", "detail": detail, "status": 401})

    async def answer(self, call: Call) -> Reply:
        if (match := _MODEL.fullmatch(call.path)) is not None:
            return Reply(201, self._shown(await self.accept(match[1], call.body["input"])))
        if call.path == "/v1/predictions" and call.method == "POST":
            job = await self.accept(call.body["version"], call.body["input"])
            return Reply(201, self._shown(job))
        if call.path == "/v1/predictions":
            return self._list(call)
        match = _ONE.fullmatch(call.path)
        job = self.job(match[1]) if match else None
        if match is None or job is None:
            return Reply(404, {"detail": "The requested resource could not be found."})
        if match[2] and not job.ended_at:
            job.cancelled = True
            self.end()
        job.polls += call.method == "GET"
        return Reply(200, self._shown(job))

    def _list(self, call: Call) -> Reply:
        first = int(call.query.get("cursor", ["0"])[0])
        newest = self.jobs[::-1]
        more = len(newest) > first + self.page
        following = f"{self.origin}/v1/predictions?cursor={first + self.page}" if more else None
        shown = [self._shown(job) for job in newest[first : first + self.page]]
        return Reply(200, {"previous": None, "next": following, "results": shown})

    def _shown(self, job: Job) -> dict[str, Any]:
        ended = job.ended_at is not None
        status = (self.status or "succeeded") if ended else "processing"
        output = self.outputs(job) or [f"{self.origin}/files/{job.id}.png"]
        versioned = len(job.endpoint) == len(VERSION) and "/" not in job.endpoint
        url = f"{self.origin}/v1/predictions/{job.id}"
        return {
            "id": job.id,
            "model": "replicate/hello-world" if versioned else job.endpoint,
            "version": job.endpoint if versioned else VERSION,
            "input": job.input,
            "logs": "Using seed: 7\n" if ended else "",
            "output": output if ended and status == "succeeded" else None,
            "data_removed": False,
            "error": self.error,
            "source": "api",
            "status": "canceled" if job.cancelled else status,
            "created_at": job.sent_at.isoformat().replace("+00:00", "Z"),
            "started_at": None,
            "completed_at": job.ended_at and job.ended_at.isoformat().replace("+00:00", "Z"),
            "metrics": {},
            "urls": {"get": url, "cancel": f"{url}/cancel", "web": "https://replicate.com/p/x"},
        }

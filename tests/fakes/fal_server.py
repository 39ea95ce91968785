"""fal's queue and its list of requests, by its public documentation (inference API, queue; platform
APIs, models, requests by endpoint)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from tests.fakes.provider_server import Call, Job, ProviderServer, Reply

_JOB = re.compile(r"/((?:(?:workflows|comfy)/)?[^/]+/[^/]+)/requests/([^/]+)(/status|/cancel)?")
HISTORY = "/v1/models/requests/by-endpoint"


class FalServer(ProviderServer):
    """Its list has ended requests only, sorted by their end, which is the strictest reading of its
    documentation."""

    scheme = "Key"

    def __init__(self) -> None:
        super().__init__()
        self.page = 100
        self.error = ""  # of all jobs, in their status when they have ended

    def is_submit(self, call: Call) -> bool:
        return call.method == "POST"

    def refusal(self) -> Reply:
        return Reply(401, {"detail": "No user found for Key ID and Secret"})

    async def answer(self, call: Call) -> Reply:
        if call.path == HISTORY:
            return self._history(call)
        if (match := _JOB.fullmatch(call.path)) is not None:
            job = self.job(match[2])
            if job is None or match[1] != _app(job.endpoint):
                return Reply(404, {"detail": "Request not found"})
            return self._of_job(call, job, match[3] or "")
        endpoint = call.path.strip("/")
        job = await self.accept(endpoint, call.body)
        base = f"{self.origin}/{_app(endpoint)}/requests/{job.id}"
        return Reply(
            200,
            {
                "status": "IN_QUEUE",
                "request_id": job.id,
                "response_url": base,
                "status_url": f"{base}/status",
                "cancel_url": f"{base}/cancel",
                "queue_position": 0,
            },
        )

    def _of_job(self, call: Call, job: Job, what: str) -> Reply:
        if what == "/cancel":
            if job.ended_at:
                return Reply(400, {"status": "ALREADY_COMPLETED"})
            job.cancelled = True
            return Reply(202, {"status": "CANCELLATION_REQUESTED"})
        if what == "/status":
            job.polls += 1
            state = "COMPLETED" if job.ended_at else "IN_PROGRESS"
            logs = [{"timestamp": _text(job.sent_at), "level": "INFO", "message": "working"}]
            body = {"status": state, "request_id": job.id, "logs": logs if call.query else None}
            if job.ended_at and self.error:
                body |= {"error": self.error, "error_type": "runner_disconnected"}
            return Reply(200 if job.ended_at else 202, body)
        if not job.ended_at:
            return Reply(400, {"detail": "Request is still in progress"})
        output = self.outputs(job)
        if isinstance(output, Reply):
            return output
        image = {"url": f"{self.origin}/files/{job.id}.png", "content_type": "image/png"}
        return Reply(200, output or {"images": [image], "seed": 7})

    def _history(self, call: Call) -> Reply:
        query = call.query
        limit = int(query.get("limit", ["50"])[0])
        if not 1 <= limit <= 100 or "endpoint_id" not in query:
            return Reply(400, {"error": {"type": "validation_error", "message": "Bad query"}})
        start = datetime.fromisoformat(query["start"][0])
        ended = [
            job
            for job in self.jobs
            if job.ended_at and job.ended_at >= start and job.endpoint in query["endpoint_id"]
        ]
        ended.sort(key=lambda job: str(job.ended_at), reverse=True)
        first = int(query.get("cursor", ["0"])[0])
        limit = min(limit, self.page)
        more = len(ended) > first + limit
        return Reply(
            200,
            {
                "items": [
                    _item(job, payloads="payloads" in query.get("expand", ()))
                    for job in ended[first : first + limit]
                ],
                "next_cursor": str(first + limit) if more else None,
                "has_more": more,
            },
        )


def _app(endpoint: str) -> str:
    """Owner and name of an endpoint, behind a namespace if it is in one."""
    parts = endpoint.split("/")
    return "/".join(parts[: 3 if parts[0] in ("workflows", "comfy") else 2])


def _item(job: Job, *, payloads: bool) -> dict[str, Any]:
    assert job.ended_at is not None
    return {
        "request_id": job.id,
        "endpoint_id": job.endpoint,
        "sent_at": _text(job.sent_at),
        "started_at": _text(job.sent_at),
        "ended_at": _text(job.ended_at),
        "status_code": 200,
        "duration": 0.5,
        **({"json_input": job.input, "json_output": {}} if payloads else {}),
    }


def _text(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")

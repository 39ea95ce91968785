"""fal's queue, and that of another Darkroom, which speaks the same protocol."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from deployments.executors.hosted.calls import (
    Away,
    Busy,
    CallRefused,
    HostedJob,
    HostedState,
    Unknown,
    Wire,
    covers,
    document_of,
    error_text,
    job_id,
    objects_in,
)
from deployments.executors.hosted.outputs import fal_files
from serve_app.domain.errors import ContentBlocked, HostedFailed
from serve_app.domain.executors.hosted import HostedCall
from serve_app.domain.progress import Progress, Stage

MAX_PAGES = 10
NAMESPACES = ("workflows", "comfy")
"""First parts of ids whose owner and name follow."""


class FalQueue:
    """``POST`` to the queue, then polling. A lost call is found in the list of requests."""

    finds = True

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._url = wire.spec.url
        parts = wire.spec.endpoint.split("/")
        self._app = "/".join(parts[: 3 if parts[0] in NAMESPACES else 2])

    async def submit(self, call: HostedCall, fields: Mapping[str, Any]) -> HostedJob:
        answer = await self.wire.post_once(
            f"{self._url}/{self.wire.spec.endpoint}", fields, self._mark(call)
        )
        return self._job(answer)

    def _mark(self, call: HostedCall) -> Mapping[str, str]:
        """Headers that make a repeated call harmless. fal has none."""
        del call
        return {}

    def _job(self, answer: Mapping[str, Any]) -> HostedJob:
        request_id = job_id(answer, "request_id")
        base = f"{self._url}/{self._app}/requests/{request_id}"
        urls = {"status": f"{base}/status", "response": base, "cancel": f"{base}/cancel"}
        for name in urls:
            if self.wire.is_own(answer.get(f"{name}_url")):
                urls[name] = str(answer[f"{name}_url"])
        return HostedJob(request_id, urls)

    async def find(
        self, call: HostedCall, fields: Mapping[str, Any], since: datetime
    ) -> list[HostedJob]:
        """fal sorts its list by the end of requests, and does not document if it has those that
        have not ended. So one that runs may be found only when it has."""
        query = {
            "endpoint_id": call.endpoint,
            "start": since.isoformat(),
            "expand": "payloads",
            "limit": 100,
        }
        jobs: list[HostedJob] = []
        for _ in range(MAX_PAGES):
            page = await self.wire.json(
                f"{self.wire.spec.history_url}/v1/models/requests/by-endpoint", **query
            )
            jobs += [
                self._job(item)
                for item in objects_in(page.get("items"))
                if covers(item.get("json_input"), fields) and is_since(item.get("sent_at"), since)
            ]
            if not page.get("next_cursor") or not page.get("has_more", True):
                break
            query["cursor"] = page["next_cursor"]
        return jobs[::-1]

    async def poll(self, job: HostedJob) -> HostedState:
        status = await self.wire.json(str(job.place["status"]), logs=1)
        lines = tuple(
            (str(entry.get("level", "INFO")).upper(), str(entry.get("message", "")))
            for entry in objects_in(status.get("logs"))
        )
        if status.get("status") != "COMPLETED":
            running = status.get("status") == "IN_PROGRESS"
            return HostedState(progress=Progress(Stage.RUNNING) if running else None, lines=lines)
        try:
            answer = await self.wire.get(str(job.place["response"]))
        except Away as away:
            # A failed job's result has the status of its failure, such as 503 or 504.
            if error := status.get("error"):
                raise HostedFailed(f"{self.wire.spec.account}: {error}") from away
            raise
        if not answer.is_success:
            if "content_policy" in answer.text:
                raise ContentBlocked(error_text(answer))
            raise self.wire.error_of(answer)
        try:
            document = document_of(answer)
        except ValueError as error:  # such as the page of a proxy; the result is paid
            raise Away(f"{self.wire.spec.account} answered no JSON: {error}") from error
        output = fal_files(document, self.wire.output_schema)
        return HostedState(
            result=output if isinstance(output, dict) else {"output": output}, lines=lines
        )

    async def cancel(self, job: HostedJob) -> None:
        await self.wire.again("PUT", str(job.place["cancel"]))


class DarkroomQueue(FalQueue):
    """Another Darkroom. The mark of a call is its idempotency key, so a lost call is sent again,
    and is the same request there."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self._url = f"{wire.spec.url}/queue"

    def _mark(self, call: HostedCall) -> Mapping[str, str]:
        return {"idempotency-key": call.id}

    async def find(
        self, call: HostedCall, fields: Mapping[str, Any], since: datetime
    ) -> list[HostedJob]:
        del since
        try:
            return [await self.submit(call, fields)]
        except (Busy, Unknown) as error:
            raise Away(str(error)) from error
        except CallRefused as error:
            raise HostedFailed(error.error.message) from error


def is_since(written: Any, since: datetime) -> bool:
    """Check a time in a list. One that cannot be read may be the right one."""
    try:
        at = datetime.fromisoformat(str(written))
    except ValueError:
        return True
    return (at if at.tzinfo else at.replace(tzinfo=UTC)) >= since

"""OpenAI's images and videos, by its public API reference."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

from tests.fakes.provider_server import PNG, Call, Job, ProviderServer, Reply

IMAGE_FIELDS = {
    *("prompt", "model", "n", "size", "quality", "background", "moderation", "output_format"),
    *("output_compression", "user", "response_format", "style", "stream", "partial_images"),
}
_ONE = re.compile(r"/v1/videos/([^/]+)(/content)?")


class OpenAiServer(ProviderServer):
    """It refuses parameters that it does not know, and keeps nothing of images."""

    def __init__(self) -> None:
        super().__init__()
        self.page = 100
        self.film = b"a film"
        self.most_at_once = 0  # image calls
        self._now = 0
        self.go = asyncio.Event()  # cleared: images are being made
        self.go.set()
        self.arrived = asyncio.Condition()

    def is_submit(self, call: Call) -> bool:
        return call.method == "POST"

    def refusal(self) -> Reply:
        return error(401, "Incorrect API key provided.", "invalid_api_key")

    async def answer(self, call: Call) -> Reply:
        if call.path == "/v1/images/generations":
            return await self._images(call)
        if call.path == "/v1/videos" and call.method == "POST":
            return await self._new_video(call)
        if call.path == "/v1/videos":
            return self._list(call)
        match = _ONE.fullmatch(call.path)
        job = self.job(match[1]) if match else None
        if match is None or job is None:
            return error(404, "Not found")
        if match[2]:
            return Reply(200, self.film, {"content-type": "video/mp4"})
        job.polls += 1
        return Reply(200, _video(job))

    async def at_once(self, number: int) -> None:
        """Wait until so many calls for images are under way."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: self._now >= number)

    async def _images(self, call: Call) -> Reply:
        unknown = sorted(call.body.keys() - IMAGE_FIELDS)
        if unknown:
            return error(400, f"Unknown parameter: '{unknown[0]}'.", param=unknown[0])
        job = await self.accept(call.body["model"], call.body)
        async with self.arrived:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            self.arrived.notify_all()
        try:
            await self.go.wait()
        finally:
            self._now -= 1
        data = [{"b64_json": base64.b64encode(PNG).decode()}] * call.body.get("n", 1)
        created = int(job.sent_at.timestamp())
        return Reply(200, {"created": created, "data": data, "output_format": "png"})

    async def _new_video(self, call: Call) -> Reply:
        if not call.headers["content-type"].startswith("multipart/form-data"):
            return error(400, "Videos are asked for by a form.")
        return Reply(200, _video(await self.accept(call.body["model"], call.body)))

    def _list(self, call: Call) -> Reply:
        newest = self.jobs[::-1]
        after = call.query.get("after", [""])[0]
        names = [video.id for video in newest]
        first = names.index(after) + 1 if after else 0
        shown = newest[first : first + min(self.page, int(call.query.get("limit", ["20"])[0]))]
        return Reply(
            200,
            {
                "object": "list",
                "data": [_video(video) for video in shown],
                "first_id": shown[0].id if shown else None,
                "last_id": shown[-1].id if shown else None,
                "has_more": len(newest) > first + len(shown),
            },
        )


def error(status: int, message: str, code: str | None = None, param: str | None = None) -> Reply:
    kind = "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Reply(status, body)


def _video(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "object": "video",
        "model": job.endpoint,
        "status": "completed" if job.ended_at else "in_progress",
        "progress": 100 if job.ended_at else 50,
        "created_at": int(job.sent_at.timestamp()),
        "completed_at": job.ended_at and int(job.ended_at.timestamp()),
        "expires_at": None,
        "prompt": job.input["prompt"],
        "seconds": job.input.get("seconds", "4"),
        "size": job.input.get("size", "720x1280"),
        "remixed_from_video_id": None,
        "error": None,
    }

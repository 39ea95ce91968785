"""Events of a job: its status, progress, previews, log lines and outputs."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import RequestNotFound, Unavailable
from serve_app.domain.request import LogLine, Request, State
from serve_app.ingress.comfyui import prompt
from serve_app.ingress.comfyui.v2 import jobs
from serve_app.ingress.comfyui.v2.jobs import ComfyApiProgress, JobCall, graph_of
from serve_app.ingress.http import sse
from serve_app.ingress.http.openapi import EVENTS, answer

KEEP_ALIVE_S = 15.0


async def follow(request: HttpRequest) -> Response:
    """``GET /jobs/{job_id}/events``: stream what happens, to the end of the job."""
    call = await JobCall.of(request)
    return sse.stream_reply(JobEvents(call, await call.find(request)).stream())


FOLLOW = replace(
    jobs.SHOW,
    name="comfyApiFollowJob",
    summary="Stream the events of a job",
    responses={200: answer("Server-sent events.", str, EVENTS)},
)


class JobEvents:
    """Events of one job for one connection. Nothing is sent again to a later one."""

    def __init__(self, call: JobCall, request: Request) -> None:
        self._call = call
        self._queue = call.services.queue
        self._request = request
        self._lines: list[LogLine] = []
        self._status: Mapping[str, Any] = {}
        self._progress: ComfyApiProgress | None = None
        self._preview = 0

    async def stream(self) -> AsyncGenerator[bytes]:
        """The events. They end early if the database fails or the request is deleted: a client that
        connects again gets the error."""
        try:
            while True:
                for event in await self._news() or [sse.NOTHING_NEW]:
                    yield event
                request = self._request
                if request.state.final:
                    break
                self._request = await self._queue.wait_for_change(
                    request.tenant, request.id, KEEP_ALIVE_S, since=request
                )
            for output in (await self._call.body(self._request))["outputs"]:
                yield sse.json_event(output, event="output")
            # The client stops listening at the last status.
            last = {"status": jobs.status(self._request), "queue_position": None}
            yield sse.json_event(last, event="status")
        except (RequestNotFound, Unavailable):
            return

    async def _news(self) -> list[bytes]:
        """What has changed since the last look."""
        request, news = self._request, await self._log()
        if not request.state.final:
            waits = request.state is State.QUEUED
            waiting = await self._queue.waiting(request) if waits else None
            position = None if waiting is None else waiting.position
            status = {"status": jobs.status(request), "queue_position": position}
            if status != self._status:
                self._status = status
                news.insert(0, sse.json_event(status, event="status"))
        progress = jobs.progress(request, self._lines)
        if progress is not None and progress != self._progress:
            self._progress = progress
            news.append(sse.json_event(progress, event="progress"))
        if request.preview_step != self._preview:
            self._preview = request.preview_step
            news += await self._picture()
        return news

    async def _log(self) -> list[bytes]:
        """New lines of the log, less those that the progress says."""
        request = self._request
        after = self._lines[-1].sequence if self._lines else 0
        lines = await self._queue.lines(request.tenant, request.id, after)
        self._lines += lines
        graph = graph_of(request)
        return [
            sse.json_event({"level": line.level.lower(), "message": line.message}, event="log")
            for line in lines
            if prompt.begun_node(line, graph) is None
        ]

    async def _picture(self) -> list[bytes]:
        """The newest preview."""
        preview = await prompt.newest_preview(self._queue, self._request)
        if preview is None:
            return []
        picture = {
            "node_id": (self._progress or {}).get("current_node", ""),
            "content_type": "image/jpeg",
            "data_base64": base64.b64encode(preview.image).decode(),
        }
        return [sse.json_event(picture, event="preview")]

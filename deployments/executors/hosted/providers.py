"""Replicate's predictions, and OpenAI's images and videos."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from darkroom.media_types import suffix_of_type
from deployments.executors.hosted.calls import (
    INLINE_S,
    HostedFile,
    HostedJob,
    HostedState,
    Part,
    Unknown,
    Wire,
    covers,
    job_id,
    objects_in,
)
from deployments.executors.hosted.fal import MAX_PAGES, is_since
from deployments.executors.hosted.outputs import replicate_files
from serve_app.domain.errors import HostedFailed, HostedUnconfirmed
from serve_app.domain.executors.hosted import HostedCall
from serve_app.domain.media.data_uri import begins_as_file, media_type_of_data_uri, read_data_uri
from serve_app.domain.progress import Progress, Stage

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_VERSION = re.compile(r"(?:[^:]+:)?([0-9a-f]{64})")


class ReplicatePredictions:
    """``POST`` of a prediction, then polling. A lost call is found in the list of predictions."""

    finds = True

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._url = wire.spec.url
        match = _VERSION.fullmatch(wire.spec.endpoint)
        self._version = match[1] if match else ""

    async def submit(self, call: HostedCall, fields: Mapping[str, Any]) -> HostedJob:
        del call
        if self._version:
            url, body = f"{self._url}/predictions", {"version": self._version, "input": fields}
        else:
            url = f"{self._url}/models/{self.wire.spec.endpoint}/predictions"
            body = {"input": fields}
        return self._job(await self.wire.post_once(url, body))

    def _job(self, answer: Mapping[str, Any]) -> HostedJob:
        prediction_id = job_id(answer, "id")
        return HostedJob(prediction_id, {"get": f"{self._url}/predictions/{prediction_id}"})

    async def find(
        self, call: HostedCall, fields: Mapping[str, Any], since: datetime
    ) -> list[HostedJob]:
        """The list has predictions in all states, the newest first."""
        del call
        url, jobs = f"{self._url}/predictions", list[HostedJob]()
        for _ in range(MAX_PAGES):
            page = await self.wire.json(url)
            listed = objects_in(page.get("results"))
            recent = [
                prediction for prediction in listed if is_since(prediction.get("created_at"), since)
            ]
            jobs += [
                self._job(prediction)
                for prediction in recent
                if self._is_of_model(prediction) and covers(prediction.get("input"), fields)
            ]
            following = page.get("next")
            if len(recent) < len(listed) or not self.wire.is_own(following):
                break
            url = str(following)
        return jobs[::-1]

    def _is_of_model(self, listed: Mapping[str, Any]) -> bool:
        if self._version:
            return listed.get("version") == self._version
        return listed.get("model") in (None, self.wire.spec.endpoint)

    async def poll(self, job: HostedJob) -> HostedState:
        prediction = await self.wire.json(str(job.place["get"]))
        status, logs = prediction.get("status"), prediction.get("logs")
        lines = tuple(("INFO", line) for line in logs.splitlines()) if isinstance(logs, str) else ()
        match status:
            case "succeeded":
                return HostedState(result=self._output(prediction.get("output")), lines=lines)
            case "failed":
                raise HostedFailed(
                    f"Replicate: {prediction.get('error') or 'the prediction failed'}"
                )
            case "canceled" | "aborted":
                raise HostedFailed(f"The prediction {job.id} was {status} at Replicate.")
            case _:
                running = Progress(Stage.RUNNING) if status == "processing" else None
                return HostedState(progress=running, lines=lines)

    def _output(self, output: Any) -> Mapping[str, Any]:
        """Output with files: one field ``output``, or the fields of an object."""
        fields = output if isinstance(output, dict) else {"output": output}
        wire = self.wire
        return replicate_files(fields, wire.output_schema, is_own=wire.is_own)

    async def cancel(self, job: HostedJob) -> None:
        await self.wire.again("POST", f"{job.place['get']}/cancel")


class OpenAiImageCalls:
    """One call, whose answer has the images. A lost answer is a lost image."""

    finds = False

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def submit(self, call: HostedCall, fields: Mapping[str, Any]) -> HostedJob:
        body = {"model": self.wire.spec.endpoint, **fields}
        url = f"{self.wire.spec.url}/images/generations"
        answer = await self.wire.post_once(url, body, read_s=INLINE_S)
        written = str(fields.get("output_format") or answer.get("output_format") or "png")
        media_type = MEDIA_TYPES.get(written, "image/png")
        images = [_image(image, media_type) for image in objects_in(answer.get("data"))]
        if not images:
            raise Unknown("the answer has no image")
        return HostedJob(call.id, {}, {"images": images})

    async def find(
        self, call: HostedCall, fields: Mapping[str, Any], since: datetime
    ) -> list[HostedJob]:
        del call, fields, since
        return []

    async def poll(self, job: HostedJob) -> HostedState:
        if job.result is None:
            raise HostedUnconfirmed(
                "OpenAI has made the images, and they are lost: the attempt that had them ended "
                "before they were stored, such as with its replica or its lease. OpenAI keeps "
                "none. Submit again."
            )
        return HostedState(result=job.result)

    async def cancel(self, job: HostedJob) -> None:
        """Do nothing: there is no such call."""


class OpenAiVideoCalls:
    """A job that is polled. A lost call is found in the list of videos by its prompt."""

    finds = True

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._url = f"{wire.spec.url}/videos"

    async def submit(self, call: HostedCall, fields: Mapping[str, Any]) -> HostedJob:
        del call
        body = {"model": self.wire.spec.endpoint, **fields}
        form = {name: _part(value) for name, value in body.items() if value is not None}
        return self._job(await self.wire.post_once(self._url, body, form=form))

    def _job(self, answer: Mapping[str, Any]) -> HostedJob:
        video_id = job_id(answer, "id")
        return HostedJob(video_id, {"get": f"{self._url}/{video_id}"})

    async def find(
        self, call: HostedCall, fields: Mapping[str, Any], since: datetime
    ) -> list[HostedJob]:
        """The list has videos in all states, the newest first."""
        del call
        ours = {
            name: value for name, value in fields.items() if name in ("prompt", "seconds", "size")
        }
        ours = {"model": self.wire.spec.endpoint} | {name: str(ours[name]) for name in ours}
        query: dict[str, Any] = {"limit": 100, "order": "desc"}
        jobs: list[HostedJob] = []
        for _ in range(MAX_PAGES):
            page = await self.wire.json(self._url, **query)
            listed = objects_in(page.get("data"))
            recent = [video for video in listed if _creation_time(video) >= since.timestamp()]
            jobs += [self._job(video) for video in recent if covers(video, ours)]
            if len(recent) < len(listed) or not page.get("has_more") or not page.get("last_id"):
                break
            query["after"] = page["last_id"]
        return jobs[::-1]

    async def poll(self, job: HostedJob) -> HostedState:
        video = await self.wire.json(str(job.place["get"]))
        match video.get("status"):
            case "completed":
                url = f"{job.place['get']}/content"
                return HostedState(result={"video": HostedFile(url, with_key=True)})
            case "failed":
                error = video.get("error")
                what = error.get("message") if isinstance(error, dict) else None
                raise HostedFailed(f"OpenAI: {what or 'the video failed'}")
            case "in_progress":
                percent = video.get("progress")
                step = percent if isinstance(percent, int) else 0
                return HostedState(progress=Progress(Stage.RUNNING, step, 100))
            case _:
                return HostedState()

    async def cancel(self, job: HostedJob) -> None:
        """Do nothing: there is no such call for a video that is being made."""


def _part(value: Any) -> Part:
    """Part of the form of a video, as OpenAI's own client sends it: files are no texts."""
    if isinstance(value, str) and begins_as_file(value):
        media_type = media_type_of_data_uri(value)
        with suppress(ValueError):  # else it is a text that looks like a file
            return f"file{suffix_of_type(media_type)}", read_data_uri(value), media_type
    return None, value if isinstance(value, str) else json.dumps(value)


def _creation_time(listed: Mapping[str, Any]) -> float:
    at = listed.get("created_at")
    return float(at) if isinstance(at, int | float) else math.inf


def _image(image: Mapping[str, Any], media_type: str) -> HostedFile:
    encoded = image.get("b64_json")
    if isinstance(encoded, str):
        try:
            return HostedFile(content=base64.b64decode(encoded), media_type=media_type)
        except ValueError:
            raise Unknown("the answer has an image that cannot be read") from None
    return HostedFile(str(image.get("url") or ""))

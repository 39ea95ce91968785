"""App for fal of the tests: each route uses a part of what such apps use."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any, Literal
from urllib.request import urlopen

import fal
from fal.exceptions import AppException, FieldException, GPUException
from fal.toolkit import FAL_MODEL_WEIGHTS_DIR, Audio, File, Image, download_file
from fal.toolkit.utils.endpoint import cancel_on_disconnect
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from PIL.Image import new as new_image
from pydantic import BaseModel, Field

CALLS: dict[str, str] = {}
COLORS = Literal["red", "blue"]


class DrawInput(BaseModel):
    color: COLORS = Field(default="red", description="Color of the square.")
    size: int = Field(default=8, ge=1, le=64, examples=[16])
    seed: int | None = None


class DrawOutput(BaseModel):
    images: list[Image]
    seed: int
    has_nsfw_concepts: list[bool] = []


class GrayInput(BaseModel):
    image_url: str = Field(title="Image URL", description="The image to turn gray.")
    layers: list[Image] = []


class SpeakOutput(BaseModel):
    audio: Audio
    link: str
    notes: File | None = None


class Camera(fal.App, keep_alive=300, name="camera", max_multiplexing=4):
    machine_type = "S"
    startup_timeout = 120

    async def setup(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.place = Path(str(FAL_MODEL_WEIGHTS_DIR))
        CALLS["base"] = File.from_bytes(b"", "text/plain").url.rsplit("/", 2)[0] + "/"

    def handle_exit(self) -> None:
        self._say("handle_exit")

    def teardown(self) -> None:
        self._say("teardown")

    def _say(self, word: str) -> None:
        with (self.place.parents[1] / "ended.txt").open("a") as file:
            file.write(word + "\n")

    @fal.endpoint("/")
    def draw(self, input: DrawInput, response: Response) -> DrawOutput:
        """Draw a square."""
        print("drawing", input.color)  # noqa: T201  # a line of the request's log
        drawn = Image.from_pil(new_image("RGB", (input.size, input.size), input.color), "png")
        response.headers["x-fal-billable-units"] = "1"
        return DrawOutput(images=[drawn, drawn], seed=input.seed or 7)

    @fal.endpoint("/gray")
    async def gray(self, input: GrayInput) -> Image:
        # Blocks the event loop, as much code for fal does.
        with urlopen(input.image_url) as opened:  # noqa: ASYNC210, S310
            content = opened.read()
        images = [
            Image(url=input.image_url).to_pil("L"),
            *(layer.to_pil() for layer in input.layers),
        ]
        with TemporaryDirectory() as folder:
            assert download_file(input.image_url, folder).read_bytes() == content
        return Image.from_pil(images[-1].convert("L"), "png")

    @fal.endpoint("/speak")
    def speak(self, text: str) -> SpeakOutput:
        with NamedTemporaryFile(suffix=".wav") as file:
            Path(file.name).write_bytes(text.encode())
            audio = Audio.from_path(file.name, content_type="audio/wav")
        notes = self.pool.submit(File.from_bytes, b"plain", "text/plain", "notes.txt").result()
        link = File.from_bytes(b"linked", "text/plain", repository="gcp_storage").url
        return SpeakOutput(audio=audio, link=link, notes=notes)

    @fal.endpoint("/about")
    def about(self) -> dict[str, Any]:
        request = self.current_request
        assert request is not None
        return {
            "request_id": request.request_id,
            "endpoint": request.endpoint,
            "weights": str(FAL_MODEL_WEIGHTS_DIR),
            "variables": sorted(os.environ),  # noqa: TID251
            "pid": os.getpid(),
        }

    @fal.endpoint("/fail")
    def fail(self, how: str = "") -> dict[str, str]:
        print(f"failing {how}", end="")  # noqa: T201  # as bars of progress do
        if how == "field":
            raise FieldException("how", "This way is closed.", type="closed")
        if how == "app":
            raise AppException("There is no face in the image.", 400)
        if how == "gpu":
            raise GPUException
        if how == "cuda":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if how == "die":
            os._exit(3)
        if how == "exit":
            sys.exit("a library ends")
        if how == "stale":
            CALLS.setdefault("url", File.from_bytes(b"once", "text/plain").url)
            return {"url": CALLS["url"]}
        raise KeyError("lost")

    @fal.endpoint("/stream")
    async def stream(self, input: DrawInput) -> StreamingResponse:
        async def events() -> Any:
            for number in range(12 if input.size != 1 else 1000000):
                image = Image.from_pil(new_image("RGB", (4, 4), input.color), "png")
                part = {"number": number, "image": json.loads(image.json())}
                if input.size == 1 and number == 3:
                    part["stale"] = CALLS["base"] + "x/y"
                yield f"data: {json.dumps(part)}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    @fal.endpoint("/mirror")
    def mirror(self, text: str) -> dict[str, Any]:
        return {"said": json.loads(text), "link": File.from_bytes(b"mine", "text/plain").url}

    @fal.endpoint("/yields")
    def yields(self, number: int) -> Iterator[DrawOutput]:
        for seed in range(number):
            image = Image.from_pil(new_image("RGB", (4, 4), "red"), "png")
            yield DrawOutput(images=[image], seed=seed)

    @fal.endpoint("/yields-async")
    async def yields_async(self) -> AsyncIterator[int]:
        yield 1
        print("waiting")  # noqa: T201
        await asyncio.sleep(600)

    @fal.endpoint("/events")
    def events(self, lines: str) -> StreamingResponse:
        return StreamingResponse(
            (f"data: {line}\n\n" for line in lines.splitlines()), media_type="text/event-stream"
        )

    @fal.endpoint("/own-body")
    async def own_body(self, request: Request) -> dict[str, Any]:
        return {"read": await request.json()}

    @fal.endpoint("/bytes")
    def bytes(self) -> Response:
        return Response(b"\x89PNG", media_type="image/png")

    @fal.endpoint("/wait")
    async def wait(self, request: Request) -> dict[str, str]:
        print("waiting")  # noqa: T201
        async with cancel_on_disconnect(request):
            await asyncio.sleep(600)
        return {"ended": "early"}

    @fal.endpoint("/sleep")
    async def sleep(self) -> dict[str, str]:
        print("waiting")  # noqa: T201
        await asyncio.sleep(600)
        return {}

    @fal.endpoint("/hang")
    def hang(self) -> dict[str, str]:
        print("waiting")  # noqa: T201
        while not threading.Event().wait(600):
            time.sleep(0)
        return {}

    @fal.endpoint("/health-check", health_check=fal.HealthCheck())
    def check(self) -> dict[str, str]:
        return {}

    @fal.realtime("/realtime")
    def live(self, input: DrawInput) -> DrawOutput:
        raise NotImplementedError

"""App for fal of the tests with realtime routes: one of each kind that fal has."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import fal
from fal.toolkit import FAL_PERSISTENT_DIR, File, Image
from fastapi import WebSocket, WebSocketDisconnect
from PIL.Image import new as new_image
from pydantic import BaseModel, Field


class Frame(BaseModel):
    """Input of a session."""

    prompt: str
    seed: int = Field(default=0, ge=0)
    image_url: str | None = None
    raw: bytes = b""


class Drawn(BaseModel):
    """Output of a session."""

    prompt: str
    number: int
    image: Image | None = None
    size: int = 0


class Step(BaseModel):
    """One of many outputs."""

    step: int


def decode_json(message: bytes) -> Any:
    return json.loads(message)


def encode_json(message: Any) -> bytes:
    return json.dumps(message).encode()


class Live(fal.App):
    """Draws while somebody looks."""

    max_multiplexing = 4
    held: ClassVar[dict[str, threading.Event]] = {}

    def setup(self) -> None:
        self.number = 0

    @fal.endpoint("/")
    def plain(self, prompt: str = "") -> str:
        return prompt

    @fal.endpoint("/about")
    async def about(self) -> dict[str, Any]:
        return {"pid": os.getpid()}

    @fal.realtime("/realtime")
    def draw(self, input: Frame) -> Drawn:
        """Draw a frame."""
        print(f"drawing {input.prompt}")  # noqa: T201
        if input.prompt == "die":
            os._exit(5)
        if input.prompt == "fail":
            raise RuntimeError("no paint")
        self.number += 1
        drawn = Drawn(prompt=input.prompt, number=self.number)
        if input.image_url:
            drawn.size = Image(url=input.image_url).to_pil().width
        if input.prompt.startswith("image"):
            drawn.image = Image.from_pil(new_image("RGB", (8, 8), "blue"), "png")
        drawn.size = drawn.size or len(input.raw)
        return drawn

    @fal.realtime("/slow", buffering=None)
    async def slow(self, input: Frame) -> Drawn:
        """Wait until a file is there."""
        while not (Path(FAL_PERSISTENT_DIR) / input.prompt).exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return Drawn(prompt=input.prompt, number=0)

    @fal.realtime("/batches", max_batch_size=3)
    async def batches(self, first: Frame, *more: Frame) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"prompts": [frame.prompt for frame in (first, *more)]}

    @fal.realtime("/steps")
    async def steps(self, input: Frame) -> AsyncIterator[Step]:
        for step in range(3):
            await asyncio.sleep(0)  # else fal sends the third one first
            yield Step(step=step)

    @fal.realtime("/talk")
    async def talk(self, inputs: AsyncIterator[Frame]) -> AsyncIterator[Drawn]:
        number = 0
        try:
            async for frame in inputs:
                number += 1
                yield Drawn(prompt=frame.prompt, number=number)
        finally:
            print("the client has left")  # noqa: T201

    @fal.realtime("/short", session_timeout=0.2)
    def short(self, input: Frame) -> Drawn:
        return Drawn(prompt=input.prompt, number=0)

    @fal.realtime(
        "/json",
        content_type="application/json",
        encode_message=encode_json,
        decode_message=decode_json,
    )
    def as_json(self, input: Frame) -> dict[str, Any]:
        return {"prompt": input.prompt}

    @fal.endpoint("/socket", is_websocket=True)
    async def socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while (message := await websocket.receive_text()) != "bye":
                is_json = message.startswith("{")
                echo = {"said": json.loads(message) if is_json else message}
                file = {"file": File.from_bytes(b"mine", "text/plain").url} if is_json else {}
                await websocket.send_json({**echo, **file})
        except WebSocketDisconnect:
            return
        await websocket.close(4001, "See you.")

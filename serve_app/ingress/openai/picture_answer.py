"""Pictures of an ended request, as OpenAI hands them out."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

from serve_app.domain.artifact import Artifact
from serve_app.domain.errors import PipelineFailed
from serve_app.domain.ports import Storage
from serve_app.domain.request import Request
from serve_app.ingress.fal.output import outcome_of
from serve_app.ingress.openai.picture_wish import PictureWish
from serve_app.ingress.origin import file_url

KEPT = ("seed", "darkroom_demo")
"""Fields of the output that go into the answer under their own names."""


def pictures_of(request: Request) -> Sequence[Artifact]:
    """``PipelineFailed`` when it made none: then its endpoint is not one for pictures."""
    found = [each for each in outcome_of(request).artifacts if is_picture(each)]
    if not found:
        raise PipelineFailed(f"{request.endpoint} ended without a picture.")
    return found


def is_picture(artifact: Artifact) -> bool:
    return artifact.media_type.startswith("image/")


async def picture_answer(
    request: Request, wish: PictureWish, storage: Storage, origin: str, created: int
) -> dict[str, Any]:
    """The whole answer."""
    pictures = pictures_of(request)
    return {
        "created": created,
        "data": [await _picture(each, wish, storage, origin) for each in pictures],
        **_told(wish, pictures[0]),
        **kept_of(request),
    }


def kept_of(request: Request) -> dict[str, Any]:
    output = outcome_of(request).output or {}
    return {name: output[name] for name in KEPT if output.get(name) is not None}


async def encoded(storage: Storage, artifact: Artifact) -> str:
    content = b"".join([chunk async for chunk in storage.read(artifact.key, 0, artifact.size)])
    # Base64 of a picture takes milliseconds, which all other calls would wait for.
    return (await asyncio.to_thread(base64.b64encode, content)).decode("ascii")


def format_of(artifact: Artifact) -> str:
    return artifact.media_type.removeprefix("image/")


def size_of(artifact: Artifact, wish: PictureWish) -> str:
    if artifact.width is None or artifact.height is None:
        return wish.size
    return f"{artifact.width}x{artifact.height}"


async def _picture(
    artifact: Artifact, wish: PictureWish, storage: Storage, origin: str
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "b64_json" in wish.forms:
        found["b64_json"] = await encoded(storage, artifact)
    if "url" in wish.forms:
        found["url"] = file_url(origin, artifact.key)
    return found


def _told(wish: PictureWish, picture: Artifact) -> dict[str, Any]:
    """Here OpenAI tells what was chosen, and has no word for "auto"."""
    told = {**wish.told, "size": size_of(picture, wish), "output_format": format_of(picture)}
    return {name: value for name, value in told.items() if value != "auto"}

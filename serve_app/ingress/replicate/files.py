"""Files of inputs, as Replicate's client sends them ahead of a prediction."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.form import is_form, read_form
from serve_app.ingress.origin import file_url, origin_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.uploads import NewUpload

FIELD = "content"


async def created(request: HttpRequest) -> Response:
    """201 with the file, which is an upload like any other: its client puts the URL into the input
    of a prediction."""
    caller = await caller_of(request)
    core = core_of(request)
    origin = origin_of(request)  # may be refused, and then nothing is to be stored
    if not is_form(request):
        raise InvalidInput("Files are sent as a form (multipart/form-data).")
    if core.room is not None:
        await core.room()
    form = await read_form(request, core.config.max_body_bytes, most_files=1)
    files = form.files.get(FIELD, [])
    if not files:
        raise InvalidInput.of_field(FIELD, "Field required", "missing")
    (file,) = files
    new = NewUpload(caller.tenant, file.media_type, file.name)
    upload = await core.uploads.take(new, _at_once(file.content))
    digest = (await asyncio.to_thread(hashlib.sha256, file.content)).hexdigest()
    body = {
        "id": upload.key,
        "name": file.name,
        "content_type": upload.media_type,
        "size": len(file.content),
        "etag": digest,
        "checksums": {"sha256": digest},
        "metadata": {},
        "created_at": core.clock.now().isoformat(),
        "expires_at": None,
        "urls": {"get": file_url(origin, upload.key)},
    }
    return json_reply(body, 201)


async def _at_once(content: bytes) -> AsyncIterator[bytes]:
    yield content

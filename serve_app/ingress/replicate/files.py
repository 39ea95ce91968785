"""Files of inputs, as Replicate's client sends them ahead of a prediction."""

from __future__ import annotations

import asyncio
import hashlib

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.form import FormFile, is_form, read_form
from serve_app.ingress.openai.given_pictures import data_uri
from serve_app.ingress.reply import json_reply

FIELD = "content"


async def created(request: HttpRequest) -> Response:
    """201 with a file whose URL is the file itself, as a data URI. Its sender puts that URL into
    the input of a prediction, so there is nothing to keep here, and nothing that could be lost
    between the two calls."""
    await caller_of(request)
    if not is_form(request):
        raise InvalidInput("Files are sent as a form (multipart/form-data).")
    form = await read_form(request, core_of(request).config.max_body_bytes, most_files=1)
    files = form.files.get(FIELD, [])
    if not files:
        raise InvalidInput.of_field(FIELD, "Field required", "missing")
    url, digest = await asyncio.to_thread(_encoded, files[0])
    body = {
        "id": exchange_of(request).request_id,
        "name": files[0].name,
        "content_type": files[0].media_type,
        "size": len(files[0].content),
        "etag": digest,
        "checksums": {"sha256": digest},
        "metadata": {},
        "created_at": core_of(request).clock.now().isoformat(),
        "expires_at": None,
        "urls": {"get": url},
    }
    return json_reply(body, 201)


def _encoded(file: FormFile) -> tuple[str, str]:
    digest = hashlib.sha256(file.content).hexdigest()
    return data_uri(file.content, file.media_type), digest

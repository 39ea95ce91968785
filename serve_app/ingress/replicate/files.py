"""Files of inputs, as Replicate's client sends them ahead of a prediction, and looks at them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.domain.errors import InvalidInput
from serve_app.domain.upload import KeptFile
from serve_app.ingress import query
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.files import etag_of
from serve_app.ingress.form import is_form, read_form
from serve_app.ingress.origin import file_url, origin_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.uploads import NewUpload

FIELD = "content"
PAGE = 100


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
    kept = await core.uploads.kept(caller.tenant, upload.key)
    told = _told(kept, origin)  # as it will be told later, but for what is known only now
    return json_reply({**told, "name": file.name, "checksums": {"sha256": digest}}, 201)


async def shown(request: HttpRequest) -> Response:
    caller = await caller_of(request)
    kept = await core_of(request).uploads.kept(caller.tenant, request.path_params["file_id"])
    return json_reply(_told(kept, origin_of(request)))


async def listed(request: HttpRequest) -> Response:
    """The tenant's uploads, by whichever protocol they came, the latest first."""
    caller = await caller_of(request)
    origin = origin_of(request)
    before = _before(request)
    page = await core_of(request).uploads.page(caller.tenant, before, PAGE + 1)
    more = None
    if len(page) > PAGE:
        last = page[PAGE - 1]
        at = last.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        more = f"{origin}/replicate/v1/files?cursor={at},{last.key}"
    results = [_told(each, origin) for each in page[:PAGE]]
    return json_reply({"previous": None, "next": more, "results": results})


async def deleted(request: HttpRequest) -> Response:
    """204, also when storage is away: then it is deleted as soon as that is back."""
    caller = await caller_of(request)
    await core_of(request).uploads.delete(caller.tenant, request.path_params["file_id"])
    return Response(status_code=204)


def _told(kept: KeptFile, origin: str) -> dict[str, Any]:
    return {
        "id": kept.key,
        "name": kept.key.rpartition("/")[2],
        "content_type": kept.media_type,
        "size": kept.size,
        "etag": etag_of(kept.key).strip('"'),
        "checksums": {},
        "metadata": {},
        "created_at": kept.created_at.isoformat(),
        "expires_at": kept.expires_at and kept.expires_at.isoformat(),
        "urls": {"get": file_url(origin, kept.key)},
    }


def _before(request: HttpRequest) -> tuple[datetime, str] | None:
    given = query.text(request, "cursor")
    if given is None:
        return None
    time, _, key = given.partition(",")
    try:
        at = datetime.fromisoformat(time)
        if at.tzinfo is not None:
            return at, key
    except ValueError:
        pass
    raise query.invalid("cursor", "should be the one of the page before", given)


async def _at_once(content: bytes) -> AsyncIterator[bytes]:
    yield content

"""Deleting a request, or an upload: in the database, then its files in storage."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import StorageUnavailable
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply

log = logging.getLogger(__name__)

LATER = "Storage does not answer; the file is deleted as soon as it does."


async def delete(request: HttpRequest) -> Mapping[str, str | None]:
    """By key of a file: None, or why it is still there. ``RequestNotFound``, ``RequestActive``.

    Files that cannot be deleted now are noted as unwanted with the deletion, and deleted later.
    """
    caller = await caller_of(request)
    core = core_of(request)
    keys = await core.queue.delete(caller.tenant, request.path_params["request_id"])
    try:
        if keys:
            await core.storage.delete(keys)
    except StorageUnavailable as error:
        log.warning("Files of a deleted request are deleted later: %s", error.message)
        return dict.fromkeys(keys, LATER)
    return dict.fromkeys(keys)


async def deleted(request: HttpRequest) -> Response:
    """``DELETE``: how many files are deleted, and how many will be as soon as storage answers."""
    exchange_of(request).route = "v1.request.delete"
    files = await delete(request)
    later = sum(why is not None for why in files.values())
    return json_reply({"deleted_files": len(files) - later, "later_files": later})


async def upload_deleted(request: HttpRequest) -> Response:
    """``DELETE`` of a file that the tenant has uploaded."""
    exchange_of(request).route = "v1.upload.delete"
    caller = await caller_of(request)
    now = await core_of(request).uploads.delete(caller.tenant, request.path_params["key"])
    return json_reply({"deleted_files": int(now), "later_files": int(not now)})


ROUTES = [
    Route("/v1/requests/{request_id}", deleted, methods=["DELETE"]),
    Route("/v1/uploads/{key:path}", upload_deleted, methods=["DELETE"]),
]

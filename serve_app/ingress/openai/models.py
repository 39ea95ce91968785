"""``models``: every endpoint that is served, and the names that lead to one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import Core, core_of
from serve_app.ingress.model_names import named
from serve_app.ingress.reply import json_reply

LONG_AGO = 0
"""OpenAI tells when a model was made. The catalogue does not know."""


async def listed(request: HttpRequest) -> Response:
    await caller_of(request)
    core = core_of(request)
    return json_reply({"object": "list", "data": list(_models(core))})


async def shown(request: HttpRequest) -> Response:
    """By id or alias; ``EndpointNotFound`` names what is near."""
    await caller_of(request)
    core = core_of(request)
    name: str = request.path_params["model"]
    entry = named(core.catalog, core.config.model_aliases, name)
    return json_reply(_model(name, entry.endpoint.id))


def _models(core: Core) -> Iterator[dict[str, Any]]:
    served = [entry.endpoint.id for entry in core.catalog if not entry.missing]
    for endpoint_id in served:
        yield _model(endpoint_id, endpoint_id)
    for alias, endpoint_id in core.config.model_aliases.items():
        if endpoint_id in served:
            yield _model(alias, endpoint_id)


def _model(name: str, endpoint_id: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": LONG_AGO,
        "owned_by": endpoint_id.partition("/")[0],
        "darkroom_endpoint": endpoint_id,
    }

"""OpenAPI documents of a Darkroom under test, pointed at objects that exist."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx
import schemathesis

from tests.wire.served import Address

# The code of an app is sent as it is, like any other bytes.
schemathesis.serializer.alias("application/zip", "application/octet-stream")

ENDPOINTS = ("fal-ai/flux/schnell", "test/probe")
DOCUMENT, ENDPOINT_DOCUMENT = "/openapi.json", "/api/openapi/queue/openapi.json"

EVENTS = "text/event-stream"
"""Type of event streams. OpenAPI 3.0 has no events: a stream is described as its text."""

BUSY = {503, 504, 507}  # if documented; 504 when the client's own time limit is 0
TIMEOUT_S = 20.0
REQUESTS = 6  # that have ended, for calls about one


def document(address: Address, path: str, **params: str) -> dict[str, Any]:
    headers = {"Authorization": f"Key {address.key}"}
    answer = httpx.get(address.url + path, params=params, headers=headers, timeout=TIMEOUT_S)
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def known_objects(address: Address, idle: str = "test/unserved") -> dict[str, list[str]]:
    """Existing objects, by the part of a path that ends with their parameter. ``idle``: an endpoint
    that no test needs, because calls pause it."""
    headers = {"Authorization": f"Key {address.key}"}
    with httpx.Client(base_url=address.url, headers=headers, timeout=TIMEOUT_S) as client:
        ended = [client.post("/run/test/probe", json={"artifacts": 1}) for _ in range(REQUESTS)]
        file = client.post("/cdn/files/upload", content=b"x", headers={"content-type": "image/png"})
        key = client.post("/v1/keys", json={})
    for response in (*ended, file, key):
        response.raise_for_status()
    return {
        "{request_id}": [answer.headers["x-fal-request-id"] for answer in ended],
        "/files/{key}": [urlsplit(file.json()["access_url"]).path.removeprefix("/files/")],
        "/v1/keys/{key}": [key.json()["key_id"]],
        "/v1/endpoints/{endpoint_id}": [idle],
        "/models/{endpoint_id}": [idle, "test/probe"],
        "/models/{model}": list(ENDPOINTS),
        "{owner}": ["test", "fal-ai"],
        "/{owner}/{name}": ["probe"],
    }


def point_at_objects(document: dict[str, Any], at: dict[str, list[str]]) -> dict[str, Any]:
    """``document`` whose valid calls name existing objects; the invalid calls name unknown ones."""
    for path, calls in document["paths"].items():
        for call in calls.values():
            for parameter in call.get("parameters", ()):
                for part, values in at.items():
                    if part in path and part.endswith("{" + parameter["name"] + "}"):
                        parameter["schema"] = {"type": "string", "enum": values}
    return document

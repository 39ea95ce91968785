"""Check of every answer against the OpenAPI document: its status, its media type and its JSON.

The document describes objects that may get more fields later. Here a field that the document does
not name is an error, because it means that the document lacks it.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openapi_schema_validator import OAS30Validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.catalog.catalog import Catalog
from serve_app.ingress.app import create_app
from serve_app.ingress.http.paths import RequestResource, parse
from serve_app.ingress.openapi.document import ApiDocument
from serve_app.resources.declaration import Resource
from serve_app.resources.registry import RESOURCES

Json = dict[str, Any]

OUTSIDE = re.compile(r"/|/favicon\.ico|/page/.*|/comfyui/?|/comfyui/assets/.*")
"""The playground and ComfyUI's page, which are for browsers."""

SLASHES = {
    "job",
    "warm_target",
    "entry",
    "key",
    "endpoint_id",
    "path",
    "file_id",
    "model",
    "file",
    "dest",
}
"""Parameters of paths that contain slashes."""

ANYWHERE = {408: "a slow body", 500: "a defect", 503: "a service that does not answer"}
"""Statuses that any call can have. The document says so once."""

GZIP = b"\x1f\x8b"
"""Beginning of a compressed body."""

SHOWN_BYTES = 500
"""Bytes of a body that is not JSON that are kept to show."""

UNTRUSTED = "untrusted_host"
"""Code of the error 400 that any call can have."""

TAILS = {
    RequestResource.RESULT: "",
    RequestResource.STATUS: "/status",
    RequestResource.STATUS_STREAM: "/status/stream",
    RequestResource.CANCEL: "/cancel",
}


@dataclass
class Answer:
    """Response as it was sent."""

    method: str
    path: str
    status: int = 0
    media_type: str = ""
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path} -> {self.status} {bytes(self.body[:SHOWN_BYTES])!r}"


class Contract:
    """The documented answers of an installation."""

    def __init__(self, document: ApiDocument, catalog: Catalog) -> None:
        whole = _closed(document.of_installation(catalog, ""))
        schemas = whole["components"]["schemas"]
        for entry in list(schemas):
            if re.search(r"Output($|[A-Z])", entry):  # the scripted replica makes its own
                schemas[entry] = {}
        self.paths: Json = whole["paths"]
        self._root = {"components": whole["components"]}
        self._patterns = sorted(
            ((_pattern(path), path) for path in self.paths if "{" in path), key=_literals
        )

    def problems(self, answer: Answer) -> Iterator[str]:
        """What the document does not say of this answer."""
        if OUTSIDE.fullmatch(answer.path) or answer.method in ("OPTIONS", "QUERY"):
            return
        calls = self.calls(answer.path)
        call = calls.get("get" if answer.method == "HEAD" else answer.method.lower())
        if call is None:
            if answer.status not in (400, 401, 404, 405, *ANYWHERE):
                yield f"an undocumented call was answered: {answer}"
            return
        responses = call["responses"]
        described = responses.get(str(answer.status))
        if described is None:
            if answer.status in ANYWHERE or (answer.status == 400 and UNTRUSTED in str(answer)):
                described = responses.get("401", responses.get("404", {}))
            else:
                yield f"an undocumented status: {answer}"
                return
        if answer.method != "HEAD":
            yield from self._content_problems(answer, described.get("content", {}))

    def _content_problems(self, answer: Answer, content: Json) -> Iterator[str]:
        if not answer.body:
            return
        base = answer.media_type.partition(";")[0]
        media = content.get(answer.media_type, content.get(base, content.get("*/*")))
        if media is None:
            yield f"an undocumented media type, {answer.media_type}: {answer}"
        elif answer.media_type == "application/json":
            checker = OAS30Validator({**media["schema"], **self._root})
            packed = answer.body.startswith(GZIP)
            body = gzip.decompress(answer.body) if packed else answer.body
            for error in checker.iter_errors(json.loads(body)):
                yield f"{error.json_path}: {error.message}: {answer}"

    def calls(self, path: str) -> Mapping[str, Json]:
        """Documented calls of a path, by method.

        Calls about requests are documented under ``/queue``, streams under ``/run``.
        """
        path = path.replace("/comfyui/api/", "/comfyui/")  # every call is under both
        for candidate in (path, path.rstrip("/"), f"/run{path.rstrip('/')}"):
            if candidate in self.paths:
                return self.paths[candidate]
        for pattern, documented in self._patterns:
            if pattern.fullmatch(path):
                return self.paths[documented]
        about = parse(re.sub(r"^/(queue|run)?/?", "", path))
        if about is None:
            return {}
        tail = f"/requests/{{request_id}}{TAILS[about.part]}"
        below = (template for template in self.paths if template.startswith("/queue/"))
        return next(self.paths[template] for template in below if template.endswith(tail))


@functools.cache
def contract_of(catalog: Catalog, resources: Sequence[Resource[Any]] = RESOURCES) -> Contract:
    """Contract of an installation with this catalog. It is built once."""
    return Contract(create_app(resources).state.document, catalog)


class CheckedAnswers:
    """ASGI middleware, inside the rewriting of paths, that checks each answer."""

    def __init__(self, app: ASGIApp, contract: Contract, problems: list[str]) -> None:
        self._app = app
        self._contract = contract
        self._problems = problems

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = Answer(scope["method"], scope["path"])

        async def record(message: Message) -> None:
            _record(answer, message)
            await send(message)

        await self._app(scope, receive, record)
        if answer.complete:
            self._problems.extend(self._contract.problems(answer))


def _record(answer: Answer, message: Message) -> None:
    if message["type"] == "http.response.start":
        answer.status = message["status"]
        for name, value in message.get("headers", ()):
            if name.lower() == b"content-type":
                answer.media_type = value.decode()
    elif message["type"] == "http.response.body":
        chunk = message.get("body", b"")
        if answer.media_type == "application/json" or len(answer.body) < SHOWN_BYTES:
            answer.body += chunk  # files are not kept: tests measure memory
        answer.complete = not message.get("more_body", False)


def _pattern(path: str) -> re.Pattern[str]:
    parts: Sequence[str] = re.split(r"(\{\w+\})", path)
    return re.compile(
        "".join(
            (".+" if part[1:-1] in SLASHES else "[^/]+")
            if part.startswith("{")
            else re.escape(part)
            for part in parts
        )
    )


def _literals(route: tuple[re.Pattern[str], str]) -> int:
    return -len(re.sub(r"\{\w+\}", "", route[1]))


def _closed(value: Any) -> Any:
    """``value`` with objects that have no further fields.

    ``nullable`` beside a reference is read as generators of clients read it: null is allowed. For
    OpenAPI 3.0 itself it counts only beside a type.
    """
    if isinstance(value, list):
        return [_closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    closed = {key: _closed(inner) for key, inner in value.items()}
    if isinstance(value.get("properties"), dict) and value.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    if value.get("nullable") is True and "anyOf" in value:
        closed["anyOf"] = [*closed["anyOf"], {"enum": [None]}]
    return closed

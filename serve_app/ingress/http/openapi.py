"""Descriptions of calls. Each route declares its own beside its path, and the OpenAPI document
collects them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from serve_app.ingress.http.errors import Error, ValidationError
from serve_app.ingress.http.json_schema import Json, Mode, schema_of
from serve_app.ingress.http.route_scopes import ScopedRoute

VERSION = "3.0.4"
TAG = "darkroom"
"""Tag of Darkroom's own calls; other protocols and larger groups have theirs."""

JSON, EVENTS, ANY = "application/json", "text/event-stream", "*/*"

SECURITY: Json = {
    "Key": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Key id:secret`, or `Bearer id:secret`.",
    }
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """Parameter of a call."""

    name: str
    place: Literal["query", "path", "header"]
    description: str = ""
    type: Any = str
    required: bool = False


def in_query(name: str, description: str, type_: Any = str, *, required: bool = False) -> Parameter:
    return Parameter(name, "query", description, type_, required)


def in_path(name: str, description: str) -> Parameter:
    return Parameter(name, "path", description, required=True)


def in_header(name: str, description: str, type_: Any = str) -> Parameter:
    return Parameter(name, "header", description, type_)


@dataclass(frozen=True, slots=True)
class Answer:
    """Response with one status."""

    description: str
    content: Mapping[str, Any] = field(default_factory=dict[str, Any])  # media type → type


def answer(description: str, type_: Any, media_type: str = JSON) -> Answer:
    return Answer(description, {media_type: type_})


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """Error responses of a protocol."""

    body: Any
    meanings: Mapping[int, str] = field(default_factory=dict[int, str])  # other than ``MEANINGS``
    bodies: Mapping[int, Any] = field(default_factory=dict[int, Any])  # by status, if it differs

    def answers(self, statuses: Sequence[int]) -> dict[int, Answer]:
        meanings = {**MEANINGS, **self.meanings}
        return {
            status: answer(meanings[status], self.bodies.get(status, self.body))
            for status in sorted(set(statuses))
        }


MEANINGS: Mapping[int, str] = {
    400: "Not supported by this installation, or not possible in the present state.",
    401: "The key is missing or not valid.",
    403: "The key does not allow this call.",
    404: "Not found.",
    405: "The path does not take this method.",
    410: "Deleted.",
    412: "It exists already.",
    413: "Too large.",
    416: "The range is outside the file.",
    429: "Too many requests wait, or calls are open; `Retry-After` says when to try again.",
    499: "The request was cancelled.",
    500: "The attempt failed, or Darkroom has a defect.",
    503: "A service that Darkroom depends on does not answer.",
    504: "The request did not start within the time that the client set.",
    507: "Not enough disk space.",
}
"""Meanings of error statuses. A protocol says what it has beside or instead of them."""

FAL_ERRORS = ErrorFormat(
    Error, {422: "A field is not valid; `detail` names each."}, {422: ValidationError}
)


@dataclass(frozen=True, slots=True)
class Operation:
    """Description of one call."""

    name: str  # unique in the document
    summary: str
    responses: Mapping[int, Answer]
    errors: Sequence[int] = ()  # statuses; a call with a key adds 401, 403 and 429
    parameters: Sequence[Parameter] = ()
    body: Any = None  # type of a JSON body
    content: Mapping[str, Any] = field(default_factory=dict[str, Any])  # bodies of other types
    body_required: bool = True
    tag: str = TAG
    key: bool = True
    description: str | None = None
    error_format: ErrorFormat = FAL_ERRORS
    extensions: Mapping[str, Any] = field(default_factory=dict[str, Any])


def pascal(text: str) -> str:
    """``fal-ai/flux/dev`` as ``FalAiFluxDev``. Ids that differ in ``.`` and ``_`` stay apart."""
    spelled = re.sub(r"[._]", lambda match: {".": "Dot", "_": "_"}[match[0]], text)
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[-/]", spelled))


class DocumentedRoute(ScopedRoute):
    """Route with the descriptions of its calls, by method."""

    def __init__(
        self,
        path: str,
        handler: Callable[[HttpRequest], Awaitable[Response]],
        operations: Mapping[str, Operation],
        scope: str,
        methods: Sequence[str] = (),
    ) -> None:
        """``methods``: all methods of the route, if not each of them is documented."""
        super().__init__(path, handler, methods=methods or list(operations), scope=scope)
        self.operations = operations


Operations = Mapping[str, Mapping[str, Operation]]
"""Path → method in upper case → description."""


class Renderer:
    """Writes operations as OpenAPI, and collects the components that they refer to."""

    def __init__(self) -> None:
        self.components: Json = {}

    def paths(self, operations: Operations) -> Json:
        return {
            path: {method.lower(): self._operation(call) for method, call in calls.items()}
            for path, calls in operations.items()
        }

    def _operation(self, call: Operation) -> Json:
        statuses = [*call.errors, *([401, 403, 429] if call.key else [])]
        answers = {**call.responses, **call.error_format.answers(statuses)}
        written: Json = {
            "operationId": call.name,
            "summary": call.summary,
            "tags": [call.tag],
            "responses": {str(status): self._answer(reply) for status, reply in answers.items()},
            "security": [{"Key": []}] if call.key else [],
            **({} if call.description is None else {"description": call.description}),
            **call.extensions,
        }
        if call.parameters:
            written["parameters"] = [self._parameter(parameter) for parameter in call.parameters]
        taken = {**({} if call.body is None else {JSON: call.body}), **call.content}
        if taken:
            content = self._content(taken, "validation")
            written["requestBody"] = {"required": call.body_required, "content": content}
        return written

    def _answer(self, response: Answer) -> Json:
        content = self._content(response.content, "serialization")
        return {"description": response.description, **({"content": content} if content else {})}

    def _content(self, content: Mapping[str, Any], mode: Mode) -> Json:
        return {
            kind: {"schema": self._schema(body_type, mode)} for kind, body_type in content.items()
        }

    def _parameter(self, parameter: Parameter) -> Json:
        return {
            "name": parameter.name,
            "in": parameter.place,
            "description": parameter.description,
            "schema": self._schema(parameter.type, "validation"),
            **({"required": True} if parameter.required else {}),
        }

    def _schema(self, type_: Any, mode: Mode) -> Json:
        if isinstance(type_, dict):  # a schema, not a type
            return type_
        schema, components = schema_of(type_, mode)
        for name, component in components.items():
            if self.components.setdefault(name, component) != component:
                raise ValueError(f"Two types of the OpenAPI document are named {name}.")
        return schema

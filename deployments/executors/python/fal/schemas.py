"""JSON Schemas of a route, from the OpenAPI document of its app."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from deployments.executors.base import FILE_MARK

Schema = Mapping[str, Any]

REFERENCE = "#/components/schemas/"

FILE_FIELDS = frozenset({"url", "content_type", "file_name", "file_size"})
"""Fields by which a file of fal's toolkit is known: its class has any name."""

KINDS = ("image", "video", "audio", "file")
"""Kinds of files, as fal's toolkit names them in ``ui.field``."""

_URL_FIELD = re.compile(r"(?:^|_)urls?$", re.IGNORECASE)

_KIND_OF_NAME = re.compile(r"image|mask|video|audio", re.IGNORECASE)

_NO_FILES = re.compile(
    r"api|base|callback|checkpoint|endpoint|git|hook|hub|lora|model|page|proxy|repo|server|site"
    r"|weight",
    re.IGNORECASE,
)
"""Words in the names of URLs that are addresses, or weights that the app keeps."""


class NotServable(Exception):
    """A route that cannot be served. The text ends the sentence that names it."""


@dataclass(frozen=True, slots=True)
class RouteSchemas:
    """Schemas of one route: of its input, and of its output."""

    input: dict[str, Any]
    output: dict[str, Any]


def schemas_of(
    path: str, openapi: Schema, *, is_websocket: bool = False, reads_request: bool = False
) -> RouteSchemas:
    """Schemas of the POST route at ``path``, or of the messages of a websocket, which fal describes
    as such a route. ``reads_request``: it has the HTTP request as an argument, so that a body which
    the document does not describe has any fields. ``NotServable`` says what it has that a request
    cannot have."""
    if "{" in path:
        raise NotServable("has parameters in its path")
    operation = openapi.get("paths", {}).get(path, {}).get("post")
    if operation is None and is_websocket:
        operation = {}  # its messages are of any kind
    if operation is None:
        raise NotServable("is not in the app's OpenAPI document")
    known = cast("Mapping[str, Schema]", openapi.get("components", {}).get("schemas", {}))
    document = _Document(known)
    takes = document.input(operation)
    if reads_request and "requestBody" not in operation:
        takes["additionalProperties"] = True
    return RouteSchemas(takes, document.output(operation))


class _Document:
    """Schemas that an OpenAPI document has by name."""

    def __init__(self, known: Mapping[str, Schema]) -> None:
        self._known = known

    def input(self, operation: Schema) -> dict[str, Any]:
        schema = self._body(operation)
        query = [entry for entry in operation.get("parameters", ()) if entry.get("in") == "query"]
        properties = {**schema.get("properties", {})}
        required = [*schema.get("required", ())]
        for parameter in query:
            properties[parameter["name"]] = parameter.get("schema", {})
            required += [parameter["name"]] if parameter.get("required") else []
        whole = {**schema, "type": "object", "properties": properties}
        whole |= {"required": required} if required else {}
        return self._with_definitions(_with_marks(whole), is_input=True)

    def _body(self, operation: Schema) -> Schema:
        content = operation.get("requestBody", {}).get("content")
        if content is None:
            return {}
        json_body = content.get("application/json")
        if json_body is None:
            raise NotServable(f"takes {', '.join(content)}, and a request's input is JSON")
        schema = self._resolve(cast("Schema", json_body.get("schema", {})))
        # One optional model: FastAPI describes it as a union with null.
        branches = [self._resolve(branch) for branch in schema.get("anyOf", ())]
        objects = [branch for branch in branches if branch.get("type") == "object"]
        if len(objects) == 1 and len(branches) == 2:
            schema = objects[0]
        if schema.get("type", "object") != "object":
            raise NotServable(f"takes a value of type {schema['type']}, and an input is an object")
        return schema

    def output(self, operation: Schema) -> dict[str, Any]:
        answers = operation.get("responses", {})
        content = answers.get("200", answers.get("201", {})).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        # A route that yields: its result is its last value.
        schema = self._resolve(content.get("application/jsonl", {}).get("itemSchema", schema))
        if is_file(schema):
            schema = _file(schema, is_input=False)
        elif schema and schema.get("type") != "object":
            schema = {"type": "object", "properties": {"output": schema}}
        return self._with_definitions({"type": "object", **schema}, is_input=False)

    def _resolve(self, schema: Schema) -> Schema:
        """``schema``, or the one that it refers to."""
        name = str(schema.get("$ref", "")).removeprefix(REFERENCE)
        if name not in self._known:
            return schema
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return self._resolve({**self._known[name], **rest})

    def _with_definitions(self, schema: Schema, *, is_input: bool) -> dict[str, Any]:
        """``schema`` with all definitions that it needs, and with marks at files."""
        needed: dict[str, Any] = {}
        whole = self._rewritten(schema, needed, is_input=is_input)
        whole = cast("dict[str, Any]", whole)
        whole |= {"$defs": needed} if needed else {}
        return {**whole, "x-fal-order-properties": list(whole.get("properties", {}))}

    def _rewritten(self, value: Any, needed: dict[str, Any], *, is_input: bool) -> Any:
        if isinstance(value, list):
            items = cast("list[Any]", value)
            return [self._rewritten(item, needed, is_input=is_input) for item in items]
        if not isinstance(value, Mapping):
            return value
        fields = dict(cast("Schema", value))
        if "propertyName" in (fields.get("discriminator") or ()):
            del fields["discriminator"]  # OpenAPI's; the branches' constants say the same
        reference = fields.get("$ref")
        if isinstance(reference, str) and reference.startswith(REFERENCE):
            name = reference.removeprefix(REFERENCE)
            fields["$ref"] = f"#/$defs/{name}"
            if name not in needed and name in self._known:
                needed[name] = {}  # else a model that contains itself has no end
                known = _with_marks(self._known[name])
                if is_file(known):
                    needed[name] = _file(known, is_input=is_input)
                else:
                    needed[name] = self._rewritten(known, needed, is_input=is_input)
        return {
            key: self._rewritten(field, needed, is_input=is_input) for key, field in fields.items()
        }


def is_file(schema: Schema) -> bool:
    """True for a file of fal's toolkit."""
    return schema.get("type") == "object" and schema.get("properties", {}).keys() >= FILE_FIELDS


def _file(schema: Schema, *, is_input: bool) -> dict[str, Any]:
    """Schema of a file: in an input it may also be given by its URL alone."""
    kind = _kind_of_ui(schema) or _kind_of_text(str(schema.get("title", ""))) or "file"
    if not is_input:
        return {**schema, FILE_MARK: kind}
    url = {**schema["properties"]["url"], FILE_MARK: kind}
    by_fields = {**schema, "properties": {**schema["properties"], "url": url}}
    return {"anyOf": [{"type": "string", "format": "uri", FILE_MARK: kind}, by_fields]}


def _with_marks(schema: Schema) -> Schema:
    """``schema`` with marks at its fields that are URLs of files."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or is_file(schema):
        return schema
    marked = {
        name: _mark_field(name, field) if isinstance(field, Mapping) else field
        for name, field in cast("Mapping[str, Any]", properties).items()
    }
    return {**schema, "properties": marked}


def _mark_field(name: str, field: Schema) -> Schema:
    kind = _kind_of_ui(field)
    if kind is None and _URL_FIELD.search(name) and not _NO_FILES.search(name):
        kind = _kind_of_text(name) or "file"
    return field if kind is None else _mark(field, kind)


def _mark(field: Schema, kind: str) -> Schema:
    """``field`` with the mark at the texts in it."""
    if FILE_MARK in field:
        return field
    if field.get("type") == "string":
        return {**field, FILE_MARK: kind}
    marked = dict(field)
    if isinstance(items := field.get("items"), Mapping):
        marked["items"] = _mark(cast("Schema", items), kind)
    if isinstance(branches := field.get("anyOf"), list):
        marked["anyOf"] = [_mark(branch, kind) for branch in cast("Sequence[Schema]", branches)]
    return marked


def _kind_of_ui(schema: Schema) -> str | None:
    ui = schema.get("ui")
    kind = cast("Schema", ui).get("field") if isinstance(ui, Mapping) else None
    return kind if kind in KINDS else None


def _kind_of_text(text: str) -> str | None:
    match = _KIND_OF_NAME.search(text)
    kind = match.group().lower() if match else None
    return "image" if kind == "mask" else kind

"""Schemas of a Cog model: as its server reads them, and as the catalogue has them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

from deployments.executors.base import FILE_MARK
from serve_app.domain.endpoint import CONTEXT_MARK

Schema = Mapping[str, Any]

MODES = {"predict": ("Input", "Output"), "train": ("TrainingInput", "TrainingOutput")}
"""Mode of a Cog server → names of its schemas in an OpenAPI document."""

REQUESTS = {"predict": "PredictionRequest", "train": "TrainingRequest"}
"""Mode of a Cog server → name of the schema of a call's body."""

CONTEXT = "context"
"""Field of a call's body beside its input, which ``current_scope().context`` has in a model."""

CONTEXT_FIELD: Schema = {
    "title": "Context",
    "type": "object",
    "additionalProperties": {"type": "string"},
    "description": "What `current_scope().context` has in the model.",
    CONTEXT_MARK: True,
}

OUTPUT = "output"
"""Field of a request's output, since Cog's may be of any type and ours is an object."""

REFERENCE = "#/components/schemas/"
MAX_DEPTH = 32

FILE_FIELDS = {
    "url": {"type": "string", "description": "URL of the file."},
    "content_type": {"type": "string", "description": "Media type."},
    "file_name": {"type": "string"},
    "file_size": {"type": "integer", "description": "Size in bytes."},
}


def openapi(described: Schema) -> dict[str, Any]:
    """OpenAPI document, as ``cog build`` writes it to ``.cog/openapi_schema.json``. Without it a
    Cog server checks no input."""
    schemas = {
        name: {**described[mode][part], "title": name}
        for mode, names in MODES.items()
        if mode in described
        for part, name in zip(("input", OUTPUT), names, strict=True)
    }
    for mode, name in REQUESTS.items():
        if mode in described and described[mode][CONTEXT]:
            schemas[name] = {"type": "object", "properties": {CONTEXT: {"type": "object"}}}
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {},
        "components": {"schemas": schemas},
    }


def input_schema(document: Schema, mode: str = "predict") -> dict[str, Any]:
    """JSON Schema of a request's input: an OpenAPI document's own, where files are marked, what
    may be left out may be null, and other fields are refused."""
    resolved = _resolve_schema(document, MODES[mode][0])
    fields = cast("dict[str, Schema]", resolved.get("properties") or {})
    order = sorted(fields, key=lambda name: int(fields[name].get("x-order", 0)))
    properties = {name: _input(fields[name]) for name in order}
    if takes_context(document, mode) and CONTEXT not in fields:
        properties[CONTEXT] = dict(CONTEXT_FIELD)
        order.append(CONTEXT)
    schema: dict[str, Any] = {
        "title": "Input",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "x-fal-order-properties": order,
    }
    return schema | ({"required": resolved["required"]} if resolved.get("required") else {})


def takes_context(document: Schema, mode: str) -> bool:
    """True if the model reads what a call's body has beside its input."""
    schemas = cast("Schema", (document.get("components") or {}).get("schemas") or {})
    body = cast("Schema", schemas.get(REQUESTS[mode]) or {})
    return CONTEXT in (body.get("properties") or {})


def hides_context(document: Schema, mode: str) -> bool:
    """True if an input of the model has the name of what it also reads beside its input."""
    return takes_context(document, mode) and CONTEXT in (
        _resolve_schema(document, MODES[mode][0]).get("properties") or {}
    )


def output_schema(document: Schema, mode: str = "predict") -> dict[str, Any]:
    """JSON Schema of a request's output, which has Cog's in the field ``output``."""
    schema = marked_output(document, mode)
    inner = {"type": "string"} if is_text(schema) else _expand_files(schema)
    return {
        "title": "Output",
        "type": "object",
        "properties": {OUTPUT: {**inner, "title": "Output"}},
        "required": [OUTPUT],
        "x-fal-order-properties": [OUTPUT],
    }


def marked_output(document: Schema, mode: str = "predict") -> dict[str, Any]:
    """Schema of Cog's own output, whose files are marked texts."""
    return cast("dict[str, Any]", _mark_files(_resolve_schema(document, MODES[mode][1])))


def is_text(output: Schema) -> bool:
    """True if the output is a text that comes in parts."""
    return output.get("x-cog-array-display") == "concatenate"


def is_file(schema: Schema) -> bool:
    return FILE_MARK in schema


def _resolve_schema(document: Schema, name: str) -> dict[str, Any]:
    """Schema of an OpenAPI document, without references."""
    schemas = cast("Schema", (document.get("components") or {}).get("schemas") or {})

    def resolve(value: Any, depth: int) -> Any:
        if isinstance(value, list):
            return [resolve(item, depth) for item in cast("list[Any]", value)]
        if not isinstance(value, Mapping):
            return value
        schema = cast("Schema", value)
        reference = schema.get("$ref")
        if isinstance(reference, str) and depth < MAX_DEPTH:
            rest = {key: item for key, item in schema.items() if key != "$ref"}
            return resolve(
                {**schemas.get(reference.removeprefix(REFERENCE), {}), **rest}, depth + 1
            )
        return {key: resolve(item, depth) for key, item in schema.items() if key != "$ref"}

    return resolve(schemas.get(name, {}), 0)


def _mark_files(value: Any) -> Any:
    """``value`` with the mark of a file at each text that is a URI."""
    if isinstance(value, list):
        return [_mark_files(item) for item in cast("list[Any]", value)]
    if not isinstance(value, Mapping):
        return value
    schema = {key: _mark_files(item) for key, item in cast("Schema", value).items()}
    if schema.get("type") == "string" and schema.get("format") == "uri":
        schema[FILE_MARK] = _kind(str(schema.get("x-cog-accept", "")))
    return schema


def _kind(accept: str) -> str:
    """Kind of a file by what a predictor accepts, such as ``image/*``."""
    kinds = {pattern.strip().partition("/")[0] for pattern in accept.split(",")}
    kind = kinds.pop() if len(kinds) == 1 else ""
    return kind if kind in ("image", "video", "audio") else "file"


def _input(field: Schema) -> dict[str, Any]:
    schema = cast("dict[str, Any]", _mark_files(field))
    for part in schema.pop("allOf", ()):  # how Cog writes a reference with a default
        schema = {**part, **schema}
    nullable = schema.pop("nullable", False)
    if "enum" in schema and FILE_MARK not in schema:
        schema["enum"] = list(schema["enum"])
    if not nullable or "default" in schema:
        return schema
    outer = ("title", "description", "deprecated", "x-order")
    inner = {key: value for key, value in schema.items() if key not in outer}
    kept = {key: value for key, value in schema.items() if key in outer}
    return {**kept, "anyOf": [*inner.pop("anyOf", [inner]), {"type": "null"}]}


def _expand_files(value: Any) -> Any:
    """An output's schema with an object in place of each file, which clients get."""
    if isinstance(value, list):
        return [_expand_files(item) for item in cast("list[Any]", value)]
    if not isinstance(value, Mapping):
        return value
    schema = dict(cast("Schema", value))
    nullable = schema.pop("nullable", False)
    if FILE_MARK in schema:
        shown: dict[str, Any] = {
            "type": "object",
            "properties": deepcopy(FILE_FIELDS),
            "required": ["url"],
            FILE_MARK: schema[FILE_MARK],
        }
    else:
        shown = {key: _expand_files(item) for key, item in schema.items()}
    return {"anyOf": [shown, {"type": "null"}]} if nullable else shown

"""What the descriptions of all calls are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

VERSION = "3.0.4"
TAG = "darkroom"
"""Of Darkroom's own calls; other protocols and larger groups have theirs."""

TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "number"}
WHOLE: Json = {"type": "integer"}
YES_NO: Json = {"type": "boolean"}
OBJECT: Json = {"type": "object"}
TIME: Json = {"type": "string", "format": "date-time"}

SECURITY: Json = {
    "Key": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Key id:secret`; `Bearer id:secret` is taken too.",
    }
}


def reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def record(required: Mapping[str, Any], **optional: Json) -> Json:
    """An object with these fields."""
    schema: Json = {"type": "object", "properties": {**required, **optional}}
    return {**schema, "required": list(required)} if required else schema


def nullable(schema: Json) -> Json:
    if "$ref" in schema:
        return {"allOf": [schema], "nullable": True}
    return {**schema, "nullable": True}


def listed(items: Json) -> Json:
    return {"type": "array", "items": items}


def one_of(*values: str) -> Json:
    return {"type": "string", "enum": list(values)}


def answer(description: str, schema: Json, media_type: str = "application/json") -> Json:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def refusals(*statuses: int) -> Json:
    """Answers that are errors. Of 422 the shape is different, as fal has it."""
    return {
        str(status): answer(
            _REFUSALS[status], reference("ValidationError" if status == 422 else "Error")
        )
        for status in statuses
    }


_REFUSALS: Mapping[int, str] = {
    400: "Asked for what this installation does not do, or too early, or too late.",
    401: "No key, or one that is not valid.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    413: "Too large.",
    416: "The range lies outside the file.",
    422: "A field is wrong; `detail` names each.",
    429: "Too many requests wait; `Retry-After` says when to try again.",
    499: "The request was cancelled.",
    500: "The attempt failed, or there is a defect.",
    503: "Something that Darkroom stands on does not answer.",
    504: "The request did not start in the time that the client gave.",
    507: "Too little disk is free.",
}


def in_query(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def in_path(name: str, description: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": TEXT,
    }


def in_header(name: str, description: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": schema}


def operation(
    name: str,
    summary: str,
    responses: Json,
    *,
    tag: str,
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    key: bool = True,
    **extensions: Any,
) -> Json:
    """One call. ``name`` is unique in the document; ``body`` is the schema of a JSON body."""
    made: Json = {
        "operationId": name,
        "summary": summary,
        "tags": [tag],
        "responses": {**responses, **(refusals(401) if key else {})},
        "security": [{"Key": []}] if key else [],
        **extensions,
    }
    if parameters:
        made["parameters"] = list(parameters)
    if body is not None:
        content = {"application/json": {"schema": body}}
        made["requestBody"] = {"required": True, "content": content}
    return made


SHARED: Json = {
    "Error": record(
        {"detail": {"type": "string", "description": "What fal's clients show."}},
        message=TEXT,
        code={"type": "string", "description": "Stable; see docs/02-ingress-and-fal-protocol.md."},
        error_type={"type": "string", "description": "fal's word for it."},
        status={"type": "string", "description": "`NOT_FOUND` where a request is not there."},
    ),
    "ValidationError": record(
        {
            "detail": listed(
                record(
                    {
                        "loc": {"type": "array", "items": {}},
                        "msg": TEXT,
                        "type": TEXT,
                    },
                    url=TEXT,
                    ctx=OBJECT,
                    input={},
                )
            )
        },
        message=TEXT,
        code=TEXT,
    ),
    "LogLine": record({"message": TEXT, "level": TEXT, "source": TEXT, "timestamp": TIME}),
    "QueueStatus": record(
        {
            "status": one_of("IN_QUEUE", "IN_PROGRESS", "COMPLETED"),
            "request_id": TEXT,
            "response_url": TEXT,
            "status_url": TEXT,
            "cancel_url": TEXT,
        },
        gateway_request_id=TEXT,
        queue_position={"type": "integer", "description": "While it is queued; 0 is next."},
        logs=nullable(listed(reference("LogLine"))),
        metrics=record({}, inference_time=nullable(NUMBER)),
        error={"type": "string", "description": "Why it failed or was cancelled."},
        error_type=TEXT,
        darkroom={
            "type": "object",
            "description": "What fal does not tell: reason, stage, step, expected times.",
        },
    ),
    "CancelStatus": record(
        {"status": one_of("OK", "CANCELLATION_REQUESTED", "ALREADY_COMPLETED")}, message=TEXT
    ),
}
"""Schemas of every document."""

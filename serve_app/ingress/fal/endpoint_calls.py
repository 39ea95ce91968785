"""Descriptions of fal's calls: those of an endpoint, and those about its requests.

Their paths begin with ids of the catalog, so they are described for each endpoint, not by route.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from serve_app.catalog.catalog import CatalogEntry
from serve_app.ingress.fal.requests import CancelStatus
from serve_app.ingress.fal.status import QueueStatus
from serve_app.ingress.http.errors import Error, ValidationError
from serve_app.ingress.http.json_schema import Json, Url, reference
from serve_app.ingress.http.openapi import (
    EVENTS,
    FAL_ERRORS,
    JSON,
    Answer,
    Operation,
    Operations,
    answer,
    in_header,
    in_path,
    in_query,
    pascal,
)

YesNo = Literal["0", "1", "false", "true"]
HEADERS = (
    in_header("X-Fal-Request-Timeout", "Seconds within which the request has to start.", float),
    in_header("X-Darkroom-Deadline", "Seconds within which the request has to end.", float),
    in_header(
        "X-Darkroom-Max-Cost",
        "Most that the request may cost, such as `0.05` or `0.05 EUR`. If it costs more, or that "
        "is not known before, it is refused.",
    ),
    in_header(
        "X-Fal-Queue-Priority",
        "Priority within the tenant. `high` needs a key with the scope `priority`.",
        Literal["low", "normal", "high"],
    ),
    in_header(
        "X-Darkroom-Deterministic",
        "`1`: run in no batch with other requests. The same seed then gives the same bytes.",
        YesNo,
    ),
    in_header(
        "Idempotency-Key",
        "A second submit with the same key and the same body is the same request. 1 to 255 "
        "printable characters.",
    ),
    in_header(
        "X-Darkroom-Cache",
        "`allow`: with a seed, reuse the outcome of an earlier request with the same input.",
        Literal["allow", "no"],
    ),
    in_header("X-Darkroom-Preview", "`0`: make no previews while it runs.", YesNo),
)
REQUEST_ID = in_path("request_id", "The id from the response to the submit.")
WITH_LOGS = in_query(
    "logs", "Add the request's log. `1`, `true`, `yes` and `on` do; any other value does not.", str
)
WITH_RESULT = in_query(
    "result", "`1`: add the result at the end, so that no further call is needed for it.", YesNo
)
WITH_PREVIEWS = in_query(
    "previews", "`1`: add each new preview, as a data URI. Previews are made on demand.", YesNo
)
WEBHOOK = in_query("fal_webhook", "URL to call when the request has ended.", Url)
WEBHOOK_PROGRESS = in_query(
    "fal_webhook_progress", "`1`: call it also while the request runs.", Literal["0", "1"]
)
QUEUE_LENGTH = in_query(
    "fal_max_queue_length", "Refuse the request with 429 if this many are waiting.", int
)
AT_SUBMIT = (400, 403, 404, 413, 422, 429, 503, 507)
AT_END = (410, 499, 500, 504)

OUTCOME_ERRORS = replace(FAL_ERRORS, bodies={422: ValidationError | Error})
"""Errors of calls that answer with an outcome. An attempt can refuse the input as a whole."""


def calls_of_endpoint(entry: CatalogEntry) -> Operations:
    """All calls that run an endpoint."""
    endpoint_id = entry.endpoint.id
    streamed = f"/run/{endpoint_id}/stream"
    return {
        **submit_of_endpoint(entry, "/queue"),
        **{
            path: {"POST": _run(entry, path)} for path in (f"/run/{endpoint_id}", f"/{endpoint_id}")
        },
        streamed: {"POST": _stream(entry, streamed)},
    }


def submit_of_endpoint(entry: CatalogEntry, prefix: str) -> Operations:
    """Submit to the queue, which is below ``prefix``."""
    path = f"{prefix}/{entry.endpoint.id}"
    call = Operation(
        f"submit{pascal(path)}",
        f"Submit a request to {entry.endpoint.id}",
        {200: answer("The request is stored.", QueueStatus)},
        errors=AT_SUBMIT,
        parameters=(*HEADERS, WEBHOOK, WEBHOOK_PROGRESS, QUEUE_LENGTH),
        **_common_fields(entry),
    )
    return {path: {"POST": call}}


def _run(entry: CatalogEntry, path: str) -> Operation:
    content: dict[str, Any] = {JSON: reference(f"{pascal(entry.endpoint.id)}Output")}
    if entry.endpoint.streams:  # for `Accept: text/event-stream`
        content[EVENTS] = str
    return Operation(
        f"run{pascal(path)}",
        f"Run {entry.endpoint.id} and wait for its output",
        {200: Answer("The output.", content)},
        errors=(*AT_SUBMIT, *AT_END),
        parameters=(*HEADERS, WEBHOOK),
        error_format=OUTCOME_ERRORS,
        **_common_fields(entry),
    )


def _stream(entry: CatalogEntry, path: str) -> Operation:
    return Operation(
        f"stream{pascal(path)}",
        f"Run {entry.endpoint.id} and stream its progress",
        {200: answer("Statuses, and then the output.", str, EVENTS)},
        errors=(*AT_SUBMIT, *AT_END),
        parameters=HEADERS,
        error_format=OUTCOME_ERRORS,
        **_common_fields(entry),
    )


def _common_fields(entry: CatalogEntry) -> dict[str, Any]:
    extensions: Json = {"x-darkroom-demo": True} if entry.demo else {}
    if entry.missing:
        extensions["x-darkroom-not-served"] = entry.missing
    return {
        "tag": entry.endpoint.id,
        "body": reference(f"{pascal(entry.endpoint.id)}Input"),
        "description": entry.endpoint.description,
        "extensions": extensions,
    }


def calls_about_requests(app: str, prefix: str, outputs: list[str]) -> Operations:
    """Calls about a submitted request of ``app``. ``outputs``: components of possible outputs."""
    shapes = [reference(component) for component in outputs]
    output = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    base, name = f"{prefix}/{app}/requests/{{request_id}}", pascal(f"{prefix}/{app}")
    return {
        base: {"GET": _result(app, name, output)},
        f"{base}/status": {"GET": _status(app, name)},
        f"{base}/status/stream": {"GET": _status_stream(app, name)},
        f"{base}/cancel": {"PUT": _cancel(app, name)},
    }


def _result(app: str, name: str, output: Json) -> Operation:
    return Operation(
        f"result{name}",
        "Get the output, as `run` answers it. 400 before the end",
        {200: answer("The output.", output)},
        errors=(400, 404, 422, *AT_END, 503),
        parameters=(REQUEST_ID,),
        tag=app,
        error_format=OUTCOME_ERRORS,
    )


def _status(app: str, name: str) -> Operation:
    return Operation(
        f"status{name}",
        "Get the status of a request",
        {
            200: answer("The request has ended.", QueueStatus),
            202: answer("The request has not ended.", QueueStatus),
        },
        errors=(404,),
        parameters=(REQUEST_ID, WITH_LOGS, WITH_RESULT, WITH_PREVIEWS),
        tag=app,
    )


def _status_stream(app: str, name: str) -> Operation:
    return Operation(
        f"statusStream{name}",
        "Stream the status of a request: at once and at each change",
        {200: answer("Server-sent events.", str, EVENTS)},
        errors=(404,),
        parameters=(REQUEST_ID, WITH_LOGS, WITH_RESULT, WITH_PREVIEWS),
        tag=app,
    )


def _cancel(app: str, name: str) -> Operation:
    return Operation(
        f"cancel{name}",
        "Cancel a request",
        {
            200: answer("The request will never start.", CancelStatus),
            202: answer("The request stops at its next step.", CancelStatus),
            400: answer("The request had already ended.", CancelStatus),
        },
        errors=(404,),
        parameters=(REQUEST_ID,),
        tag=app,
    )

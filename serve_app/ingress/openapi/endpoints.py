"""The calls of the endpoints, as fal's clients make them."""

from __future__ import annotations

import re

from serve_app.catalog.catalog import CatalogEntry
from serve_app.ingress.fal.paths import app_of
from serve_app.ingress.openapi.dialect import components
from serve_app.ingress.openapi.parts import (
    NUMBER,
    TEXT,
    WHOLE,
    YES_NO,
    Json,
    answer,
    in_header,
    in_path,
    in_query,
    one_of,
    operation,
    reference,
    refusals,
)

HEADERS = (
    in_header("X-Fal-Request-Timeout", "Seconds within which the request has to start.", NUMBER),
    in_header("X-Darkroom-Deadline", "Seconds within which the request has to end.", NUMBER),
    in_header(
        "X-Fal-Queue-Priority",
        "Within the tenant; `high` takes a key with the scope `priority`.",
        one_of("low", "normal", "high"),
    ),
    in_header(
        "X-Darkroom-Deterministic",
        "`1`: it shares no forward with other requests; the same seed gives the same bytes.",
        one_of("0", "1"),
    ),
    in_header(
        "Idempotency-Key",
        "The same key with the same body is the same request; 1 to 255 printable characters.",
        TEXT,
    ),
    in_header(
        "X-Darkroom-Cache",
        "`allow`: with a seed, the outcome of an earlier request with the same input will do.",
        one_of("allow", "no"),
    ),
    in_header(
        "X-Darkroom-Preview", "`0`: no previews are made of it while it runs.", one_of("0", "1")
    ),
)
REQUEST_ID = in_path("request_id", "As the submit answered.")
WITH_LOGS = in_query("logs", "Add the request's own log.", YES_NO)
WEBHOOK = in_query("fal_webhook", "Called when the request has ended.", {**TEXT, "format": "uri"})
WEBHOOK_PROGRESS = in_query(
    "fal_webhook_progress", "`1`: call it while the request runs, too.", one_of("0", "1")
)
AT_SUBMIT = (400, 403, 404, 413, 422, 429, 503, 507)
AT_END = (499, 500, 504)


def schemas(entry: CatalogEntry) -> Json:
    """The schemas of an endpoint's input and output, under names that are its own."""
    name = pascal(entry.endpoint.id)
    return {
        **components(f"{name}Input", entry.schema.json_schema()),
        **components(f"{name}Output", entry.schema.output_schema()),
    }


def submit(entry: CatalogEntry, path: str) -> Json:
    """The path on which a request is submitted."""
    queue_length = in_query(
        "fal_max_queue_length", "Refuse with 429 when so many requests wait already.", WHOLE
    )
    call = operation(
        f"submit{pascal(path)}",
        f"Submit to {entry.endpoint.id}",
        {"200": answer("It is stored.", reference("QueueStatus")), **refusals(*AT_SUBMIT)},
        tag=entry.endpoint.id,
        parameters=(*HEADERS, WEBHOOK, WEBHOOK_PROGRESS, queue_length),
        body=reference(f"{pascal(entry.endpoint.id)}Input"),
        description=entry.endpoint.description,
        **_standing(entry),
    )
    return {path: {"post": call}}


def run(entry: CatalogEntry, path: str) -> Json:
    """A path that answers with the output."""
    name = pascal(entry.endpoint.id)
    call = operation(
        f"run{pascal(path)}",
        f"Run {entry.endpoint.id} and wait for its output",
        {
            "200": answer("The output.", reference(f"{name}Output")),
            **refusals(*AT_SUBMIT, *AT_END),
        },
        tag=entry.endpoint.id,
        parameters=(*HEADERS, WEBHOOK),
        body=reference(f"{name}Input"),
        description=entry.endpoint.description,
        **_standing(entry),
    )
    return {path: {"post": call}}


def streamed(entry: CatalogEntry, path: str) -> Json:
    """A path that answers with events, of which the last is the output."""
    call = operation(
        f"stream{pascal(path)}",
        f"Run {entry.endpoint.id} and see how far it is",
        {
            "200": answer("Statuses, then the output.", TEXT, "text/event-stream"),
            **refusals(*AT_SUBMIT, *AT_END),
        },
        tag=entry.endpoint.id,
        parameters=HEADERS,
        body=reference(f"{pascal(entry.endpoint.id)}Input"),
        description=entry.endpoint.description,
        **_standing(entry),
    )
    return {path: {"post": call}}


def about_requests(app: str, prefix: str, outputs: list[str]) -> Json:
    """The calls about a submitted request of ``app``. ``outputs`` name what it may answer."""
    base = f"{prefix}/{app}/requests/{{request_id}}"
    shapes = [reference(each) for each in outputs]
    output = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    status = reference("QueueStatus")
    parameters = (REQUEST_ID, WITH_LOGS)
    calls: dict[str, tuple[str, str, str, Json, tuple[Json, ...]]] = {
        "": (
            "get",
            "result",
            "What `run` would have answered; 400 before the end",
            {"200": answer("The output.", output), **refusals(400, 404, 422, *AT_END)},
            (REQUEST_ID,),
        ),
        "/status": (
            "get",
            "status",
            "How it stands",
            {
                "200": answer("It has ended.", status),
                "202": answer("It has not ended.", status),
                **refusals(404),
            },
            parameters,
        ),
        "/status/stream": (
            "get",
            "statusStream",
            "A status at once and at each change, as server-sent events",
            {"200": answer("Events.", TEXT, "text/event-stream"), **refusals(404)},
            parameters,
        ),
        "/cancel": (
            "put",
            "cancel",
            "Cancel it",
            {
                "200": answer("It never starts.", reference("CancelStatus")),
                "202": answer("It stops at its next step.", reference("CancelStatus")),
                "400": answer("It had ended.", reference("CancelStatus")),
                **refusals(404),
            },
            (REQUEST_ID,),
        ),
    }
    return {
        base + tail: {
            method: operation(
                f"{name}{pascal(prefix + '/' + app)}",
                summary,
                responses,
                tag=app,
                parameters=taken,
            )
        }
        for tail, (method, name, summary, responses, taken) in calls.items()
    }


def outputs_by_app(entries: list[CatalogEntry]) -> dict[str, list[str]]:
    """Several endpoints share the paths of their requests: all of one ``owner/alias``."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        endpoint_id = entry.endpoint.id
        found.setdefault(app_of(endpoint_id), []).append(f"{pascal(endpoint_id)}Output")
    return found


def pascal(text: str) -> str:
    """``fal-ai/flux/dev`` as ``FalAiFluxDev``; what two ids could share is told apart by ``_``."""
    spelled = re.sub(r"[._]", lambda match: {".": "Dot", "_": "_"}[match[0]], text)
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[-/]", spelled))


def _standing(entry: CatalogEntry) -> Json:
    found: Json = {"x-darkroom-demo": True} if entry.demo else {}
    return {**found, "x-darkroom-not-served": entry.missing} if entry.missing else found

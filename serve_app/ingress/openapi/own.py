"""The calls of Darkroom's own paths, and those of fal's that are refused."""

from __future__ import annotations

from serve_app.domain.request import CancelVerdict, State
from serve_app.ingress.openapi import (
    ledger,
    mcp,
    openai,
    operations,
    replicate,
    tokens,
    uploads,
    webhooks,
)
from serve_app.ingress.openapi.parts import (
    NUMBER,
    OBJECT,
    TEXT,
    TIME,
    WHOLE,
    YES_NO,
    Json,
    answer,
    in_header,
    in_path,
    in_query,
    listed,
    nullable,
    one_of,
    operation,
    record,
    reference,
    refusals,
)
from serve_app.tenants.keys import ADMIN, API, PRIORITY

TAG = "darkroom"
BINARY: Json = {"type": "string", "format": "binary"}
REQUEST_ID = in_path("request_id", "The id of a request of the key's tenant.")
FILE_KEY = in_path("key", "As in the URL that was handed out; it may have slashes in it.")

SCHEMAS: Json = {
    "Recipe": record(
        {
            "memory_gb": NUMBER,
            "precision": one_of("float32", "float16", "bfloat16", "float8"),
            "offload": one_of("none", "components", "blocks"),
            "hot": listed(TEXT),
        }
    ),
    "Model": record(
        {
            "endpoint_id": TEXT,
            "metadata": record(
                {
                    "display_name": TEXT,
                    "category": TEXT,
                    "description": TEXT,
                    "status": one_of("active", "inactive"),
                    "tags": listed(TEXT),
                    "license": TEXT,
                    "model_url": TEXT,
                }
            ),
            "darkroom_demo": YES_NO,
            "darkroom": record(
                {
                    "served": YES_NO,
                    "reason": nullable(TEXT),
                    "family": TEXT,
                    "weights": record({"source": nullable(TEXT), "revision": nullable(TEXT)}),
                    "recipes": listed(reference("Recipe")),
                }
            ),
        },
        openapi={"type": "object", "description": "With `expand=openapi-3.0`."},
    ),
    "Request": record(
        {
            "request_id": TEXT,
            "endpoint_id": TEXT,
            "prompt": nullable(TEXT),
            "state": one_of(*State),
            "priority": TEXT,
            "attempt": WHOLE,
            "failures": WHOLE,
            "created_at": TIME,
            "started_at": nullable(TIME),
            "finished_at": nullable(TIME),
            "replica_id": nullable(TEXT),
            "reuses": nullable(TEXT),
            "follows": nullable(TEXT),
            "retries_left": nullable(
                record({"timeout": WHOLE, "server_error": WHOLE, "connection_error": WHOLE})
            ),
            "forgotten": nullable(listed(one_of("input", "outcome"))),
            "run_s": nullable(NUMBER),
            "error": nullable(record({"code": TEXT, "message": TEXT})),
        },
        version=TEXT,
        input=OBJECT,
        waiting=nullable(OBJECT),
        progress=nullable(OBJECT),
        ends_at=nullable(TIME),
        log=listed(record({"at": TIME, "level": TEXT, "message": TEXT})),
    ),
    "ApiKey": record(
        {
            "key_id": TEXT,
            "alias": TEXT,
            "tenant": TEXT,
            "scopes": listed(one_of(API, PRIORITY, ADMIN)),
            "replay_undelivered": YES_NO,
            "created_at": TIME,
            "expires_at": nullable(TIME),
            "revoked_at": nullable(TIME),
        }
    ),
    **ledger.SCHEMAS,
    **operations.SCHEMAS,
    **openai.SCHEMAS,
    **replicate.SCHEMAS,
    **webhooks.SCHEMAS,
    **tokens.SCHEMAS,
    "Ready": record({"status": one_of("ok", "unavailable"), "checks": OBJECT}),
    "Document": {"type": "object", "description": "An OpenAPI 3.0 document."},
}


def paths() -> Json:
    return {
        **_catalogue(),
        **_requests(),
        **ledger.paths(),
        **operations.paths(),
        **webhooks.paths(),
        **_keys(),
        **tokens.paths(),
        **_installation(),
        **_files(),
        **uploads.paths(),
        **openai.paths(),
        **replicate.paths(),
        **mcp.paths(),
        **_refused(),
    }


def _catalogue() -> Json:
    page = record(
        {
            "models": listed(reference("Model")),
            "next_cursor": nullable(TEXT),
            "has_more": YES_NO,
        }
    )
    one_endpoint = in_query("endpoint_id", "Which endpoint.", TEXT)
    return {
        "/v1/models": {
            "get": operation(
                "listModels",
                "The endpoints, page by page",
                {"200": answer("A page.", page), **refusals(422)},
                tag=TAG,
                parameters=(
                    in_query("endpoint_id", "Only these; repeated, or with commas.", listed(TEXT)),
                    in_query("q", "Only those with these words.", TEXT),
                    in_query("category", "Such as text-to-image.", TEXT),
                    in_query("status", "", one_of("active", "inactive", "deprecated")),
                    in_query("expand", "", listed(one_of("openapi-3.0"))),
                    in_query("limit", "1 to 100; 50 unless given.", WHOLE),
                    in_query("cursor", "`next_cursor` of the page before.", TEXT),
                ),
            )
        },
        "/openapi.json": {
            "get": operation(
                "describeAll",
                "This document",
                {"200": answer("It.", reference("Document"))},
                tag=TAG,
            )
        },
        "/api/openapi/queue/openapi.json": {
            "get": operation(
                "describeEndpoint",
                "The queue's calls of one endpoint, as fal publishes them",
                {"200": answer("It.", reference("Document")), **refusals(404, 422)},
                tag=TAG,
                parameters=({**one_endpoint, "required": True},),
            )
        },
    }


def _requests() -> Json:
    page = record({"requests": listed(reference("Request")), "next_before": nullable(TEXT)})
    removed = record({"deleted_files": WHOLE, "later_files": WHOLE})
    return {
        "/v1/requests": {
            "get": operation(
                "listRequests",
                "The tenant's requests, newest first",
                {"200": answer("A page.", page), **refusals(422)},
                tag=TAG,
                parameters=(
                    in_query("state", "Only these.", listed(one_of(*State))),
                    in_query("endpoint_id", "Only this endpoint's.", TEXT),
                    in_query("since", "Submitted then or later.", TIME),
                    in_query("until", "Submitted before then.", TIME),
                    in_query("before", "`next_before` of the page before.", TEXT),
                    in_query("limit", "1 to 500; 50 unless given.", WHOLE),
                ),
            )
        },
        "/v1/requests/{request_id}": {
            "get": operation(
                "getRequest",
                "One request, with its input, its log, its place or its progress",
                {"200": answer("It.", reference("Request")), **refusals(404, 422)},
                tag=TAG,
                parameters=(
                    REQUEST_ID,
                    in_query("wait", "Seconds to wait for a change, 0 to 60.", WHOLE),
                    in_query("since", "`version` as seen last: another is told at once.", TEXT),
                ),
            ),
            "delete": operation(
                "deleteRequest",
                "Delete an ended request with its input, its outcome, its log and its files",
                {"200": answer("It is gone.", removed), **refusals(400, 404)},
                tag=TAG,
                parameters=(REQUEST_ID,),
            ),
        },
        "/v1/models/requests/{request_id}/payloads": {
            "delete": operation(
                "deletePayloads",
                "The same, as fal has it",
                {"200": answer("Each file.", record({"cdn_delete_results": listed(OBJECT)}))}
                | refusals(400, 404),
                tag=TAG,
                parameters=(REQUEST_ID,),
            )
        },
        "/v1/requests/{request_id}/events": {
            "get": operation(
                "streamRequestEvents",
                "What happens to a request, as it happens, until its final state",
                {
                    "200": answer("Server-sent events.", TEXT, "text/event-stream"),
                    "204": {"description": "All was told, up to the end."},
                    **refusals(404, 422),
                },
                tag=TAG,
                parameters=(
                    REQUEST_ID,
                    in_header("Last-Event-ID", "Go on behind this one.", WHOLE),
                ),
            )
        },
        "/v1/requests/{request_id}/preview": {
            "get": operation(
                "getPreview",
                "A small picture of what a running request makes; made while somebody asks",
                {
                    "200": {
                        "description": "The newest; `X-Darkroom-Step` tells after which step.",
                        "content": {
                            "image/jpeg": {"schema": {"type": "string", "format": "binary"}}
                        },
                    },
                    "204": {"description": "There is none yet."},
                    **refusals(404),
                },
                tag=TAG,
                parameters=(REQUEST_ID,),
            )
        },
        "/v1/requests/{request_id}/cancel": {
            "put": operation(
                "cancelRequest",
                "Cancel a queued or running request",
                {
                    "200": answer("What it did.", record({"verdict": one_of(*CancelVerdict)})),
                    **refusals(404),
                },
                tag=TAG,
                parameters=(REQUEST_ID,),
            )
        },
    }


def _keys() -> Json:
    page = record(
        {"keys": listed(reference("ApiKey")), "next_cursor": nullable(TEXT), "has_more": YES_NO}
    )
    wish = record(
        {},
        alias=TEXT,
        tenant={**TEXT, "description": "The caller's own unless given."},
        scopes=listed(one_of(API, PRIORITY, ADMIN)),
        expires_at=TIME,
        replay_undelivered={
            **YES_NO,
            "description": "A submit whose answer was lost is answered again.",
        },
    )
    fresh = record({"key_id": TEXT, "key_secret": TEXT, "key": TEXT})
    return {
        "/v1/keys": {
            "get": operation(
                "listKeys",
                "A tenant's API keys; takes the scope `admin`",
                {"200": answer("They, without secrets.", page), **refusals(403)},
                tag=TAG,
                parameters=(in_query("tenant", "The caller's own unless given.", TEXT),),
            ),
            "post": operation(
                "createKey",
                "Make an API key; takes the scope `admin`",
                {"201": answer("It; the secret is told this once.", fresh), **refusals(403, 422)},
                tag=TAG,
                body=wish,
            ),
        },
        "/v1/keys/{key_id}": {
            "delete": operation(
                "revokeKey",
                "End an API key; takes the scope `admin`",
                {"204": {"description": "It is revoked."}, **refusals(403, 404)},
                tag=TAG,
                parameters=(in_path("key_id", "The part of the key before the colon."),),
            )
        },
    }


def _installation() -> Json:
    figures = record(
        {
            "pools": OBJECT,
            "replicas": listed(OBJECT),
            "unplaceable": OBJECT,
            "endpoints": WHOLE,
            "demo": YES_NO,
            "checks": OBJECT,
        }
    )
    alive = {"200": answer("It lives.", record({"status": one_of("ok")}))}
    ready = {
        "200": answer("All that Darkroom stands on answers.", reference("Ready")),
        "503": answer("Something does not.", reference("Ready")),
    }
    return {
        "/v1/status": {
            "get": operation(
                "getStatus",
                "Pools, replicas, checks; takes the scope `admin`",
                {"200": answer("They.", figures), **refusals(403)},
                tag=TAG,
            )
        },
        "/healthz": _with_head("alive", "Whether the process lives", alive),
        "/readyz": _with_head("ready", "Whether it can serve", ready),
    }


def _with_head(name: str, summary: str, responses: Json) -> Json:
    return {
        "get": operation(name, summary, responses, tag=TAG, key=False),
        "head": operation(f"{name}Head", summary, responses, tag=TAG, key=False),
    }


def _files() -> Json:
    content = {
        "200": answer("The file.", BINARY, "*/*"),
        "206": answer("A range of it.", BINARY, "*/*"),
        "304": {"description": "It has not changed; nothing here does."},
        **refusals(404, 416),
    }
    reading = (FILE_KEY, in_header("Range", "One range of bytes.", TEXT))
    ticket = "Replicas' own: takes a ticket in the query"
    put = operation(
        "writeFile",
        ticket,
        {
            "200": answer("It is stored.", record({"key": TEXT, "size": WHOLE})),
            **refusals(403, 413),
        },
        tag="files",
        parameters=(FILE_KEY,),
        key=False,
    )
    put["requestBody"] = {"required": True, "content": {"*/*": {"schema": BINARY}}}
    gone = {"204": {"description": "It is gone."}, **refusals(403)}
    return {
        "/files/{key}": {
            "get": operation(
                "readFile", "A produced file", content, tag="files", parameters=reading, key=False
            ),
            "head": operation(
                "headFile", "Its headers", content, tag="files", parameters=reading, key=False
            ),
            "put": put,
            "delete": operation(
                "deleteFile", ticket, gone, tag="files", parameters=(FILE_KEY,), key=False
            ),
        }
    }


def _refused() -> Json:
    """What else fal has at its REST and CDN hosts."""
    found: Json = {}
    for base in ("rest", "cdn"):
        calls = {
            method: operation(
                f"{base}{method.title()}",
                "Anything else of fal's; not supported",
                refusals(400),
                tag="not supported",
                parameters=(in_path("path", "Anything."),),
                key=False,
            )
            for method in ("get", "post", "put")
        }
        found[f"/{base}/{{path}}"] = calls
    return found

"""The calls about a tenant's requests, in Darkroom's words."""

from __future__ import annotations

from serve_app.domain.request import CancelVerdict, State
from serve_app.ingress.openapi.parts import (
    NUMBER,
    OBJECT,
    TAG,
    TEXT,
    TIME,
    WHOLE,
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

REQUEST_ID = in_path("request_id", "The id of a request of the key's tenant.")

SCHEMAS: Json = {
    "Request": record(
        {
            "request_id": TEXT,
            "tenant": TEXT,
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
}


def paths() -> Json:
    page = record({"requests": listed(reference("Request")), "next_before": nullable(TEXT)})
    removed = record({"deleted_files": WHOLE, "later_files": WHOLE})
    return {
        "/v1/requests": {
            "get": operation(
                "listRequests",
                "The tenant's requests, newest first",
                {"200": answer("A page.", page), **refusals(403, 422)},
                tag=TAG,
                parameters=(
                    in_query("state", "Only these.", listed(one_of(*State))),
                    in_query("endpoint_id", "Only this endpoint's.", TEXT),
                    in_query("since", "Submitted then or later.", TIME),
                    in_query("until", "Submitted before then.", TIME),
                    in_query("tenant", "Another's, or `*` for all: takes the scope `admin`.", TEXT),
                    in_query("before", "`next_before` of the page before.", TEXT),
                    in_query("limit", "1 to 500; 50 unless given.", WHOLE),
                ),
            )
        },
        "/v1/requests/{request_id}": {
            "get": operation(
                "getRequest",
                "One request, with its input, its log, its place or its progress",
                {"200": answer("It.", reference("Request")), **refusals(403, 404, 422)},
                tag=TAG,
                parameters=(
                    REQUEST_ID,
                    in_query("tenant", "Whose it is: takes the scope `admin`.", TEXT),
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

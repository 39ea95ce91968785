"""The calls of Replicate's protocol."""

from __future__ import annotations

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
)
from serve_app.ingress.replicate.routes import PREFIX

TAG = "replicate"

_REFUSALS = {
    400: "Asked for what this installation does not do.",
    401: "No key, or one that is not valid.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    413: "Too large.",
    422: "A field is wrong; `invalid_fields` names each.",
    429: "Too many requests wait; `Retry-After` says when to try again.",
    503: "Something that Darkroom stands on does not answer.",
    507: "Too little disk is free.",
}
AT_SUBMIT = (400, 403, 404, 413, 422, 429, 503, 507)

OWNER, NAME = in_path("owner", "Of the model."), in_path("name", "Of the model.")
ONE = in_path("request_id", "Of the prediction.")
PREFER = in_header("Prefer", "`wait`, or `wait=n`: answer at the end, or after n seconds.", TEXT)
CURSOR = in_query("cursor", "As in `next` of the page before.", TEXT)

_WEBHOOK: Json = {
    "webhook": {**TEXT, "description": "Called with the prediction at each event."},
    "webhook_events_filter": listed(one_of("start", "output", "logs", "completed")),
}

SCHEMAS: Json = {
    "ReplicateError": record(
        {"title": TEXT, "detail": TEXT, "status": WHOLE},
        code=TEXT,
        invalid_fields=listed(record({"type": TEXT, "field": TEXT, "description": TEXT})),
    ),
    "ReplicatePrediction": record(
        {
            "id": TEXT,
            "model": TEXT,
            "version": TEXT,
            "input": OBJECT,
            "output": {"nullable": True, "description": "A URL, URLs, or the whole output."},
            "logs": TEXT,
            "error": nullable(TEXT),
            "status": one_of("starting", "processing", "succeeded", "failed", "canceled"),
            "created_at": TIME,
            "started_at": nullable(TIME),
            "completed_at": nullable(TIME),
            "metrics": record({}, predict_time=NUMBER, total_time=NUMBER),
            "data_removed": YES_NO,
            "urls": record({"get": TEXT, "cancel": TEXT, "stream": TEXT}),
        },
        darkroom_endpoint=TEXT,
        source=TEXT,
    ),
    "ReplicateFile": record(
        {
            "id": TEXT,
            "name": TEXT,
            "content_type": TEXT,
            "size": WHOLE,
            "etag": TEXT,
            "checksums": record({}, sha256=TEXT),
            "metadata": OBJECT,
            "created_at": TIME,
            "expires_at": nullable(TIME),
            "urls": record({"get": TEXT}),
        }
    ),
    "ReplicateVersion": record(
        {"id": TEXT, "created_at": TIME, "cog_version": TEXT, "openapi_schema": OBJECT}
    ),
    "ReplicateModel": record(
        {
            "url": TEXT,
            "owner": TEXT,
            "name": TEXT,
            "description": TEXT,
            "visibility": one_of("public"),
            "run_count": WHOLE,
            "latest_version": reference("ReplicateVersion"),
        },
        darkroom_endpoint=TEXT,
        darkroom_demo=YES_NO,
    ),
}


def paths() -> Json:
    calls: Json = {**_predictions(), **_models(), **_files(), **_rest()}
    for methods in calls.values():
        for call in methods.values():
            # `operation` adds this one in fal's shape.
            call["responses"] |= refusals(401)
    return {PREFIX + path: methods for path, methods in calls.items()}


def refusals(*statuses: int) -> Json:
    return {
        str(status): answer(_REFUSALS[status], reference("ReplicateError")) for status in statuses
    }


def _predictions() -> Json:
    prediction = reference("ReplicatePrediction")
    made = {
        "201": answer("It is stored, or with `Prefer: wait` it has ended.", prediction),
        "202": answer("With `Prefer: wait`: it has not ended yet.", prediction),
        **refusals(*AT_SUBMIT),
    }
    page = record(
        {"previous": nullable(TEXT), "next": nullable(TEXT), "results": listed(prediction)}
    )
    events = answer("Server-sent events: logs, output, error, done.", TEXT, "text/event-stream")
    return {
        "/predictions": {
            "post": operation(
                "replicateCreatePrediction",
                "Submit a request to the endpoint of a version, or of `owner/name`",
                made,
                tag=TAG,
                parameters=(PREFER,),
                body=record({"version": TEXT, "input": OBJECT}, **_WEBHOOK),
            ),
            "get": operation(
                "replicateListPredictions",
                "The tenant's requests, newest first",
                {"200": answer("A page.", page), **refusals(422)},
                tag=TAG,
                parameters=(CURSOR,),
            ),
        },
        "/models/{owner}/{name}/predictions": {
            "post": operation(
                "replicateCreateModelPrediction",
                "Submit a request to a model's endpoint",
                made,
                tag=TAG,
                parameters=(OWNER, NAME, PREFER),
                body=record({"input": OBJECT}, **_WEBHOOK),
            )
        },
        "/predictions/{request_id}": {
            "get": operation(
                "replicateGetPrediction",
                "How a request stands, and what it made",
                {"200": answer("It.", prediction), **refusals(404)},
                tag=TAG,
                parameters=(ONE,),
            )
        },
        "/predictions/{request_id}/cancel": {
            "post": operation(
                "replicateCancelPrediction",
                "Cancel a request",
                {"200": answer("How it stands.", prediction), **refusals(404)},
                tag=TAG,
                parameters=(ONE,),
            )
        },
        "/predictions/{request_id}/stream": {
            "get": operation(
                "replicateStreamPrediction",
                "The log of a request as it grows, then each file that it made",
                {"200": events, **refusals(404)},
                tag=TAG,
                parameters=(ONE,),
            )
        },
    }


def _models() -> Json:
    version, model = reference("ReplicateVersion"), reference("ReplicateModel")
    links: Json = {"previous": nullable(TEXT), "next": nullable(TEXT)}
    models = record({**links, "results": listed(model)})
    versions = record({**links, "results": listed(version)})
    base = "/models/{owner}/{name}"
    return {
        "/models": {
            "get": operation(
                "replicateListModels",
                "The endpoints that are served",
                {"200": answer("A page.", models), **refusals(422)},
                tag=TAG,
                parameters=(CURSOR,),
            )
        },
        base: {
            "get": operation(
                "replicateGetModel",
                "An endpoint, with its schemas",
                {"200": answer("It.", model), **refusals(404, 422)},
                tag=TAG,
                parameters=(OWNER, NAME),
            )
        },
        f"{base}/versions": {
            "get": operation(
                "replicateListVersions",
                "Its version: there is one",
                {"200": answer("It.", versions), **refusals(404, 422)},
                tag=TAG,
                parameters=(OWNER, NAME),
            )
        },
        f"{base}/versions/{{version}}": {
            "get": operation(
                "replicateGetVersion",
                "Its version, by id",
                {"200": answer("It.", version), **refusals(404, 422)},
                tag=TAG,
                parameters=(OWNER, NAME, in_path("version", "Its id.")),
            )
        },
    }


def _files() -> Json:
    kept = reference("ReplicateFile")
    page = record({"previous": nullable(TEXT), "next": nullable(TEXT), "results": listed(kept)})
    one = in_path("file_id", "As its `id`, which has slashes in it.")
    form = record({"content": {"type": "string", "format": "binary"}})
    file = operation(
        "replicateCreateFile",
        "Upload a file for an input",
        {"201": answer("It.", kept), **refusals(413, 422, 503, 507)},
        tag=TAG,
    )
    file["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    return {
        "/files": {
            "post": file,
            "get": operation(
                "replicateListFiles",
                "The tenant's uploads, the latest first",
                {"200": answer("A page.", page), **refusals(422)},
                tag=TAG,
                parameters=(CURSOR,),
            ),
        },
        "/files/{file_id}": {
            "get": operation(
                "replicateGetFile",
                "An upload",
                {"200": answer("It.", kept), **refusals(404)},
                tag=TAG,
                parameters=(one,),
            ),
            "delete": operation(
                "replicateDeleteFile",
                "Delete an upload",
                {"204": {"description": "It is gone."}, **refusals(404)},
                tag=TAG,
                parameters=(one,),
            ),
        },
    }


def _rest() -> Json:
    account = operation(
        "replicateGetAccount",
        "The key's tenant",
        {"200": answer("It.", record({"type": TEXT, "username": TEXT, "name": TEXT}))},
        tag=TAG,
    )
    secret = operation(
        "replicateGetWebhookSecret",
        "What a receiver checks signatures of webhooks with",
        {"200": answer("It.", record({"key": TEXT}))},
        tag=TAG,
    )
    return {
        "/account": {"get": account},
        "/webhooks/default/secret": {"get": secret},
    }

"""The calls of fal's uploads."""

from __future__ import annotations

from serve_app.ingress.openapi.parts import (
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
    Json,
    answer,
    in_header,
    in_path,
    listed,
    one_of,
    operation,
    record,
    refusals,
)

TAG = "uploads"
BINARY: Json = {"type": "string", "format": "binary"}
KEY = in_path("key", "As in the URL that was handed out; it has slashes in it.")
UPLOAD_ID = in_path("upload_id", "As in the URL that was handed out: to know it is enough.")
LIFECYCLE = in_header(
    "X-Fal-Object-Lifecycle",
    'JSON: `{"expiration_duration_seconds": 3600}`. The same ending in -Preference will do.',
    TEXT,
)
NAME = in_header("X-Fal-File-Name", "Its name and its extension are kept.", TEXT)
REFUSED = (413, 422, 507)
_COUNTS = ("deleted_files", "later_files")


def paths() -> Json:
    announced = record({}, file_name=TEXT, content_type=TEXT)
    urls = record({"upload_url": TEXT, "file_url": TEXT})
    place = answer("Where to PUT it, and where it will be.", urls)
    token = record(
        {"token": TEXT, "token_type": one_of("Bearer"), "base_url": TEXT, "expires_at": TIME}
    )
    begun = answer(
        "Parts go to `{access_url}/multipart/{uploadId}/{number}`.",
        record({"access_url": TEXT, "uploadId": TEXT}),
    )
    part = record({"partNumber": WHOLE, "etag": TEXT})
    joined = record({"access_url": TEXT, "file_url": TEXT, "file_size": NUMBER})
    return {
        "/v1/uploads/{key}": {
            "delete": operation(
                "deleteUpload",
                "Deletes a file that the tenant has uploaded",
                {
                    "200": answer("Now or later.", record(dict.fromkeys(_COUNTS, WHOLE))),
                    **refusals(404),
                },
                tag=TAG,
                parameters=(KEY,),
            )
        },
        "/rest/storage/auth/token": {
            "post": operation(
                "uploadToken", "A token to upload with", {"200": answer("It.", token)}, tag=TAG
            )
        },
        "/rest/storage/upload/initiate": {
            "post": operation(
                "initiateUpload",
                "A place for one file",
                {"200": place, **refusals(422, 507)},
                tag=TAG,
                parameters=(LIFECYCLE,),
                body=announced,
            )
        },
        "/rest/storage/upload/initiate-multipart": {
            "post": operation(
                "initiateMultipartUpload",
                "A place for a file in parts",
                {"200": place, **refusals(422, 507)},
                tag=TAG,
                parameters=(LIFECYCLE,),
                body=announced,
            )
        },
        "/cdn/files/upload": {
            "post": _binary(
                operation(
                    "upload",
                    "The body is a file; takes a token or a key",
                    {"200": answer("It is stored.", record({"access_url": TEXT}))}
                    | refusals(*REFUSED),
                    tag=TAG,
                    parameters=(NAME, LIFECYCLE),
                )
            )
        },
        "/cdn/files/upload/multipart": {
            "post": operation(
                "beginMultipartUpload",
                "Begins a file in parts; takes a token or a key",
                {"200": begun, **refusals(422, 507)},
                tag=TAG,
                parameters=(NAME, LIFECYCLE),
            )
        },
        "/files/{key}/upload/{upload_id}": {
            "put": _binary(
                operation(
                    "uploadContent",
                    "The file, to the URL that was handed out",
                    {"200": answer("It is stored.", record({"file_url": TEXT}))}
                    | refusals(403, 404, 413, 507),
                    tag=TAG,
                    parameters=(KEY, UPLOAD_ID),
                    key=False,
                )
            )
        },
        "/files/{key}/multipart/{upload_id}/{number}": {
            "put": _binary(
                operation(
                    "uploadPart",
                    "One part; its ETag is in the header too",
                    {"200": answer("It is stored.", part), **refusals(403, 404, *REFUSED)},
                    tag=TAG,
                    parameters=(KEY, UPLOAD_ID, in_path("number", "From 1 to 10000.")),
                    key=False,
                )
            )
        },
        "/files/{key}/multipart/{upload_id}/complete": {
            "post": operation(
                "completeMultipartUpload",
                "The file of these parts",
                {"200": answer("It is stored.", joined), **refusals(404, 422, 507)},
                tag=TAG,
                parameters=(KEY, UPLOAD_ID),
                body=record({"parts": listed(part)}),
                key=False,
            )
        },
    }


def _binary(call: Json) -> Json:
    content = {"*/*": {"schema": BINARY}}
    return {**call, "requestBody": {"required": True, "content": content}}

"""The calls that read and write files."""

from __future__ import annotations

from serve_app.ingress.openapi.parts import (
    TEXT,
    WHOLE,
    Json,
    answer,
    in_header,
    in_path,
    operation,
    record,
    refusals,
)

BINARY: Json = {"type": "string", "format": "binary"}
FILE_KEY = in_path("key", "As in the URL that was handed out; it may have slashes in it.")


def paths() -> Json:
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

"""The one path of the Model Context Protocol."""

from __future__ import annotations

from serve_app.ingress.mcp.routes import PATH
from serve_app.ingress.openapi.parts import (
    OBJECT,
    TEXT,
    WHOLE,
    Json,
    answer,
    one_of,
    operation,
    record,
    reference,
    refusals,
)

TAG = "mcp"


def paths() -> Json:
    answered = answer("The answer, or events that end with it.", OBJECT)
    answered["content"]["text/event-stream"] = {"schema": TEXT}
    taken = {"200": answered, "202": {"description": "A notification was taken."}}
    mistake = record({"jsonrpc": one_of("2.0"), "error": record({"code": WHOLE, "message": TEXT})})
    call = operation(
        "callMcp",
        "One message of the Model Context Protocol (streamable HTTP, stateless)",
        {**taken, **refusals(413), "400": answer("No message of the protocol.", mistake)},
        tag=TAG,
        body=record({"jsonrpc": TEXT, "method": TEXT}, params=OBJECT),
    )
    no_session = {"405": answer("There are no sessions here.", reference("Error"))}
    return {
        PATH: {
            "post": call,
            "get": operation("streamMcp", "Refused", no_session, tag=TAG),
            "delete": operation("endMcp", "Refused", no_session, tag=TAG),
        }
    }

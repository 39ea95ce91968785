"""The calls that make tokens for browsers."""

from __future__ import annotations

from serve_app.ingress.openapi.parts import (
    TEXT,
    WHOLE,
    Json,
    answer,
    listed,
    operation,
    record,
    reference,
    refusals,
)

SCHEMAS: Json = {
    "NewToken": {
        **record({}, allowed_apps=listed(TEXT), app=TEXT, token_expiration=WHOLE, duration=WHOLE),
        "description": "What it is for, and for how many seconds; at most 3600, 120 unless given.",
    }
}


def paths() -> Json:
    return {
        path: {
            "post": operation(
                f"issue{name}Token",
                "A token for the streams and realtime sessions of some endpoints",
                {"200": answer("It.", TEXT), **refusals(403, 422)},
                tag="tokens",
                body=reference("NewToken"),
            )
        }
        for path, name in (
            ("/rest/tokens", ""),
            ("/rest/tokens/", "Short"),
            ("/rest/tokens/realtime", "Realtime"),
        )
    }

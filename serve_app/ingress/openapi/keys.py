"""The calls that make, list and end API keys."""

from __future__ import annotations

from serve_app.ingress.openapi.parts import (
    TAG,
    TEXT,
    TIME,
    YES_NO,
    Json,
    answer,
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

SCHEMAS: Json = {
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
}


def paths() -> Json:
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
                {"200": answer("They, without secrets.", page), **refusals(403, 422)},
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

"""The calls about webhooks."""

from __future__ import annotations

from serve_app.domain.webhook import DeliveryState
from serve_app.ingress.openapi.parts import (
    NUMBER,
    TEXT,
    TIME,
    WHOLE,
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

TAG = "webhooks"
REQUEST_ID = in_path("request_id", "The id of a request of the tenant.")
TENANT = in_query("tenant", "The caller's own unless given; another takes the scope `admin`.", TEXT)

_DELIVERY: Json = {
    "request_id": TEXT,
    "delivery_id": nullable(TEXT),
    "url": TEXT,
    "state": one_of(*DeliveryState),
    "tries": WHOLE,
    "next_try_at": nullable(TIME),
    "created_at": nullable(TIME),
    "ended_at": nullable(TIME),
    "status": nullable(WHOLE),
    "error": nullable(TEXT),
}
_TRY = record({"at": TIME, "took_s": NUMBER, "status": nullable(WHOLE), "error": nullable(TEXT)})

SCHEMAS: Json = {
    "WebhookDelivery": record(_DELIVERY, log=listed(_TRY)),
    "Jwks": record({"keys": listed({"type": "object", "description": "A JSON Web Key."})}),
}


def paths() -> Json:
    return {**_deliveries(), **_own(), **_keys()}


def _deliveries() -> Json:
    page = record({"webhooks": listed(reference("WebhookDelivery")), "next_before": nullable(TEXT)})
    one = {"200": answer("How it stands.", reference("WebhookDelivery"))}
    settled = [state for state in DeliveryState if state is not DeliveryState.AWAITED]
    return {
        "/v1/webhooks": {
            "get": operation(
                "listWebhooks",
                "Deliveries of requests that have ended, newest first",
                {"200": answer("A page.", page), **refusals(403, 422)},
                tag=TAG,
                parameters=(
                    in_query("state", "Only these.", one_of(*settled)),
                    in_query("before", "`next_before` of the page before.", TEXT),
                    in_query("limit", "1 to 500; 50 unless given.", WHOLE),
                    TENANT,
                ),
            )
        },
        "/v1/requests/{request_id}/webhook": {
            "get": operation(
                "getWebhook",
                "The webhook of a request, with every try",
                {**one, **refusals(403, 404)},
                tag=TAG,
                parameters=(REQUEST_ID, TENANT),
            )
        },
        "/v1/requests/{request_id}/webhook/redeliver": {
            "put": operation(
                "redeliverWebhook",
                "Send it again, with the same body and the same `webhook-id`",
                {**one, **refusals(400, 403, 404)},
                tag=TAG,
                parameters=(REQUEST_ID, TENANT),
            )
        },
    }


def _own() -> Json:
    told = record(
        {
            "delivered": YES_NO,
            "took_s": NUMBER,
            "status": nullable(WHOLE),
            "error": nullable(TEXT),
        }
    )
    return {
        "/v1/webhooks/test": {
            "post": operation(
                "testWebhook",
                "Send a signed test to a URL, once",
                {"200": answer("What the receiver did.", told), **refusals(422)},
                tag=TAG,
                body=record({"url": TEXT}),
            )
        },
        "/v1/webhooks/secret": {
            "get": operation(
                "getWebhookSecret",
                "The tenant's secrets of Standard Webhooks, the oldest first",
                {"200": answer("They.", record({"secrets": listed(TEXT)}))},
                tag=TAG,
            )
        },
    }


def _keys() -> Json:
    known = record({"keys": listed(record({"kid": TEXT, "signs": YES_NO}))})
    jwks = {"200": answer("A JSON Web Key Set.", reference("Jwks"))}
    at_once = in_query("at_once", "1: it signs now, and the others are gone.", one_of("0", "1"))
    return {
        "/v1/webhooks/rotate": {
            "put": operation(
                "rotateWebhookKey",
                "Announce another signing key; takes the scope `admin`",
                {"200": answer("Those that are known now.", known), **refusals(403, 422)},
                tag=TAG,
                parameters=(at_once,),
            )
        },
        "/.well-known/jwks.json": {
            "get": operation("jwks", "What webhooks are checked with", jwks, tag=TAG, key=False)
        },
        "/rest/.well-known/jwks.json": {
            "get": operation("restJwks", "The same, where fal has it", jwks, tag=TAG, key=False)
        },
    }

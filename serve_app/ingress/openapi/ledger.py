"""The calls that look back: usage, and requests that have ended."""

from __future__ import annotations

from serve_app.domain.timeframe import Timeframe
from serve_app.ingress.analytics import METRICS
from serve_app.ingress.openapi.parts import (
    NUMBER,
    TAG,
    TEXT,
    TIME,
    WHOLE,
    YES_NO,
    Json,
    answer,
    in_query,
    listed,
    nullable,
    one_of,
    operation,
    record,
    reference,
    refusals,
)

CURSOR = in_query("cursor", "`next_cursor` of the page before.", TEXT)
PAGED: Json = {"next_cursor": nullable(TEXT), "has_more": YES_NO}
START = in_query("start", "A date or time; a day before the end unless given.", TEXT)
END = in_query("end", "A date or time, exclusive; now unless given.", TEXT)
TIMES = (
    START,
    END,
    in_query("timeframe", "By the length unless given.", one_of(*Timeframe)),
    in_query("timezone", "Whose days and months; UTC unless given.", TEXT),
    in_query("bound_to_timeframe", "Widen to whole buckets, or not.", YES_NO),
    in_query("limit", "Buckets, 1 to 1000; 100 unless given.", WHOLE),
    CURSOR,
)

SCHEMAS: Json = {
    "UsageResult": record(
        {
            "endpoint_id": TEXT,
            "unit": one_of("megapixels", "seconds", "units"),
            "quantity": NUMBER,
            "unit_price": {**NUMBER, "description": "0: nothing is charged here."},
            "cost": NUMBER,
            "currency": TEXT,
            "darkroom": record({"requests": WHOLE, "run_s": NUMBER, "steps": WHOLE}),
        }
    ),
    "Analytics": record(
        {"endpoint_id": TEXT},
        **{name: nullable(NUMBER) if name.startswith("p") else WHOLE for name in METRICS},
    ),
    "EndedRequest": record(
        {
            "request_id": TEXT,
            "endpoint_id": TEXT,
            "sent_at": TIME,
            "started_at": nullable(TIME),
            "ended_at": TIME,
            "status_code": WHOLE,
            "duration": {
                **nullable(NUMBER),
                "description": "Seconds of its last attempt; null: it never started.",
            },
        },
        json_input={"nullable": True, "description": "Null: it was not to be kept."},
        json_output={"nullable": True, "description": "Null: it was not to be kept."},
    ),
}


def paths() -> Json:
    return {**_usage(), **_analytics(), **_ended()}


def _analytics() -> Json:
    results = listed(reference("Analytics"))
    bucket = record({"bucket": TIME, "results": results})
    page = record(PAGED, time_series=listed(bucket), summary=results)
    metrics = one_of("time_series", "summary", *METRICS)
    return {
        "/v1/models/analytics": {
            "get": operation(
                "getAnalytics",
                "How many of the tenant's requests ended, how, and how long they took",
                {"200": answer("A page of buckets.", page), **refusals(422)},
                tag=TAG,
                parameters=(
                    {**in_query("endpoint_id", "1 to 50.", listed(TEXT)), "required": True},
                    *TIMES,
                    in_query(
                        "expand", "`time_series` and all metrics unless given.", listed(metrics)
                    ),
                ),
            )
        }
    }


def _usage() -> Json:
    bucket = record({"bucket": TIME, "results": listed(reference("UsageResult"))})
    page = record(PAGED, time_series=listed(bucket), summary=listed(reference("UsageResult")))
    return {
        "/v1/models/usage": {
            "get": operation(
                "getUsage",
                "What the tenant has consumed, by time and endpoint",
                {"200": answer("A page of buckets.", page), **refusals(422)},
                tag=TAG,
                parameters=(
                    in_query("endpoint_id", "Only of these, at most 50.", listed(TEXT)),
                    *TIMES,
                    in_query(
                        "expand",
                        "`time_series` unless given.",
                        listed(one_of("time_series", "summary")),
                    ),
                ),
            )
        }
    }


def _ended() -> Json:
    page = record({"items": listed(reference("EndedRequest")), **PAGED})
    one_endpoint = in_query("endpoint_id", "Which endpoint's.", TEXT)
    return {
        "/v1/models/requests/by-endpoint": {
            "get": operation(
                "listEndedRequests",
                "The tenant's ended requests of an endpoint, the latest end first",
                {"200": answer("A page.", page), **refusals(422)},
                tag=TAG,
                parameters=(
                    {**one_endpoint, "required": True},
                    START,
                    END,
                    in_query("status", "", one_of("success", "error", "user_error")),
                    in_query("request_id", "Only this one.", TEXT),
                    in_query("expand", "Inputs and outputs.", listed(one_of("payloads"))),
                    in_query("sort_by", "The only order.", one_of("ended_at")),
                    in_query("limit", "1 to 100; 50 unless given.", WHOLE),
                    CURSOR,
                ),
            )
        }
    }

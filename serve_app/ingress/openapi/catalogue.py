"""The calls about what is served, and the documents of all calls."""

from __future__ import annotations

from serve_app.ingress.openapi.parts import (
    NUMBER,
    TAG,
    TEXT,
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

SCHEMAS: Json = {
    "Recipe": record(
        {
            "memory_gb": NUMBER,
            "precision": one_of("float32", "float16", "bfloat16", "float8"),
            "offload": one_of("none", "components", "blocks"),
            "compile": YES_NO,
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
    "Price": record(
        {
            "endpoint_id": TEXT,
            "unit_price": {**NUMBER, "description": "0: nothing is charged here."},
            "unit": one_of("megapixels", "seconds", "units"),
            "currency": TEXT,
        }
    ),
    "Document": {"type": "object", "description": "An OpenAPI 3.0 document."},
}


def paths() -> Json:
    page = record(
        {
            "models": listed(reference("Model")),
            "next_cursor": nullable(TEXT),
            "has_more": YES_NO,
        }
    )
    text = answer("Markdown.", TEXT, "text/plain; charset=utf-8")
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
        **_prices(),
        "/llms.txt": {
            "get": operation(
                "tellAll", "The endpoints in words, for programs", {"200": text}, tag=TAG
            )
        },
        "/models/{endpoint_id}/llms.txt": {
            "get": operation(
                "tellEndpoint",
                "An endpoint in words: its fields, and calls that work as they are",
                {"200": text, **refusals(404)},
                tag=TAG,
                parameters=(in_path("endpoint_id", "Which endpoint; it has slashes in it."),),
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


def _prices() -> Json:
    page = record(
        {"prices": listed(reference("Price")), "next_cursor": nullable(TEXT), "has_more": YES_NO}
    )
    kinds = one_of("historical_api_price", "unit_price")
    some = in_query("endpoint_id", "1 to 50; repeated, or with commas.", listed(TEXT))
    return {
        "/v1/models/pricing": {
            "get": operation(
                "listPrices",
                "What endpoints cost, and by which unit they are counted",
                {"200": answer("They are free.", page), **refusals(404, 422)},
                tag=TAG,
                parameters=({**some, "required": True},),
            )
        },
        "/v1/models/pricing/estimate": {
            "post": operation(
                "estimateCost",
                "What so many calls, or units, would cost",
                {
                    "200": answer(
                        "Nothing.",
                        record({"estimate_type": kinds, "total_cost": NUMBER, "currency": TEXT}),
                    ),
                    **refusals(404, 413, 422),
                },
                tag=TAG,
                body=record(
                    {
                        "estimate_type": kinds,
                        "endpoints": {
                            "type": "object",
                            "minProperties": 1,
                            "additionalProperties": record(
                                {}, call_quantity=NUMBER, unit_quantity=NUMBER
                            ),
                        },
                    }
                ),
            )
        },
    }

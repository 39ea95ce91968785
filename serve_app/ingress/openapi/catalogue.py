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

"""Under which name an endpoint's input takes the format of its files."""

from __future__ import annotations

from typing import Any

from serve_app.cli.client import Client

NAMES = ("output_format", "format")  # fal's endpoints have one or the other


def format_field(client: Client, endpoint: str) -> str | None:
    """The name, as the endpoint's schema has it; None: its input has no such field."""
    listed = client.get("/v1/models", endpoint_id=endpoint, expand="openapi-3.0")["models"]
    if not listed:  # The answer to the request will tell.
        return NAMES[0]
    return described_field(endpoint, listed[0]["openapi"])


def described_field(endpoint: str, description: dict[str, Any]) -> str | None:
    """The name, in the endpoint's OpenAPI document."""
    body = description["paths"][f"/{endpoint}"]["post"]["requestBody"]
    reference: str = body["content"]["application/json"]["schema"]["$ref"]
    schema = description["components"]["schemas"][reference.rpartition("/")[2]]
    fields = schema.get("properties")
    if not fields:  # It takes any object.
        return NAMES[0]
    return next((name for name in NAMES if name in fields), None)

"""The calls of all paths but the endpoints' own, and those of fal's that are refused."""

from __future__ import annotations

from serve_app.ingress.openapi import (
    catalogue,
    files,
    installation,
    keys,
    ledger,
    mcp,
    openai,
    operations,
    replicate,
    requests,
    tokens,
    uploads,
    webhooks,
)
from serve_app.ingress.openapi.parts import Json, in_path, operation, refusals

SCHEMAS: Json = {
    **catalogue.SCHEMAS,
    **requests.SCHEMAS,
    **keys.SCHEMAS,
    **ledger.SCHEMAS,
    **operations.SCHEMAS,
    **openai.SCHEMAS,
    **replicate.SCHEMAS,
    **webhooks.SCHEMAS,
    **tokens.SCHEMAS,
    **installation.SCHEMAS,
}


def paths() -> Json:
    return {
        **catalogue.paths(),
        **requests.paths(),
        **ledger.paths(),
        **operations.paths(),
        **webhooks.paths(),
        **keys.paths(),
        **tokens.paths(),
        **installation.paths(),
        **files.paths(),
        **uploads.paths(),
        **openai.paths(),
        **replicate.paths(),
        **mcp.paths(),
        **_refused(),
    }


def _refused() -> Json:
    """What else fal has at its REST and CDN hosts."""
    found: Json = {}
    for base in ("rest", "cdn"):
        calls = {
            method: operation(
                f"{base}{method.title()}",
                "Anything else of fal's; not supported",
                refusals(400),
                tag="not supported",
                parameters=(in_path("path", "Anything."),),
                key=False,
            )
            for method in ("get", "post", "put")
        }
        found[f"/{base}/{{path}}"] = calls
    return found

"""The calls about the installation itself."""

from __future__ import annotations

from serve_app.ingress.openapi.parts import (
    OBJECT,
    TAG,
    WHOLE,
    YES_NO,
    Json,
    answer,
    listed,
    one_of,
    operation,
    record,
    reference,
    refusals,
)

SCHEMAS: Json = {
    "Ready": record({"status": one_of("ok", "unavailable"), "checks": OBJECT}),
}


def paths() -> Json:
    figures = record(
        {
            "pools": OBJECT,
            "replicas": listed(OBJECT),
            "unplaceable": OBJECT,
            "endpoints": WHOLE,
            "demo": YES_NO,
            "checks": OBJECT,
        }
    )
    alive = {"200": answer("It lives.", record({"status": one_of("ok")}))}
    ready = {
        "200": answer("All that Darkroom stands on answers.", reference("Ready")),
        "503": answer("Something does not.", reference("Ready")),
    }
    return {
        "/v1/status": {
            "get": operation(
                "getStatus",
                "Pools, replicas, checks; takes the scope `admin`",
                {"200": answer("They.", figures), **refusals(403)},
                tag=TAG,
            )
        },
        "/healthz": _with_head("alive", "Whether the process lives", alive),
        "/readyz": _with_head("ready", "Whether it can serve", ready),
    }


def _with_head(name: str, summary: str, responses: Json) -> Json:
    return {
        "get": operation(name, summary, responses, tag=TAG, key=False),
        "head": operation(f"{name}Head", summary, responses, tag=TAG, key=False),
    }

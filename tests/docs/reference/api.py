"""The page of the HTTP API, from the OpenAPI document that the ingress serves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from serve_app.catalog.catalog import Catalog, load
from serve_app.ingress.app import create_app
from tests.docs.pages import ROOT

EXAMPLE = "fal-ai/flux/schnell"
"""Endpoint whose calls stand for those of every endpoint."""

HEAD = """# HTTP API

`scripts/reference` generates this page from the OpenAPI document. Do not edit it.

An installation serves the document at `GET /openapi.json`, with every parameter, body and answer.
Other pages list the calls of {elsewhere}.

Calls take `Authorization: Key id:secret` or `Bearer id:secret`. The
[scope](../how-to/manage-keys-and-limits.md#scopes) that a call needs, or "no key", stands after it;
the others take any key. `GET /` is the [page](../how-to/use-the-playground.md).
[Errors](errors.md) have one form.

Most lists take `limit`, and the `cursor` (or `before`) that the page before answered. `tenant`
names another tenant and needs the scope `operator`. `start`, `since`, `end` and `until` are dates
or times; `end` and `until` are exclusive. Other parameters stand at the end of the line.
"""

OWN_PAGE = {
    "fal's protocol": "fal-protocol.md#calls",
    "OpenAI": "openai.md",
    "Replicate": "replicate.md",
    "ComfyUI": "../how-to/serve-comfyui-workflows.md#clients-of-comfyui",
    "Model Context Protocol": "mcp.md",
}
"""Groups that another page lists."""

NOT_SUPPORTED = "Not supported"
"""Calls that are answered with the status 404 or 400 and a reason."""

OF_REPLICAS = frozenset({("put", "/files/{key}"), ("delete", "/files/{key}")})
"""Calls with a ticket, which clients do not have."""

SAID_ONCE = frozenset(
    {"limit", "cursor", "before", "tenant", "start", "end", "since", "until", "timezone"}
)
"""Parameters that the head describes for all calls, or whose names say all."""

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("fal's protocol", (r"/((queue|run)/)?fal-ai/.*",)),
    (
        "Requests",
        (
            r"/v1/requests(?!/\{request_id\}/(requeue|fail|priority|webhook)).*",
            r"/v1/(estimate|drafts.*|loras|shares?.*)",
            r"/v1/models/req.*",
        ),
    ),
    (
        "Models and usage",
        (
            r"/v1/(models|usage).*",
            r"/llms.txt",
            r"/models/.*",
            r"/openapi.json",
            r"/api/.*",
        ),
    ),
    ("Webhooks", (r"/v1/webhooks.*", r".*/webhook(/redeliver)?", r".*jwks.json")),
    ("Files and uploads", (r"/files/.*", r"/v1/uploads.*", r"/rest/storage/.*", r"/cdn/files/.*")),
    ("Keys and tokens", (r"/v1/keys.*", r"/rest/tokens.*")),
    ("Operations", (r"/v1/.*", r"/healthz", r"/readyz.*", r"/metrics")),
    ("OpenAI", (r"/openai/.*",)),
    ("Replicate", (r"/replicate/.*",)),
    ("ComfyUI", (r"/comfyui/.*",)),
    ("Model Context Protocol", (r"/mcp",)),
    (NOT_SUPPORTED, (r"/.*",)),
)
"""Headings, and the paths below each. The first that matches counts."""

Json = Mapping[str, Any]


def page() -> str:
    """The whole page, in Markdown."""
    spec = _spec()
    groups = _grouped(spec["paths"])
    elsewhere = ", ".join(f"[{group}]({OWN_PAGE[group]})" for group in groups if group in OWN_PAGE)
    parts = [HEAD.replace("{elsewhere}", elsewhere)]
    for heading, calls in groups.items():
        if heading in OWN_PAGE or heading == NOT_SUPPORTED:
            continue
        parts.append(f"\n## {heading}\n\n")
        parts.extend(_call(*call) for call in calls)
    return "".join(parts)


def _spec() -> Json:
    catalog = load(None, demo=True, demo_dir=ROOT / "deployments" / "demo")
    entry = catalog.get(EXAMPLE)
    return create_app().state.document.of_installation(
        Catalog({EXAMPLE: entry}), "http://127.0.0.1:8000"
    )


def _grouped(paths: Json) -> dict[str, list[tuple[str, str, Json]]]:
    groups: dict[str, list[tuple[str, str, Json]]] = {heading: [] for heading, _ in GROUPS}
    for path, calls in paths.items():
        heading = next(
            name
            for name, patterns in GROUPS
            if any(re.fullmatch(pattern, path) for pattern in patterns)
        )
        groups[heading].extend(
            (path, method, call)
            for method, call in calls.items()
            if (method != "head" or "get" not in calls) and (method, path) not in OF_REPLICAS
        )
    return {heading: group for heading, group in groups.items() if group}


def _call(path: str, method: str, call: Json) -> str:
    """A line of the list, with the first sentence of the call's summary."""
    summary, _, scope = " ".join(call.get("summary", "").split()).partition(" Needs the scope ")
    if not call.get("security"):
        scope = "no key"
    names = [
        f"`{parameter['name']}`"
        for parameter in call.get("parameters", ())
        if parameter["in"] != "path" and parameter["name"] not in SAID_ONCE
    ]
    meaning = summary.partition(". ")[0].rstrip(".") + (f" ({', '.join(names)})" if names else "")
    needs = f" ({scope.rstrip('.')})" if scope else ""
    return f"- `{method.upper()} {path}`{needs}: {meaning}\n"

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

An installation serves the document at `GET /openapi.json`, with every field, parameter and schema.
Calls take `Authorization: Key id:secret` or `Bearer id:secret`, with the
[scope](../how-to/manage-keys-and-limits.md) that the table names; "no key" means that they need
none. `GET /` is the [playground](../how-to/use-the-playground.md), `GET /page/{name}` its files and
`GET /favicon.ico` its icon, without a key. Bodies and answers are JSON unless a call says another
type. [Errors](errors.md) have one form.

Most lists take `limit`, and the `cursor` (or `before`) that the page before answered. `tenant`
names another tenant and needs the scope `operator`. `start`, `since`, `end` and `until` are dates
or times; `end` and `until` are exclusive. Other parameters stand in brackets after the call.
`fal-ai/flux/schnell` stands for any endpoint id, and `fal-ai/flux` for its first two segments.
"""

OWN_PAGE = {
    "Endpoints": "fal-protocol.md#calls",
    "OpenAI": "openai.md",
    "Replicate": "replicate.md",
    "ComfyUI": "../how-to/serve-comfyui-workflows.md#clients-of-comfyui",
    "Model Context Protocol": "mcp.md",
}
"""Groups of which only the calls are named, and the page that describes them."""

SAID_ONCE = frozenset(
    {"limit", "cursor", "before", "tenant", "start", "end", "since", "until", "timezone"}
)
"""Parameters that the head describes for all calls, or whose names say all."""

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Endpoints", (r"/((queue|run)/)?fal-ai/.*",)),
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
    ("Operations", (r"/v1/.*", r"/healthz", r"/readyz")),
    ("OpenAI", (r"/openai/.*",)),
    ("Replicate", (r"/replicate/.*",)),
    ("ComfyUI", (r"/comfyui/.*",)),
    ("Model Context Protocol", (r"/mcp",)),
    ("Not supported", (r"/.*",)),
)
"""Headings, and the paths below each. The first that matches counts."""

Json = Mapping[str, Any]


def page() -> str:
    """The whole page, in Markdown."""
    spec = _spec()
    parts = [HEAD]
    for heading, calls in _grouped(spec["paths"]).items():
        parts.append(f"\n## {heading}\n\n")
        named = ", ".join(f"`{method.upper()} {path}`" for path, method, _ in calls)
        if heading == "Not supported":
            parts.append(f"Answered with the status 404 or 400 and a reason: {named}.\n")
        elif heading in OWN_PAGE:
            parts.append(f"[Its own page]({OWN_PAGE[heading]}): {named}.\n")
        else:
            parts.append("| call | scope | meaning |\n| --- | --- | --- |\n")
            parts.extend(_call(*each) for each in calls)
    return "".join(parts)


def _spec() -> Json:
    found = load(None, demo=True, demo_dir=ROOT / "deployments" / "demo")
    entry = found.get(EXAMPLE)
    return create_app().state.document.whole(Catalog({EXAMPLE: entry}), "http://127.0.0.1:8000")


def _grouped(paths: Json) -> dict[str, list[tuple[str, str, Json]]]:
    groups: dict[str, list[tuple[str, str, Json]]] = {heading: [] for heading, _ in GROUPS}
    for path, calls in paths.items():
        heading = next(
            name for name, patterns in GROUPS if any(re.fullmatch(one, path) for one in patterns)
        )
        groups[heading].extend(
            (path, method, call)
            for method, call in calls.items()
            if method != "head" or "get" not in calls
        )
    return {heading: found for heading, found in groups.items() if found}


def _call(path: str, method: str, call: Json) -> str:
    summary, _, scope = _cell(call.get("summary", "")).partition(" Needs the scope ")
    if not call.get("security"):
        scope = "no key"
    names = [
        f"`{each['name']}`"
        for each in call.get("parameters", ())
        if each["in"] != "path" and each["name"] not in SAID_ONCE
    ]
    said = [summary.rstrip(".") + (f" ({', '.join(names)})" if names else "")]
    said += [f"Body: {body}"] if (body := _body(call)) else []
    said += [f"Returns {answer}"] if (answer := _answer(call["responses"])) else []
    return f"| `{method.upper()} {path}` | {scope.rstrip('.')} | {'. '.join(said)} |\n"


def _body(call: Json) -> str:
    content = call.get("requestBody", {}).get("content", {})
    kinds = (_content(kind, each.get("schema", {})) for kind, each in content.items())
    return "; ".join(filter(None, kinds))


def _answer(responses: Json) -> str:
    """The content of the responses that are not errors."""
    kinds = [
        _content(kind, each.get("schema", {}))
        for status in sorted(responses)
        if status < "400"
        for kind, each in responses[status].get("content", {}).items()
    ]
    return " or ".join(dict.fromkeys(filter(None, kinds)))


def _content(kind: str, schema: Json) -> str:
    """Empty for JSON of a schema that only the document has: its name alone says nothing."""
    shown = _type(schema)
    if kind == "application/json":
        return "" if re.fullmatch(r"`\w+`", shown) else shown
    return f"`{kind}`" if shown in ("string", "string (binary)", "any") else f"{shown} as `{kind}`"


def _type(schema: Json) -> str:
    kind = _plain_type(schema)
    return f"{kind} or null" if schema.get("nullable") and kind != "any" else kind


def _plain_type(schema: Json) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[key]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and schema.get("properties"):
        return "object (" + ", ".join(f"`{each}`" for each in schema["properties"]) + ")"
    return f"{kind} ({schema['format']})" if "format" in schema else str(kind)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

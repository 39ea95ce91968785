"""The page of the HTTP API, from the OpenAPI document that the ingress serves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from serve_app.catalog.catalog import Catalog, load
from serve_app.ingress.app import create_app
from tests.docs.pages import ROOT

EXAMPLE = "fal-ai/flux/schnell"
"""Endpoint whose calls stand for those of every endpoint."""

HEAD = f"""# HTTP API

`scripts/reference` generates this page from the OpenAPI document. Do not edit it.

An installation serves the document at `GET /openapi.json`, with every field of every endpoint.
Calls take `Authorization: Key id:secret` or
`Authorization: Bearer id:secret`, except those marked "no key". `GET /` is the
[playground](../how-to/use-the-playground.md), and `GET /page/{{name}}` its files, without a key;
`GET /favicon.ico` is its icon. Bodies and answers are JSON unless a call says another type. Most
lists take `limit`, and the `cursor` (or `before`) that the page before answered. `tenant` names
another tenant and needs the scope `operator`.

[Errors](errors.md) have the body [`Error`](#error), or with status 422
[`ValidationError`](#validationerror). `{EXAMPLE}` stands for any endpoint id, and `fal-ai/flux`
for its first two segments. [fal's protocol](fal-protocol.md) says more of its calls.
"""

OWN_PAGE = {
    "OpenAI": "openai.md",
    "Replicate": "replicate.md",
    "ComfyUI": "../how-to/serve-comfyui-workflows.md#clients-of-comfyui",
    "Model Context Protocol": "mcp.md",
}
"""Groups of which only the calls are named, and the page that describes them."""

SAID_ONCE = frozenset({"limit", "cursor", "before", "tenant"})
"""Parameters that the head describes for all calls."""

SHOWN = frozenset(
    {"Error", "LogLine", "QueueStatus", "Request", "Usage", "ValidationError", "WebhookDelivery"}
)
"""Schemas that the page shows, because programs read them most. The document has all."""

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
            parts.append("| call | meaning |\n| --- | --- |\n")
            parts.extend(_call(method, path, call) for path, method, call in calls)
            parts.append(_parameters(calls))
    parts.append(
        "\n## Schemas\n\nThe most used ones; the document has all. "
        "A field with `?` may be absent.\n"
    )
    schemas = spec["components"]["schemas"]
    parts.extend(_schema(name, schemas[name]) for name in sorted(SHOWN & schemas.keys()))
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


def _call(method: str, path: str, call: Json) -> str:
    said = [
        _cell(call.get("summary", "")).rstrip(".") + ("" if call.get("security") else " (no key)")
    ]
    names = [
        f"`{each['name']}`"
        for each in call.get("parameters", ())
        if each["in"] != "path" and each["name"] not in SAID_ONCE
    ]
    said += [f"Parameters: {', '.join(names)}"] if names else []
    said += [f"Body: {body}"] if (body := _body(call)) else []
    said += [f"Returns {answer}"] if (answer := _answer(call["responses"])) else []
    return f"| `{method.upper()} {path}` | {'. '.join(said)} |\n"


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


def _parameters(calls: Iterable[tuple[str, str, Json]]) -> str:
    """A row for each meaning of a parameter or of a field of a body that has no name."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path, method, call in calls:
        for name, where, schema, text in _inputs(call):
            if where == "path" or name in SAID_ONCE:
                continue
            said = _cell(" ".join(filter(None, (text, _choices(schema)))))
            if not said:
                continue
            meaning = f"{_brief(schema)}: {said}"
            of = rows.setdefault((name, where), {}).setdefault(meaning, [])
            of.append(f"`{method.upper()} {path}`")
    if not rows:
        return ""
    parts = ["\n| parameter | meaning |\n| --- | --- |\n"]
    for (name, _), meanings in sorted(rows.items()):
        for meaning, of in meanings.items():
            which = f" ({', '.join(dict.fromkeys(of))})" if len(meanings) > 1 else ""
            parts.append(f"| `{name}` | {meaning}{which} |\n")
    return "".join(parts)


def _inputs(call: Json) -> Iterator[tuple[str, str, Json, str]]:
    for each in call.get("parameters", ()):
        yield each["name"], each["in"], each["schema"], each.get("description", "")
    for content in call.get("requestBody", {}).get("content", {}).values():
        for name, schema in content.get("schema", {}).get("properties", {}).items():
            yield name, "body", schema, schema.get("description", "")


def _schema(name: str, schema: Json) -> str:
    text = _cell(schema.get("description", ""))
    parts = [f"\n### {name}\n"]
    if text:
        parts.append(f"\n{text}\n")
    fields = schema.get("properties", {})
    if not fields:
        return "".join(parts) + f"\n{'. '.join(filter(None, (_type(schema), _choices(schema))))}\n"
    needed = schema.get("required", ())
    plain: list[str] = []
    rows: list[str] = []
    for field, of in fields.items():
        mark = f"`{field}`" + ("" if field in needed else "?")
        meaning = _cell(" ".join(filter(None, (of.get("description", ""), _choices(of)))))
        if meaning:
            rows.append(f"| {mark} | {_brief(of)}: {meaning} |\n")
        else:
            plain.append(mark if _brief(of) == "string" else f"{mark} {_type(of)}")
    if rows:
        parts.append("\n| field | meaning |\n| --- | --- |\n")
        parts.extend(rows)
    if plain:
        parts.append(f"\n{'Also ' if rows else ''}{', '.join(plain)}.\n")
    return "".join(parts)


def _brief(schema: Json) -> str:
    """The type without its nullability and format, which the document has."""
    return re.sub(r" (or null|\((date-time|uri|binary)\))", "", _type(schema))


def _type(schema: Json) -> str:
    kind = _plain_type(schema)
    return f"{kind} or null" if schema.get("nullable") and kind != "any" else kind


def _plain_type(schema: Json) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if name in SHOWN else f"`{name}`"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[key]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and schema.get("properties"):
        return "object (" + ", ".join(f"`{each}`" for each in schema["properties"]) + ")"
    return f"{kind} ({schema['format']})" if "format" in schema else str(kind)


def _choices(schema: Json) -> str:
    of = schema.get("items", schema)
    choices = of.get("enum")
    said = [] if not choices else ["One of " + ", ".join(f"`{each}`" for each in choices) + "."]
    bounds = [
        f"{word} {of[key]}"
        for key, word in (("minimum", "at least"), ("maximum", "at most"))
        if key in of
    ]
    if bounds:
        said.append(f"{' and '.join(bounds)}.".capitalize())
    if "default" in schema and not isinstance(schema["default"], dict | list):
        said.append(f"Default `{schema['default']}`.")
    return " ".join(said)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

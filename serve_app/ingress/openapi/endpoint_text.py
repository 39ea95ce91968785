"""Description of an endpoint as Markdown, for language models that write programs: its fields, and
example calls that work unchanged. The order is the one of fal's texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.billing.price import Price
from serve_app.domain.endpoint import Endpoint
from serve_app.ingress.http.paths import app_of

BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "more than"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "less than"),
    ("multipleOf", "a multiple of"),
    ("minLength", "characters, at least"),
    ("maxLength", "characters, at most"),
    ("minItems", "items, at least"),
    ("maxItems", "items, at most"),
)
FILES = {
    "image": "https://example.com/image.png",
    "mask": "https://example.com/mask.png",
    "video": "https://example.com/video.mp4",
    "audio": "https://example.com/audio.wav",
}

Schema = Mapping[str, Any]


def endpoint_text(entry: CatalogEntry, origin: str, price: Price | None = None) -> str:
    """Describe an endpoint as Markdown. ``price``: None for an endpoint that is free."""
    endpoint = entry.endpoint
    inputs, outputs = entry.schema.json_schema(), entry.schema.output_schema()
    parts = [f"# {endpoint.display_name or endpoint.id}", ""]
    if endpoint.description:
        parts += [f"> {endpoint.description}", ""]
    parts += [
        "## Overview",
        "",
        f"- **Endpoint**: {_address(endpoint, origin)}",
        f"- **Model ID**: `{endpoint.id}`",
        f"- **Category**: {endpoint.category}",
        f"- **Price**: {_price(price)}; this is a self-hosted Darkroom, not fal's service",
        *([f"- **Not served**: {entry.missing}"] if entry.missing else []),
        *_demo(entry),
        "",
        "## Input",
        "",
        *_fields(inputs),
        "## Output",
        "",
        *_fields(outputs),
        "## Calls",
        "",
        *(_calls if endpoint.takes_requests else _session)(endpoint.id, example(inputs), origin),
    ]
    return "\n".join(parts)


def _price(price: Price | None) -> str:
    if price is None:
        return "none"
    return f"{price.amount:f} {price.currency} per {price.unit.replace('_', ' ')}"


def _demo(entry: CatalogEntry) -> Iterator[str]:
    if not entry.demo:
        return
    yield "- **Demo**: a small demo model produces the output. It ignores words it does not know"
    yield f"- **About the demo**: {entry.about_demo}"
    for group, words in entry.demo_words.items():
        yield f"- **Words of the demo, {group}**: {', '.join(words)}"


def example(schema: Schema) -> dict[str, Any]:
    """Build an input with the required fields only."""
    properties: Mapping[str, Schema] = schema.get("properties", {})
    required = schema.get("required", ())
    return {
        name: _example(name, properties[name], schema) for name in properties if name in required
    }


def _fields(schema: Schema) -> Iterator[str]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    required = schema.get("required", ())
    if not properties:
        yield "- any field of the model; the fields are not checked here"
    for name, field in properties.items():
        need = "required" if name in required else "optional"
        yield f"- **`{name}`** (`{_kind(field, schema)}`, {need})"
        notes = [" ".join(str(field.get("description", "")).split()), *_limits(field, schema)]
        if name not in required and field.get("default") is not None:
            notes.append(f"Default: `{json.dumps(field['default'], ensure_ascii=False)}`")
        yield from (f"  - {note}" for note in notes if note)
    yield ""


def _limits(field: Schema, schema: Schema) -> Iterator[str]:
    for variant in _ways(field, schema):
        if "enum" in variant:
            yield "One of: " + ", ".join(f"`{json.dumps(value)}`" for value in variant["enum"])
        limits = [f"{words} {variant[name]}" for name, words in BOUNDS if name in variant]
        if limits:
            yield ", ".join(limits).capitalize()


def _ways(field: Schema, schema: Schema) -> list[Schema]:
    """Alternatives of the field's type, without null, with references resolved."""
    variants: list[Schema] = []
    for alternative in field.get("anyOf") or field.get("allOf") or [field]:
        variant = alternative
        if "$ref" in variant:
            variant = schema["$defs"][variant["$ref"].rpartition("/")[2]]
        if variant.get("type") != "null":
            variants.append(variant)
    return variants


def _kind(field: Schema, schema: Schema) -> str:
    kinds = [_kind_of(variant, schema) for variant in _ways(field, schema)]
    return " | ".join(dict.fromkeys(kinds)) or "any"


def _kind_of(variant: Schema, schema: Schema) -> str:
    if variant.get("type") == "array":
        return f"list<{_kind(variant.get('items', {}), schema)}>"
    if variant.get("type") == "object":
        return str(variant.get("title", "object"))
    return str(variant.get("type", "any"))


def _example(name: str, field: Schema, schema: Schema) -> Any:
    if field.get("examples"):
        return field["examples"][0]
    (variant, *_) = _ways(field, schema) or [field]
    kind = variant.get("type")
    if "enum" in variant:
        return variant["enum"][0]
    if kind == "array":
        return [_example(name.removesuffix("s"), variant.get("items", {}), schema)]
    if kind == "object":
        return example({**variant, "$defs": schema.get("$defs", {})})
    if kind == "string" and name.endswith("_url"):
        return FILES.get(name.removesuffix("_url").rpartition("_")[2], FILES["image"])
    plain = {
        "integer": variant.get("minimum", 1),
        "number": variant.get("minimum", 1),
        "boolean": True,
    }
    return plain.get(str(kind), "a red circle")


def _calls(endpoint_id: str, body: Mapping[str, Any], origin: str) -> Iterator[str]:
    shown = json.dumps(body, ensure_ascii=False, indent=4)
    yield _curl_call(endpoint_id, body, origin)
    yield _python_call(endpoint_id, shown, origin)
    yield _javascript_call(endpoint_id, shown, origin)
    yield f"""## More

- [OpenAPI document]({origin}/api/openapi/queue/openapi.json?endpoint_id={endpoint_id})
- [All endpoints]({origin}/llms.txt)
"""


def _address(endpoint: Endpoint, origin: str) -> str:
    if endpoint.takes_requests:
        return f"`{origin}/run/{endpoint.id}` (`{origin}/queue/{endpoint.id}` to submit)"
    socket = origin.replace("http", "ws", 1)
    return f"`{socket}/run/{endpoint.id}`, a WebSocket. It takes realtime sessions only"


def _session(endpoint_id: str, body: Mapping[str, Any], origin: str) -> Iterator[str]:
    """Example of a session. fal's client takes the app and the route apart."""
    app = app_of(endpoint_id)
    path = endpoint_id.removeprefix(app) or "/"
    message = _python(json.dumps(body, ensure_ascii=False))
    yield f"""### Python

With `pip install fal-client`. Only the two address lines differ from a program for
fal's service.

```python
import fal_client.client

fal_client.client.REALTIME_URL_FORMAT = "{origin.replace("http", "ws", 1)}/run/"
fal_client.client.REST_URL = "{origin}/rest"

with fal_client.realtime("{app}", path="{path}") as session:
    session.send({message})
    print(session.recv())
```

## More

- [OpenAPI document]({origin}/api/openapi/queue/openapi.json?endpoint_id={endpoint_id})
- [All endpoints]({origin}/llms.txt)
"""


def _curl_call(endpoint_id: str, body: Mapping[str, Any], origin: str) -> str:
    quoted = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    return f"""The key is in `FAL_KEY` (`id:secret`).

### cURL

```bash
curl {origin}/run/{endpoint_id} \\
  --header "Authorization: Key $FAL_KEY" \\
  --header "Content-Type: application/json" \\
  --data '{quoted}'
```
"""


def _python_call(endpoint_id: str, shown: str, origin: str) -> str:
    return f"""### Python

With `pip install fal-client`. Only the four address lines differ from a program for fal's service.
They are not needed in a shell that `darkroom env` has set up.

```python
import fal_client.client

fal_client.client.RUN_URL_FORMAT = "{origin}/run/"
fal_client.client.QUEUE_URL_FORMAT = "{origin}/queue/"
fal_client.client.REST_URL = "{origin}/rest"
fal_client.client.CDN_URL = "{origin}/cdn"

result = fal_client.subscribe("{endpoint_id}", arguments={_python(shown)})
print(result)
```
"""


def _javascript_call(endpoint_id: str, shown: str, origin: str) -> str:
    return f"""### JavaScript

With `npm install @fal-ai/client`.

```javascript
import {{ fal }} from "@fal-ai/client";

fal.config({{
  credentials: process.env.FAL_KEY,
  proxyUrl: {{ url: "{origin}/fal/proxy", when: "always" }},
}});
const result = await fal.subscribe("{endpoint_id}", {{ input: {shown} }});
console.log(result.data);
```
"""


def _python(shown: str) -> str:
    """Literal for Python: JSON writes true, false and null differently."""
    return (
        repr(json.loads(shown))
        if any(literal in shown for literal in ("true", "false", "null"))
        else shown
    )

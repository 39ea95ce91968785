"""Outputs as Replicate has them: a URL, or a list of URLs, where fal has an object with files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from serve_app.catalog.catalog import CatalogEntry
from serve_app.ingress.openapi.dialect import components
from serve_app.ingress.openapi.parts import Json

PRODUCTS = ("images", "image", "videos", "video", "audios", "audio_files", "audio", "audio_file")
"""Fields of an output in which an endpoint hands out what it is for; those first that have several
files, if they are there."""

URL: Json = {"type": "string", "format": "uri"}


def plain(output: Mapping[str, Any]) -> Any:
    """Of a rendered output: its product's URL or URLs; the whole of it where it has no such."""
    for name in PRODUCTS:
        found = _urls(output.get(name))
        if found is not None:
            return found
    return dict(output)


def files_of(output: Any) -> Sequence[str]:
    """What a stream tells one by one: of ``plain``'s output."""
    return [str(each) for each in cast("list[Any]", output)] if isinstance(output, list) else []


def schemas(entry: CatalogEntry) -> Json:
    """``Input`` and ``Output``, as the components of an OpenAPI document."""
    found = components("Input", entry.schema.json_schema())
    schema = entry.schema.output_schema()
    properties: Mapping[str, Json] = schema.get("properties", {})
    for name in PRODUCTS:
        if name in properties and "anyOf" not in properties[name]:  # it is always there
            several = properties[name].get("type") == "array"
            product: Json = {"type": "array", "items": URL} if several else URL
            return {**found, "Output": {**product, "title": "Output"}}
    return {**found, **components("Output", schema)}


def _urls(value: Any) -> str | list[str] | None:
    if _is_file(value):
        return value["url"]
    if isinstance(value, list) and value and all(map(_is_file, cast("list[Any]", value))):
        return [each["url"] for each in cast("list[Json]", value)]
    return None


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("url"), str)

"""The adapters that an input asks for. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.domain.adapter_path import (
    MOST_ADAPTERS,
    MOST_SCALE,
    FileUrl,
    HubFile,
    parse_adapter_path,
)
from serve_app.domain.errors import InvalidInput

FIELD = "loras"


@dataclass(frozen=True, slots=True)
class AskedAdapter:
    """One of them."""

    field: str  # of the input, that names its file
    source: FileUrl | HubFile
    scale: float


def asked_adapters(input: Mapping[str, Any]) -> tuple[AskedAdapter, ...]:
    """Those of the field ``loras``, in their order. ``InvalidInput`` for what the schema ``open``
    lets through."""
    items = input.get(FIELD) or ()
    if not isinstance(items, list | tuple):
        raise InvalidInput.of_field(FIELD, "Input should be a valid list", "list_type")
    if len(items) > MOST_ADAPTERS:
        message = f"List should have at most {MOST_ADAPTERS} items"
        raise InvalidInput.of_field(FIELD, message, "sequence_too_long")
    return tuple(_asked(item, f"{FIELD}.{number}") for number, item in enumerate(items))


def _asked(item: Any, at: str) -> AskedAdapter:
    if not isinstance(item, Mapping) or not isinstance(item.get("path"), str):
        raise InvalidInput.of_field(f"{at}.path", "Field required", "missing")
    try:
        source = parse_adapter_path(item["path"])
    except ValueError as error:
        raise InvalidInput.of_field(f"{at}.path", str(error), "adapter_path") from None
    scale = item.get("scale", 1.0)
    if not isinstance(scale, int | float) or not -MOST_SCALE <= scale <= MOST_SCALE:
        message = f"Input should be a number from {-MOST_SCALE:g} to {MOST_SCALE:g}"
        raise InvalidInput.of_field(f"{at}.scale", message)
    return AskedAdapter(f"{at}.path", source, float(scale))

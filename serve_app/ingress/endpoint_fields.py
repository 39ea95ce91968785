"""The fields that an endpoint's input has, for those who translate another protocol's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from serve_app.catalog.catalog import CatalogEntry
from serve_app.catalog.schema import InputSchema

MOST_KEPT = 1024


class EndpointFields:
    """The properties of an endpoint's input schema. The schema ``open`` takes every field."""

    def __init__(self, entry: CatalogEntry) -> None:
        self._properties = _properties(entry.schema)

    def __contains__(self, name: str) -> bool:
        """Whether the schema names it."""
        return name in (self._properties or ())

    def takes(self, name: str) -> bool:
        return self._properties is None or name in self._properties

    def first(self, *names: str) -> str | None:
        """The first of these that it takes."""
        return next((name for name in names if self.takes(name)), None)

    def default(self, name: str) -> Any:
        return self._of(name).get("default")

    def choices(self, name: str) -> tuple[Any, ...]:
        """The values that it allows; empty: it lists none."""
        return tuple(self._of(name).get("enum", ()))

    def bounds(self, name: str) -> tuple[float, float]:
        """Least and most, which may be infinite."""
        schema = self._of(name)
        return schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))

    def _of(self, name: str) -> Mapping[str, Any]:
        return (self._properties or {}).get(name, {})


@lru_cache(MOST_KEPT)
def _properties(schema: InputSchema) -> Mapping[str, Any] | None:
    """Built once for each schema: it takes milliseconds. None: it takes every field."""
    return schema.json_schema().get("properties")

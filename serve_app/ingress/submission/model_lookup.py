"""Endpoints by the names of other protocols, and the fields that their inputs have."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from serve_app.catalog.catalog import Catalog, CatalogEntry
from serve_app.catalog.schema.registry import cached_json_schema
from serve_app.domain.errors import Unsupported
from serve_app.ingress.services.services import Services
from serve_app.tenants.scopes import Caller

# Fields of an endpoint's input, for the translation of other protocols' calls.


class EndpointFields:
    """Properties of an endpoint's input schema. The schema ``open`` accepts every field."""

    def __init__(self, entry: CatalogEntry) -> None:
        self.schema = cached_json_schema(entry.schema)
        """JSON Schema of the input."""
        self._properties: Mapping[str, Any] | None = self.schema.get("properties")
        self.named: Mapping[str, Any] = self._properties or {}
        """JSON Schemas of the fields that it names."""
        self.endpoint = entry.endpoint

    def __contains__(self, name: str) -> bool:
        """Return whether the schema names the field."""
        return name in self.named

    def accepts(self, name: str) -> bool:
        return self._properties is None or name in self._properties

    def first_accepted(self, *names: str) -> str | None:
        """First of these fields that the endpoint accepts; None if it accepts none."""
        return next((name for name in names if self.accepts(name)), None)

    def default(self, name: str) -> Any:
        return self._of(name).get("default")

    def choices(self, name: str) -> tuple[Any, ...]:
        """Values that the field allows; empty if it lists none."""
        return tuple(self._of(name).get("enum", ()))

    def first_choice(self, name: str, *values: str | None) -> str | None:
        """First of these values that the field lists; None if it lists none of them."""
        choices = self.choices(name)
        return next((value for value in values if value in choices), None)

    def bounds(self, name: str) -> tuple[float, float]:
        """Minimum and maximum of the field; either may be infinite."""
        schema = self._of(name)
        return schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))

    def has_mark(self, name: str, mark: str) -> bool:
        """Return whether the schema names the field, with this key."""
        return mark in self._of(name)

    def _of(self, name: str) -> Mapping[str, Any]:
        return self.named.get(name, {})


ANY_END = "*"
"""Last character of an alias for all names that begin with what comes before it."""

_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def endpoint_id_of(catalog: Catalog, aliases: Mapping[str, str], name: str) -> str:
    """Id that a name stands for: by the alias of this name, as an id, by the alias of the name
    without the date at its end, or by the longest alias with ``*`` that fits. Else the name itself.
    """
    if name in aliases:
        return aliases[name]
    if catalog.find(name) is not None:
        return name
    undated = _DATE.sub("", name)
    if undated in aliases:
        return aliases[undated]
    fitting = [
        alias for alias in aliases if alias.endswith(ANY_END) and name.startswith(alias[:-1])
    ]
    return aliases[max(fitting, key=len)] if fitting else name


def plain_aliases(aliases: Mapping[str, str]) -> Mapping[str, str]:
    """Aliases that are the name of one model."""
    return {
        alias: endpoint_id for alias, endpoint_id in aliases.items() if not alias.endswith(ANY_END)
    }


def find_endpoint(services: Services, caller: Caller, name: str) -> CatalogEntry:
    """Endpoint with this id or alias. ``EndpointNotFound``, ``EndpointNotServed``."""
    catalog = services.catalog_of(caller)
    return catalog.get(endpoint_id_of(catalog, services.config.models.model_aliases, name))


def served_models(services: Services, caller: Caller) -> Iterator[CatalogEntry]:
    """Endpoints that are served, and that the caller may use."""
    for entry in services.catalog_of(caller):
        if not entry.missing and entry.endpoint.takes_requests and caller.allows(entry.endpoint.id):
            yield entry


def find_capable(
    catalog: Catalog, entry: CatalogEntry, needs: Collection[str], tasks: tuple[str, ...], what: str
) -> CatalogEntry:
    """Return ``entry`` if its input has one of the fields ``needs``, else a sibling that has one.

    Siblings have ids that differ in their last part: ``fal-ai/fast-sdxl`` is text to image, and
    ``fal-ai/fast-sdxl/image-to-image`` changes an image. ``tasks`` are the last parts to try, in
    order. ``Unsupported`` says that ``what`` is not possible, and which endpoints can do it.
    """
    if EndpointFields(entry).first_accepted(*needs):
        return entry
    endpoint_id = entry.endpoint.id
    for task in tasks:
        for sibling in (f"{endpoint_id}/{task}", f"{endpoint_id.rpartition('/')[0]}/{task}"):
            sibling_entry = catalog.find(sibling)
            if sibling_entry is not None and EndpointFields(sibling_entry).first_accepted(*needs):
                return catalog.get(sibling)
    able = [
        candidate.endpoint.id
        for candidate in catalog
        if not candidate.missing and any(name in EndpointFields(candidate) for name in needs)
    ]
    which = f"These can: {', '.join(able)}." if able else "No endpoint that is served here can."
    raise Unsupported(f"{endpoint_id} cannot {what}. {which}")


NO_ENDPOINT = "*"  # no endpoint has this id


def allowed_endpoints(catalog: Catalog, caller: Caller) -> Sequence[str]:
    """The only endpoints whose requests the caller may read; none: all. If no endpoint fits, it is
    the name of none."""
    allowed = caller.endpoints_among(entry.endpoint.id for entry in catalog)
    return () if allowed is None else allowed or [NO_ENDPOINT]

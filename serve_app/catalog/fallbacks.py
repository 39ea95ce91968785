"""Fallbacks and shadows of entries: whether one can run the requests of another, and their inputs
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serve_app.catalog.entries import CatalogEntry
from serve_app.catalog.schema.registry import cached_json_schema
from serve_app.catalog.source import FallbackSource, ShadowSource
from serve_app.domain.executors.fallback import rename_fields
from serve_app.domain.workflows.definition import FAMILY
from serve_app.options.mistakes import Place

KEY, SHADOW = "fallback", "shadow"

Find = Callable[[str], CatalogEntry | None]


def problem_of(
    entry: CatalogEntry, find: Find, *, may_be_gone: bool = False
) -> tuple[Place, str] | None:
    """Place and sentence of a mistake in the fallback or the shadow of ``entry``; None: there is
    none. ``find``: entry of an endpoint. ``may_be_gone``: an endpoint that is not there is none."""
    for key, target in ((KEY, entry.source.fallback), (SHADOW, entry.source.shadow)):
        if target is None:
            continue
        other = find(target.endpoint)
        if other is None and not may_be_gone:
            return (key, "endpoint"), f"there is no endpoint {target.endpoint}"
        if other is not None and (problem := _problem(entry, other, target, find)) is not None:
            return problem
    return None


def _problem(
    entry: CatalogEntry, other: CatalogEntry, source: FallbackSource | ShadowSource, find: Find
) -> tuple[Place, str] | None:
    if isinstance(source, ShadowSource):
        return _problem_of_shadow(entry, other, source)
    named = (KEY, "endpoint")
    if cycle := _cycle(entry, find):
        return named, f"requests would fall back in a circle: {' → '.join(cycle)}"
    if other.endpoint.family == FAMILY:
        return named, f"{source.endpoint} is a workflow, whose steps have fallbacks of their own"
    if all(each.endpoint.executor.is_hosted for each in (entry, other)):
        return named, (
            f"{entry.endpoint.id} and {source.endpoint} are both hosted, and a request calls one "
            "provider at most, so that it is never paid for twice"
        )
    return _problem_of_fields(entry, other, source, KEY)


def _problem_of_shadow(
    entry: CatalogEntry, other: CatalogEntry, source: ShadowSource
) -> tuple[Place, str] | None:
    named = (SHADOW, "endpoint")
    if other.endpoint.id == entry.endpoint.id:
        return named, "an endpoint cannot be compared with itself: name another one"
    if other.endpoint.family == FAMILY:
        return named, f"{source.endpoint} is a workflow, and copies go to single endpoints"
    return _problem_of_fields(entry, other, source, SHADOW)


def _cycle(entry: CatalogEntry, find: Find) -> list[str]:
    """Endpoints from ``entry`` back to it, or to another one that was passed."""
    path: list[str] = []
    current: CatalogEntry | None = entry
    while current is not None:
        path.append(current.endpoint.id)
        if current.endpoint.id in path[:-1]:
            return path
        next_ = current.source.fallback
        current = None if next_ is None else find(next_.endpoint)
    return []


def _problem_of_fields(
    entry: CatalogEntry, other: CatalogEntry, source: FallbackSource | ShadowSource, key: str
) -> tuple[Place, str] | None:
    for name, named in source.fields.items():
        if not _accepts(entry, name):
            return (key, "fields", name), f"{entry.endpoint.id} has no field `{name}`"
        if named is not None and not _accepts(other, named):
            return (key, "fields", name), f"{source.endpoint} has no field `{named}`"
    passed = {*source.fields.values()}
    for name in sorted(other.schema.json_schema().get("required", ())):
        passes_itself = name not in source.fields and _accepts(entry, name)
        if name not in passed and not passes_itself:
            return (key, "endpoint"), (
                f"{source.endpoint} needs `{name}`, which {entry.endpoint.id} does not have: name "
                "the field that has it in `fields`"
            )
    return None


def _accepts(entry: CatalogEntry, name: str) -> bool:
    return entry.schema.is_open or name in entry.schema.fields


def input_at(other: CatalogEntry, fields: Mapping[str, str | None], input: Any) -> dict[str, Any]:
    """Input of a request for another endpoint. Fields that this one does not have are left out:
    ``unfit_field`` says whether they matter. ``InvalidInput``."""
    values = {
        name: value for name, value in rename_fields(input, fields).items() if _accepts(other, name)
    }
    return other.schema.validate(values)[0]


def unfit_field(
    entry: CatalogEntry, other: CatalogEntry, fields: Mapping[str, str | None], input: Any
) -> str:
    """Field that a request sets, other than to its default, and that the other endpoint does not
    have; empty: there is none."""
    own = cached_json_schema(entry.schema).get("properties", {})
    for name, value in input.items():
        named = fields.get(name, name)
        usual = value is None or own.get(name, {}).get("default", None) == value
        if named is not None and not usual and not _accepts(other, named):
            return name
    return ""

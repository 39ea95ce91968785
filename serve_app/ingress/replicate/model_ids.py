"""Endpoints by Replicate's names: ``owner/name``, and a version.

fal's ids may have more than two parts and Replicate's have two, so the slashes after the first
become hyphens: ``fal-ai/flux/schnell`` is ``fal-ai/flux-schnell``. The version of an endpoint is
the digest of its specification: it changes when anything about the endpoint does.
"""

from __future__ import annotations

import re

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import EndpointNotFound, InvalidInput
from serve_app.ingress.core import Core

_REFERENCE = re.compile(r"(?P<model>[^/:]+/[^:]+?)(?::(?P<version>.+))?")


def model_id(endpoint_id: str) -> str:
    """``owner/name``."""
    owner, _, rest = endpoint_id.partition("/")
    return f"{owner}/{rest.replace('/', '-')}"


def listed(core: Core, model: str) -> CatalogEntry:
    """Of a name, an alias or an endpoint's whole id, served or not. ``EndpointNotFound`` names what
    is near; ``InvalidInput`` when the name could mean two."""
    alias = core.config.model_aliases.get(model)
    entry = core.catalog.find(alias or model)
    if entry is not None:
        return entry
    found = [each for each in core.catalog if model_id(each.endpoint.id) == model]
    if len(found) > 1:
        ids = ", ".join(each.endpoint.id for each in found)
        raise InvalidInput.of_field("model", f"{model} could be {ids}: name its version")
    return found[0] if found else core.catalog.listed(alias or model)


def of_version(core: Core, reference: str) -> CatalogEntry:
    """Of a version alone, or of ``owner/name`` with one or without, as a prediction names it."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return _by_digest(core, reference)
    entry = listed(core, found["model"])
    return checked(entry, found["version"]) if found["version"] else entry


def checked(entry: CatalogEntry, version: str) -> CatalogEntry:
    """``entry``, if this is its version."""
    if entry.endpoint.digest != version:
        raise _no_version(version, f"The present one is {entry.endpoint.digest}.")
    return entry


def _by_digest(core: Core, version: str) -> CatalogEntry:
    for entry in core.catalog:
        if entry.endpoint.digest == version:
            return entry
    raise _no_version(version, "A version changes when the endpoint does: ask the model for it.")


def _no_version(version: str, more: str) -> EndpointNotFound:
    return EndpointNotFound(f"There is no version {version[:80]} here. {more}")

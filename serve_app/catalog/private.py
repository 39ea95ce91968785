"""Private endpoints: a tenant's registered weights, served by the family and settings of their
base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serve_app.catalog.entries import RESERVED_OWNERS, CatalogEntry, EntryOrigin
from serve_app.domain.endpoint import Weights
from serve_app.domain.lora import REPLACED, RegisteredFileFacts

LORA = "lora"
RESERVED_NAMES = frozenset({"realtime", "requests", "stream"})
"""Names that would be read as a part of a call's path."""


@dataclass(frozen=True, slots=True)
class PrivateEndpoint:
    """Weights of a tenant that have an endpoint."""

    id: str
    tenant: str
    base: str  # endpoint
    base_weights: str  # identity of the base's weights at the check
    kind: str
    files: Sequence[RegisteredFileFacts]
    repository: str = ""  # of the hub that they come from
    scale: float = 1.0  # of a LoRA


def identity_of(weights: Weights) -> str:
    """Text that changes with the files of a base: repository and commit, or the folder's name."""
    others = [weights.checkpoint] if weights.checkpoint else []
    others += [part.identity for part in weights.parts]
    others += [f"version {weights.version}"] if weights.version else []
    beside = f" with {', '.join(others)}" if others else ""
    if weights.revision is not None:
        return f"{weights.source}@{weights.revision}{beside}"
    return Path(weights.source).name + beside


def private_entry(base: CatalogEntry, private: PrivateEndpoint) -> CatalogEntry:
    """Entry of a private endpoint. It is not served while its base is not, or has other weights
    than those that it was compared with."""
    options = {**base.endpoint.options, **_options(base, private)}
    name = private.id.partition("/")[2]
    endpoint = replace(
        base.endpoint,
        id=private.id,
        options=options,
        display_name=name,
        description=f"Weights of {private.tenant}, served like {private.base}.",
        licence="",
    )
    missing = base.missing
    if not missing and identity_of(base.endpoint.weights) != private.base_weights:
        missing = (
            f"Its base {private.base} has other weights now than those that it was compared with: "
            "delete the weights, and register them again."
        )
    return replace(
        base,
        endpoint=endpoint,
        missing=missing,
        origin=EntryOrigin.DATABASE,
        replaces=(),
        tenant=private.tenant,
        base=private.base,
        repository=private.repository,
        digests=tuple(file.digest for file in private.files),
    )


def _options(base: CatalogEntry, private: PrivateEndpoint) -> Mapping[str, Any]:
    if private.kind == LORA:
        (file,) = private.files
        own = {"registered": file.digest, "scale": private.scale}
        return {"adapters": [*(base.endpoint.options.get("adapters") or ()), own]}
    components: dict[str, dict[str, str]] = {}
    for part_file in private.files:
        component, _, name = part_file.path.partition("/")
        components.setdefault(component, {})[name] = part_file.digest
    return {REPLACED: components}


def why_not_private(endpoint_id: str, public: Iterable[str], aliases: Iterable[str]) -> str:
    """Why a private endpoint cannot have this id, as a sentence; empty if it can.

    Others must never take it for another one's: an owner of public endpoints or of paths.
    """
    owner, _, name = endpoint_id.partition("/")
    owners = {public_id.partition("/")[0] for public_id in public}
    owners |= {alias.partition("/")[0] for alias in aliases if "/" in alias}
    if owner in RESERVED_OWNERS or owner in owners:
        return (
            f"Ids of private endpoints begin with the tenant, and {owner} is the beginning of "
            "other paths here. Ask the operator for a tenant of another name"
        )
    if name in RESERVED_NAMES:
        return f"`{name}` is a part of other paths. Choose another name"
    return ""

"""What an endpoint is to a replica: everything it needs in order to serve one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's files: a directory on the replica's node, or a hub repository."""

    source: str  # absolute directory, or ``owner/name`` on the hub
    revision: str | None = None  # commit hash; required for the hub
    demo: bool = False  # Darkroom's own tiny model, never passed off as the real one


@dataclass(frozen=True)
class Endpoint:
    """The full specification of a public model id.

    It travels with every lease, so the catalogue can change without restarting replicas; ``digest``
    tells two versions apart.
    """

    id: str  # such as ``fal-ai/flux/schnell``
    family: str  # which code serves it
    weights: Weights
    schema: str  # name of its input schema
    defaults: Mapping[str, Any] = field(default_factory=dict)  # over the schema's own
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # field → (least, most)
    options: Mapping[str, Any] = field(default_factory=dict)  # for the family: native size, dtype …
    display_name: str = ""
    description: str = ""
    category: str = "text-to-image"
    licence: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the specification, first 16 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

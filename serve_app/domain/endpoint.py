"""What an endpoint is to a replica: everything it needs in order to serve one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from serve_app.domain.by_name import by_name


@by_name
@dataclass(frozen=True, slots=True)
class Weights:
    """A model's files: a directory on the replica's node, or a hub repository."""

    source: str  # absolute directory, or ``owner/name`` on the hub
    revision: str | None = None  # commit hash; required for the hub
    demo: bool = False  # Darkroom's own tiny model, never passed off as the real one
    variant: str | None = None  # such as fp16: which files of a component, where it has several


@by_name
@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model's weights are held on a device that has at least so much memory."""

    memory_gb: float  # of the device, as it is sold
    precision: str  # of the stored weights: float32, float16, bfloat16 or float8
    offload: str = (
        "none"  # "components" and "blocks": what waits in host memory, moved whole or not
    )
    hot: tuple[str, ...] = ()  # components of the pipeline that stay on the device
    compile: bool = False  # the blocks that its denoisers repeat, before anybody gets it


WITHHELD = 0.03
"""The share of a card's memory that its driver and its error correction may keep: of the 24 GB of
an L4, programs see 23.6."""


def fitting(recipes: Sequence[Recipe], device_bytes: int) -> Recipe | None:
    """Of ``recipes``, which ascend by memory, the last that a device with ``device_bytes`` takes;
    None: it is too small for all."""
    enough = [each for each in recipes if each.memory_gb * (1 - WITHHELD) * 1e9 <= device_bytes]
    return enough[-1] if enough else None


@by_name
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
    recipes: tuple[Recipe, ...] = ()  # ascending by memory

    def recipe_for(self, device_bytes: int) -> Recipe | None:
        """How to hold the weights on a device with ``device_bytes``; None: it is too small, or the
        endpoint has no recipes."""
        return fitting(self.recipes, device_bytes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the specification, first 16 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

"""fal's lists of ControlNets and IP-Adapters, whose objects name their weights, over the parts of
an entry: an object chooses one of the parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.catalog.fal_types import fal_input
from serve_app.cli.inspection.pipeline_call import CONTROL_NET
from serve_app.cli.inspection.repository import IMAGE_ENCODER
from serve_app.domain.pipeline_index import IP_ADAPTER

Parts = Mapping[str, Sequence[Mapping[str, str]]]
"""Component → its parts, as an entry writes them."""

COMPONENTS = {"controlnets": CONTROL_NET, "ip_adapters": IP_ADAPTER, "ip_adapter": IP_ADAPTER}
"""fal's list → component whose parts its objects choose."""

VALUES: Mapping[str, Mapping[str, str]] = {
    CONTROL_NET: {
        "control_image_url": "control_image_url",
        "conditioning_scale": "controlnet_conditioning_scale",
        "start_percentage": "control_guidance_start",
        "end_percentage": "control_guidance_end",
    },
    IP_ADAPTER: {"image_url": "ip_adapter_image_url", "scale": "ip_adapter_scale"},
}
"""Component → field of fal's objects → field of an endpoint with one such part."""


def parts_of(weights: Mapping[str, Any]) -> Parts:
    """Parts of an entry's ``weights``."""
    parts: Mapping[str, Any] = weights.get("parts", {})
    return {name: own if isinstance(own, list) else [own] for name, own in parts.items()}


@dataclass(frozen=True, slots=True)
class PartsChosen:
    """What the objects of one of fal's lists choose and give."""

    names: Sequence[Mapping[str, Sequence[str]]]  # for each part: field of an object → its texts
    values: Mapping[str, str]  # field of an object → field of the endpoint with a value for each


def parts_chosen(field: str, parts: Parts) -> PartsChosen | None:
    """What objects in fal's list ``field`` choose among ``parts``; None: nothing."""
    component = COMPONENTS.get(field, "")
    own = parts.get(component, ())
    if not own:
        return None
    values = {
        inner: f"{target}s" if target.endswith("_url") and len(own) > 1 else target
        for inner, target in VALUES[component].items()
    }
    if component == CONTROL_NET:
        return PartsChosen([{"path": [*_paths(part)]} for part in own], values)
    encoder = {
        f"{IMAGE_ENCODER}_{name}": names
        for part in parts.get(IMAGE_ENCODER, ())
        for name, names in (("path", [*_paths(part)]), ("subfolder", [part.get("folder", "")]))
    }
    names: list[Mapping[str, Sequence[str]]] = []
    for part in own:
        subfolder, _, file = part["file"].rpartition("/")
        of_file = {"path": [*_paths(part)], "subfolder": [subfolder], "weight_name": [file]}
        names.append({**of_file, **encoder})
    return PartsChosen(names, values)


def chooses(endpoint_id: str, component: str, parts: Parts) -> bool:
    """True if requests to an endpoint of fal's choose among the parts of the component."""
    lists = (field for field, chosen in COMPONENTS.items() if chosen == component)
    return component in parts and not (fal_input(endpoint_id) or {}).keys().isdisjoint(lists)


def _paths(part: Mapping[str, str]) -> Iterator[str]:
    """Names of a part, the exact one first. Of a folder of the node, only its last name is one:
    requests are not told where it is."""
    place = part.get("hub") or Path(part["directory"]).name
    inside = part.get("folder") or part.get("file")
    if inside:
        yield f"{place}/{inside}"
    yield place

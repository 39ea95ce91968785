"""Requests to the demo models, for a replica without Serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.families.registry import FAMILIES
from serve_app.catalog.catalog import Catalog, CatalogEntry, load
from serve_app.domain.lease import Lease
from tests.deployments.conftest import Rig

FLUX, WAN = "fal-ai/flux/schnell", "fal-ai/wan/v2.2-5b/text-to-video"
AUDIO = "fal-ai/stable-audio"
QUICK: Mapping[str, Mapping[str, Any]] = {
    FLUX: {"image_size": "square", "num_inference_steps": 2},
    WAN: {"num_frames": 17, "num_inference_steps": 2, "video_write_mode": "fast"},
    AUDIO: {"seconds_total": 0.2, "steps": 2},
}
"""Extra input fields that make a request to the endpoint quick."""


def _small(entry: CatalogEntry) -> CatalogEntry:
    """Videos at half the size: what is tested with them is not what they show."""
    options = entry.endpoint.options
    if entry.endpoint.family != "video" or "native_size" not in options:
        return entry
    return replace(entry, endpoint=replace(entry.endpoint, options={**options, "native_size": 64}))


CATALOG = Catalog(
    {
        entry.endpoint.id: _small(entry)
        for entry in load(
            None,
            demo=True,
            demo_dir=Path(__file__).parents[2] / "deployments" / "demo",
            families=FAMILIES,
        )
    }
)
"""The demo endpoints."""


def make_lease(
    rig: Rig, name: str, endpoint_id: str, *, alone: bool = False, **fields: Any
) -> Lease:
    """A lease as the queue makes it from a client's body."""
    entry = CATALOG.get(endpoint_id)
    body = {"prompt": "a red circle", **QUICK[endpoint_id], **fields}
    checked = CATALOG.validate(endpoint_id, body).input
    types = entry.schema.media_types(checked)
    tickets = (
        rig.storage.ticket(f"{name}/{n}", media_type, 10**8) for n, media_type in enumerate(types)
    )
    lease = rig.lease(name, entry.endpoint, **checked)
    return replace(lease, upload_tickets=tuple(tickets), alone=alone)

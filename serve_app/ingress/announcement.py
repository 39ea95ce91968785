"""What the log says at the start about the endpoints."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.catalog.catalog import Catalog


def lines(catalog: Catalog) -> Iterator[str]:
    """A sentence for each way of serving: real, by a demo model, which is called one, and not."""
    served = [entry for entry in catalog if not entry.missing]
    if real := [entry.endpoint.id for entry in served if not entry.demo]:
        yield f"Serving {', '.join(real)}."
    if demo := [entry.endpoint.id for entry in served if entry.demo]:
        yield f"Serving {', '.join(demo)} by Darkroom's own demo model, not the real ones."
    if missing := [entry.endpoint.id for entry in catalog if entry.missing]:
        yield f"Not serving {', '.join(missing)}: `darkroom models` says why."

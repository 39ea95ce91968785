"""What the log says at the start about the endpoints."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.catalog.catalog import Catalog


def lines(catalog: Catalog) -> Iterator[str]:
    """One sentence an endpoint. A demo model is called one, and what is not served has a reason."""
    for entry in catalog:
        if entry.missing:
            yield f"Not serving {entry.endpoint.id}. {entry.missing}"
        elif entry.demo:
            yield f"Serving {entry.endpoint.id} (Darkroom's own demo model, not the real one)."
        else:
            yield f"Serving {entry.endpoint.id}."

"""Catalogue that an installation serves by its settings."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from serve_app.catalog.catalog import Catalog, load
from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config


def served_catalog(config: Config) -> Catalog:
    """Catalogue of these settings. Reads its file."""
    models = config.models
    return load(
        models.models, demo=models.serves_demo, demo_dir=_demo_dir(), families=_hosted(config)
    )


def _hosted(config: Config) -> frozenset[str] | None:
    """Families that at least one pool hosts; None means every family."""
    if config.models.pools is None:
        return None
    return frozenset(family for pool in config.models.pools.values() for family in pool.families)


def _demo_dir() -> Path:
    """Directory of the demo models. It is in the data plane's package, which is not imported."""
    found = find_spec("deployments")
    if found is None or not found.submodule_search_locations:
        raise Misconfigured(
            "The package `deployments` is not installed, so the demo models are missing. "
            "Install it beside `serve_app`."
        )
    return Path(next(iter(found.submodule_search_locations))) / "demo"


def startup_lines(catalog: Catalog) -> Iterator[str]:
    """Yield one sentence each for the endpoints that are served by their real model, served by a
    demo model, and not served."""
    served = [entry for entry in catalog if not entry.missing]
    if real := [entry.endpoint.id for entry in served if not entry.demo]:
        yield f"Serving {', '.join(real)}."
    if demo := [entry.endpoint.id for entry in served if entry.demo]:
        yield f"Serving {', '.join(demo)} by Darkroom's own demo model, not the real ones."
    if missing := [entry.endpoint.id for entry in catalog if entry.missing]:
        yield f"Not serving {', '.join(missing)}: run `darkroom models` to see why."

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.catalog.catalog import Catalog, load

DEMO = Path(__file__).parents[2] / "deployments" / "demo"


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """Built-in catalogue with real weights."""
    return load(None, demo=False, demo_dir=DEMO)

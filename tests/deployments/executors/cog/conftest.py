"""The environment with the real Cog, built once for all tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deployments.executors.cog.project import PACKAGES
from deployments.executors.environment import Environments
from serve_app.domain.errors import AppNotStarted


@pytest.fixture(scope="session")
def apps_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a node, with Cog's environment. Skips where no package index is reachable."""
    directory = tmp_path_factory.mktemp("cog")
    environments = Environments(directory / "environments")
    try:
        asyncio.run(environments.python([PACKAGES]))
    except AppNotStarted as error:
        pytest.skip(f"The package cog cannot be installed here: {error.message}")
    return directory

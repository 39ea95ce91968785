"""One environment with ``fal`` for all tests, and one replica that serves the tests' app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.deployments.executors.python.fal.house import (
    CAMERA,
    LIVE,
    DeployedApp,
    FalRig,
    deploy_app,
    environments_with_fal,
    serving,
)


@pytest.fixture(scope="session")
def environments() -> Path:
    return environments_with_fal()


@pytest.fixture(scope="session")
def camera(environments: Path, tmp_path_factory: pytest.TempPathFactory) -> DeployedApp:
    return deploy_app(CAMERA, tmp_path_factory.mktemp("camera"), environments)


@pytest.fixture(scope="session")
def live(environments: Path, tmp_path_factory: pytest.TempPathFactory) -> DeployedApp:
    return deploy_app(LIVE, tmp_path_factory.mktemp("live"), environments)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(
    camera: DeployedApp, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FalRig]:
    async with serving(camera, tmp_path_factory.mktemp("replica")) as fal_rig:
        yield fal_rig

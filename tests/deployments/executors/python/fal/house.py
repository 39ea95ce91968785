"""The tests' app for fal, described by its worker in an environment with the real package ``fal``,
and served by a replica."""

from __future__ import annotations

import asyncio
import atexit
import functools
import hashlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.executors.code import unpack
from deployments.executors.describing import bundle
from deployments.executors.environment import Environments
from deployments.executors.python.deploying import entries
from deployments.executors.python.describing import describe, read_source
from deployments.executors.python.fal.source import files_beside
from serve_app.catalog.schema.json_schema import JsonSchema
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import AppNotStarted
from serve_app.domain.executors.deployable import Choices
from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Outcome
from serve_app.domain.request import Priority
from tests.deployments.executors.rig import ExecutorRig

CAMERA = Path(__file__).with_name("camera_app.py")
LIVE = Path(__file__).with_name("live_app.py")


@dataclass(frozen=True)
class DeployedApp:
    """An app as ``darkroom deploy`` would store it."""

    code: bytes
    endpoints: Mapping[str, Endpoint]
    found: Mapping[str, Any]
    environments: Path


def deploy_app(path: Path, folder: Path, environments: Path) -> DeployedApp:
    """Read, bundle and describe the only app of a file. ``folder``: for its code."""
    (app,) = read_source(path)
    beside = files_beside(path, app.name, path.parent)
    code = bundle(path, (), beside)
    unpack(code, folder / "code")
    description = asyncio.run(describe(folder / "code", path.stem, app, Environments(environments)))
    whole = {**description, "class": f"{path.stem}:{app.name}"}
    digest = hashlib.sha256(code).hexdigest()
    stored = dict(entries(whole, Choices(None), digest))
    endpoints = {
        entry["options"]["app"]["path"]: Endpoint(
            name, "python", Weights(""), "json", options=entry["options"]
        )
        for name, entry in stored.items()
    }
    return DeployedApp(code, endpoints, description, environments)


@functools.cache
def _built() -> tuple[Path, str]:
    """Folder of environments, and why there is none with ``fal``; empty: there is one."""
    folder = Path(tempfile.mkdtemp(prefix="darkroom-fal-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        asyncio.run(Environments(folder).python((), for_fal=True))
    except AppNotStarted as error:
        return folder, error.message
    return folder, ""


def environments_with_fal() -> Path:
    """Folder of environments, with one that has ``fal``: one for all tests of this process. Skips
    the test if no index of packages is there."""
    folder, problem = _built()
    if problem:
        pytest.skip(f"fal cannot be installed here: {problem}")
    return folder


class FalRig:
    """A replica that serves an app for fal."""

    def __init__(self, app: DeployedApp, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "environments").symlink_to(app.environments)
        self.app = app
        self.folder = folder
        self.rig = ExecutorRig(folder, slots=6, code=app.code)
        self._count = 0

    def connect(self, path: str) -> LeaseKey:
        """Offer a session."""
        self._count += 1
        lease = {"lease_endpoint": self.app.endpoints[path], "lease_priority": Priority.REALTIME}
        return self.rig.offer(f"s{self._count}", realtime=True, **lease)

    def offer(self, path: str, **arguments: Any) -> LeaseKey:
        """Offer a request, whose input is checked as the ingress does."""
        self._count += 1
        endpoint = self.app.endpoints[path]
        checked, _ = JsonSchema(endpoint).validate(arguments)
        return self.rig.offer(f"r{self._count}", lease_endpoint=endpoint, lease_input=checked)

    async def call(self, path: str, **arguments: Any) -> Outcome:
        async with asyncio.timeout(240):
            return await self.rig.outcome(self.offer(path, **arguments))

    async def output(self, path: str, **arguments: Any) -> Mapping[str, Any]:
        outcome = await self.call(path, **arguments)
        assert outcome.failure is None, outcome.failure
        return outcome.output or {}

    async def refusal(self, path: str, **arguments: Any) -> Any:
        outcome = await self.call(path, **arguments)
        assert outcome.failure is not None
        return outcome.failure


@asynccontextmanager
async def serving(app: DeployedApp, folder: Path) -> AsyncIterator[FalRig]:
    fal_rig = FalRig(app, folder)
    await fal_rig.rig.replica.start()
    try:
        yield fal_rig
    finally:
        await fal_rig.rig.replica.aclose()

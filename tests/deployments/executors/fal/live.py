"""An ingress whose queue feeds a real replica, which serves the tests' realtime app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from serve_app.catalog.catalog import Catalog, load
from serve_app.domain.realtime import AppMessages, ReplicaSlot
from tests.deployments.executors.fal.house import DeployedApp
from tests.deployments.executors.rig import ExecutorRig
from tests.ingress.house import DEMO, House


class RigSessions:
    """``AppSessions`` over a replica in this process, as in its deployment class."""

    def __init__(self, rig: ExecutorRig) -> None:
        self._sessions = rig.replica.sessions

    async def send_message(self, seat: ReplicaSlot, message: bytes | str) -> None:
        await self._sessions.send_message(seat.held, message)

    async def next_messages(self, seat: ReplicaSlot, within_s: float) -> AppMessages:
        return await self._sessions.next_messages(seat.held, within_s)

    async def end(self, seat: ReplicaSlot) -> None:
        self._sessions.end(seat.held)


def catalog_of(app: DeployedApp, folder: Path) -> Catalog:
    """Catalogue with the endpoints of an app."""
    entries: Mapping[str, Any] = {
        each.id: {"family": "python", "schema": "json", "options": each.options}
        for each in app.endpoints.values()
    }
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"built_in": False, "endpoints": entries}))
    return load(path, demo=True, demo_dir=DEMO)


@asynccontextmanager
async def serving_house(app: DeployedApp, folder: Path, house: House) -> AsyncIterator[ExecutorRig]:
    """Have a replica in ``folder`` run the requests and sessions of a house."""
    (folder / "environments").symlink_to(app.environments)
    rig = ExecutorRig(folder, slots=4, code=app.code, queue=house.queue)
    house.services.sessions = RigSessions(rig)  # type: ignore[assignment]
    await rig.replica.start()
    try:
        yield rig
    finally:
        await rig.replica.aclose()

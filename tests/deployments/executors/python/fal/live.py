"""An ingress whose queue feeds a real replica, which serves the tests' realtime app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import yaml

from deployments.executors.session import OpenAppSessions
from serve_app.catalog.catalog import Catalog, load
from serve_app.domain.lease import LeaseKey
from serve_app.domain.realtime import AppMessages, ReplicaSlot, SessionEnd
from tests.deployments.executors.python.fal.house import DeployedApp, FalRig
from tests.deployments.executors.rig import ExecutorRig
from tests.ingress.house import DEMO, House


class RigSessions:
    """``AppSessions`` over a replica in this process, as in its deployment class."""

    def __init__(self, rig: ExecutorRig) -> None:
        self._sessions = rig.replica.sessions

    async def send_message(self, seat: ReplicaSlot, message: bytes | str) -> None:
        await self._sessions.send_message(seat.lease_key, message)

    async def next_messages(self, seat: ReplicaSlot, within_s: float) -> AppMessages:
        return await self._sessions.next_messages(seat.lease_key, within_s)

    async def end(self, seat: ReplicaSlot) -> None:
        self._sessions.end(seat.lease_key)


LONG_S = 240.0


class Client:
    """Client of a session, as the ingress is one."""

    def __init__(self, rig: FalRig, path: str) -> None:
        self.lease_key: LeaseKey = rig.connect(path)
        self._rig = rig
        self._heard: list[bytes | str] = []
        self.end: SessionEnd | None = None

    @property
    def sessions(self) -> OpenAppSessions:
        return self._rig.rig.replica.sessions

    async def wait_for_lease(self) -> None:
        async with asyncio.timeout(LONG_S):
            running = self._rig.rig.replica._attempts
            await self._rig.rig.port.until(lambda: self.lease_key in running)

    async def send(self, message: dict[str, Any] | str | bytes) -> None:
        packed = msgpack.packb(message) if isinstance(message, dict) else message
        await self.wait_for_lease()
        async with asyncio.timeout(LONG_S):
            await self.sessions.send_message(self.lease_key, packed)

    async def hear(self) -> Any:
        """The next message, of JSON or msgpack. None: the session has ended."""
        first = await self.heard()
        if first is None:
            return None
        return json.loads(first) if isinstance(first, str) else msgpack.unpackb(first)

    async def heard(self) -> bytes | str | None:
        """The next message as it came. None: the session has ended."""
        await self.wait_for_lease()
        async with asyncio.timeout(LONG_S):
            while not self._heard and self.end is None:
                got = await self.sessions.next_messages(self.lease_key, 1.0)
                self._heard += got.messages
                self.end = got.end
        return self._heard.pop(0) if self._heard else None

    async def leave(self) -> Any:
        """Outcome of the session's request after the client has left."""
        self.sessions.end(self.lease_key)
        async with asyncio.timeout(LONG_S):
            return await self._rig.rig.outcome(self.lease_key)


def catalog_of(app: DeployedApp, folder: Path) -> Catalog:
    """Catalogue with the endpoints of an app."""
    entries: Mapping[str, Any] = {
        endpoint.id: {"family": "python", "schema": "json", "options": endpoint.options}
        for endpoint in app.endpoints.values()
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

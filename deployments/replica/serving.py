"""What the Ray Serve deployment classes of all pools share."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Generic, TypeVar

from deployments.ingress_client.local import LocalLeasePort
from deployments.replica.replica import Replica
from serve_app.domain.errors import Unavailable

ENDED = 75
"""Exit status of a process whose replica's term has ended."""

end_process = partial(os._exit, ENDED)
"""End the process at once: Ray may no longer know of it."""

R = TypeVar("R", bound=Replica[Any])


class ReplicaDeployment(Generic[R]):
    """Deployment of a pool. It only wires a ``Replica``. Serve awaits the constructor of a
    subclass, so that also starts what it creates."""

    _replica: R | None = None
    _port: LocalLeasePort | None = None

    @property
    def _started(self) -> R:
        if self._replica is None:
            raise Unavailable("The replica has not started.")
        return self._replica

    async def check_health(self) -> None:
        """Health check of Serve. If it raises, Serve replaces the replica."""
        if self._replica is not None:
            self._replica.check_health()

    async def __del__(self) -> None:
        if self._replica is not None:
            await self._replica.aclose()
        await self._aclose()
        if self._port is not None:
            await self._port.aclose()

    async def _aclose(self) -> None:
        """End what was created beside the replica."""

"""Realtime sessions over Serve's handles."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayActorError

from serve_app.domain.errors import DarkroomError, Fenced
from serve_app.domain.session import Drawn, Frame, Seat


class HandleSessions:
    """``Sessions`` over the handles of the pools, by name. All calls from one event loop."""

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles = handles
        self._methods: dict[tuple[str, str], Any] = {}

    async def draw(self, seat: Seat, frame: Frame) -> Drawn:
        return await self._call(seat, "draw", frame)

    async def end(self, seat: Seat) -> None:
        await self._call(seat, "end_session")

    async def _call(self, seat: Seat, name: str, *arguments: object) -> Any:
        method = self._methods.get((seat.pool, name))
        if method is None:
            # Kept and pickled in C for the reasons that replicas have (`HandleLeasePort`).
            method = self._methods[seat.pool, name] = self._handles[seat.pool].options(
                method_name=name, request_serialization="pickle", response_serialization="pickle"
            )
        response = method.remote(seat.replica_id, seat.held, *arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except DarkroomError:
            raise
        except RayActorError as error:
            raise Fenced("The replica that held the session is gone.") from error

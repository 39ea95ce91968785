"""Realtime sessions over Serve's handles, and the routing of these calls to their replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from serve_app.domain.errors import DarkroomError, Fenced
from serve_app.domain.realtime import AppMessages, Frame, FrameResult, ReplicaSlot
from serve_app.settings import pool_application

RanIn = Callable[[str | None, str], str]
"""Pool of a replica by its id and the pool whose requests it runs. They differ for overflow."""


class HandleSessions:
    """``ReplicaSessions`` over the handles of the pools, by name. Use on one event loop."""

    ran_in: RanIn | None = None  # None: each replica is of the pool whose requests it runs

    def __init__(self, handles: Mapping[str, Any]) -> None:
        """``handles``: of pools in the ingress's own application. Each other pool has its own."""
        self._handles = dict(handles)
        self._methods: dict[tuple[str, str], Any] = {}

    async def generate_frame(self, seat: ReplicaSlot, frame: Frame) -> FrameResult:
        return await self._call(seat, "generate_frame", frame)

    async def end(self, seat: ReplicaSlot) -> None:
        await self._call(seat, "end_session")

    async def send_message(self, seat: ReplicaSlot, message: bytes | str) -> None:
        await self._call(seat, "send_message", message)

    async def next_messages(self, seat: ReplicaSlot, within_s: float) -> AppMessages:
        return await self._call(seat, "next_messages", within_s)

    async def _call(self, seat: ReplicaSlot, name: str, *arguments: object) -> Any:
        pool = seat.pool if self.ran_in is None else self.ran_in(seat.replica_id, seat.pool)
        method = self._methods.get((pool, name))
        if method is None:
            # Cached, and pickled in C, for the same reasons as in replicas (`HandleLeasePort`).
            method = self._methods[pool, name] = self._handle(pool).options(
                method_name=name, request_serialization="pickle", response_serialization="pickle"
            )
        response = method.remote(seat.replica_id, seat.lease_key, *arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except DarkroomError:
            raise
        except RayActorError as error:
            raise Fenced("The replica of this session is gone. Connect again.") from error

    def _handle(self, pool: str) -> Any:
        handle = self._handles.get(pool)
        if handle is None:
            handle = self._handles[pool] = serve.get_deployment_handle(
                pool, pool_application(pool), _check_exists=False
            )
        return handle


# Routing of calls by handle. All of them are about realtime sessions, and one replica holds each
# session. Replicas poll for other work.


class SessionRouter(RequestRouter):
    """Request router of a pool.

    The first argument of each call is the id of its replica. A call to a replica that is gone
    waits until it is cancelled.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return []
        # Without a backoff, Serve would retry at once and forever, on the event loop of all calls.
        pending_request.routing_context.should_backoff = True
        target = pending_request.args[0]
        named = [
            replica for replica in candidate_replicas if replica.replica_id.unique_id == target
        ]
        return [named]

"""How Serve's handles of a pool choose the replica for a call: the one that the call names.

All calls of pools by handle are about realtime sessions, which one replica holds; work is asked for
by the replicas themselves.
"""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class SeatRouter(RequestRouter):
    """The first argument of each call is the id of its replica. A call to one that is gone waits
    until it is cancelled."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return []
        # Without it Serve would ask again at once, for ever, on the event loop of all calls.
        pending_request.routing_context.should_backoff = True
        wanted = pending_request.args[0]
        named = [each for each in candidate_replicas if each.replica_id.unique_id == wanted]
        return [named]

"""What ties an installation to one machine, and the refusal of a second one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import ray

from serve_app.domain.errors import Misconfigured

Nodes = Callable[[], Sequence[str]]


def alive_nodes() -> Sequence[str]:
    """Ids of the Ray cluster's nodes; asks Ray, so it blocks."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


class OneNode:
    """``database``: it is the embedded one. ``storage``: it is a directory."""

    def __init__(self, *, database: bool, storage: bool, nodes: Nodes = alive_nodes) -> None:
        self._ties = [
            *(["PostgreSQL is the embedded one: set DARKROOM_DATABASE_URL"] if database else []),
            *(["artifacts lie in a directory: set DARKROOM_S3_BUCKET"] if storage else []),
        ]
        self._nodes = nodes

    async def check(self) -> None:
        """``Misconfigured`` when there is a tie and the Ray cluster has a second node."""
        if not self._ties:
            return
        count = len(await asyncio.to_thread(self._nodes))
        if count > 1:
            raise Misconfigured(
                f"This Ray cluster has {count} nodes, and this Darkroom is tied to one: "
                f"{'; '.join(self._ties)}."
            )

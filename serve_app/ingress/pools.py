"""Which pool serves which family."""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Unavailable
from serve_app.settings import PoolConfig

STUDIO = "studio"
"""The one pool of an installation that configures none: it hosts every family."""


class PoolMap:
    """Family → pool. Of several pools that host a family, the first configured is taken."""

    def __init__(self, pools: Mapping[str, PoolConfig] | None) -> None:
        self._by_family: dict[str, str] | None = None
        if pools is not None:
            self._by_family = {}
            for name, pool in pools.items():
                for family in pool.families:
                    self._by_family.setdefault(family, name)

    def pool_of(self, endpoint: Endpoint) -> str:
        """``Unavailable`` when no pool of this installation can run the endpoint."""
        if self._by_family is None:
            return STUDIO
        pool = self._by_family.get(endpoint.family)
        if pool is None:
            raise Unavailable(
                f"No pool of this installation hosts the family `{endpoint.family}` of "
                f"{endpoint.id}: add it to one in DARKROOM_POOLS."
            )
        return pool

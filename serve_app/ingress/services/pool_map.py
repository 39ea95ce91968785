"""Map from endpoints to worker pools."""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Unavailable
from serve_app.settings import PoolConfig

STUDIO = "studio"
"""Only pool of an installation that configures none. It hosts every family."""


class PoolMap:
    """Endpoint → pool: the one that its entry names, or else the first configured one that names
    it, or else the first that hosts its family and names no endpoints. Pools that take requests of
    another one are none of these."""

    def __init__(self, pools: Mapping[str, PoolConfig] | None) -> None:
        self._by_family: dict[str, str] | None = None
        self._by_endpoint: dict[str, str] = {}
        self.configured: Mapping[str, PoolConfig] = pools or {}
        if pools is not None:
            self._by_family = {}
            for name, pool in pools.items():
                if pool.beside_or_after:
                    continue  # it has no queue
                for endpoint in pool.endpoints:
                    self._by_endpoint.setdefault(endpoint, name)
                for family in pool.families if not pool.endpoints else ():
                    self._by_family.setdefault(family, name)

    def pool_of(self, endpoint: Endpoint, named: str = "") -> str:
        """Pool that runs the endpoint. ``named``: by its entry; empty if it names none.
        ``Unavailable``: no pool of this installation can."""
        if self._by_family is None:
            return STUDIO
        if named in self.configured:
            before = self.configured[named].beside_or_after
            if before:
                raise Unavailable(
                    f"The entry of {endpoint.id} names the pool {named}, which takes requests of "
                    f"{before} and has no queue. Name {before} in the entry."
                )
            return named
        own = self._by_endpoint.get(endpoint.id)
        if own is not None and endpoint.family not in self.configured[own].families:
            raise Unavailable(
                f"The pool {own} names {endpoint.id} in `endpoints`, but does not host its "
                f"family `{endpoint.family}`. Add it to the pool's `families`."
            )
        pool = own or self._by_family.get(endpoint.family)
        if pool is None:
            only = any(endpoint.family in config.families for config in self.configured.values())
            raise Unavailable(
                f"No pool of this installation hosts the family `{endpoint.family}` of "
                f"{endpoint.id}{', except for other `endpoints`' if only else ''}. Add it to a "
                "pool in DARKROOM_POOLS."
            )
        return pool

    def device_bytes(self, pool: str) -> int | None:
        """Memory of each GPU of a pool. None if its settings do not say."""
        config = self.configured.get(pool)
        return None if config is None else config.device_bytes

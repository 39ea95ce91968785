"""Requests that wait in pools that an installation does not have any more, or that do not host the
family of their endpoint any more."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection

from serve_app.domain.errors import DarkroomError, EndpointNotFound
from serve_app.domain.executors.fallback import QueuedGroup
from serve_app.domain.workflows.definition import POOL as WORKFLOW_POOL
from serve_app.ingress.services.services import Services

log = logging.getLogger(__name__)

LedPools = Callable[[], Awaitable[Collection[tuple[str, str]]]]
POOL_GONE_S = 60.0
"""How long a pool has to be gone: a cluster that starts again has it back within seconds."""


class PoolChanges:
    """Moves what is queued in pools that are gone, or have not the family that its entry names now,
    to the pools that its endpoints have now. A pool is fixed at the submit, so nothing would ever
    run it."""

    def __init__(
        self, services: Services, cluster: str, led: LedPools, gone_s: float = POOL_GONE_S
    ) -> None:
        """``cluster``: id of this one. ``led``: all clusters on this database, with their pools."""
        self._services = services
        self._cluster = cluster
        self._led = led
        self._gone_s = gone_s
        # Pools that are gone, and endpoints that a pool has not the family of; and since when.
        self._seen: dict[tuple[str, str], float] = {}
        self._stay: set[tuple[str, str]] = set()  # pools and endpoints that no pool runs

    async def look(self) -> None:
        """Move what waits in pools that neither this cluster nor another one has had for long, or
        that have long been without its family."""
        configured = self._services.pools.configured
        if not configured:
            return
        with_queue = {name for name, pool in configured.items() if not pool.beside_or_after}
        elsewhere = {
            pool
            for cluster, pool in await self._led()
            if cluster != self._cluster or pool not in configured
        }
        fallbacks, now = self._services.queue.fallbacks, self._services.clock.monotonic()
        outside = await fallbacks.queued_outside(with_queue | elsewhere | {WORKFLOW_POOL})
        within = await fallbacks.queued_within(with_queue - elsewhere)
        groups = [((group.pool, ""), group) for group in outside]
        groups += [
            ((group.pool, group.endpoint), group)
            for group in within
            if self._is_without_family(group)
        ]
        self._seen = {key: self._seen.get(key, now) for key, _ in groups}
        for key, group in groups:
            if now - self._seen[key] >= self._gone_s:
                await self._move(group)

    def _is_without_family(self, group: QueuedGroup) -> bool:
        """True if the endpoint's entry names a family now that another pool hosts, and not this."""
        entry = self._services.catalog.of_tenant(group.tenant).find(group.endpoint)
        families = self._services.pools.configured[group.pool].families
        if entry is None or entry.endpoint.family in families:
            return False
        return self._services.pool_if_any(entry) not in ("", group.pool)

    async def _move(self, group: QueuedGroup) -> None:
        stays = group.pool, group.endpoint
        try:
            pool = self._pool_of(group)
        except DarkroomError as error:
            if stays not in self._stay:
                log.warning(
                    "Requests for %s wait in the pool %s, which is not configured. %s",
                    group.endpoint,
                    group.pool,
                    error.message,
                )
            self._stay.add(stays)
            return
        moved = await self._services.queue.fallbacks.change_pool(group, pool)
        log.info(
            "%d queued requests for %s wait in the pool %s now: the pool %s does not run them.",
            moved,
            group.endpoint,
            pool,
            group.pool,
        )

    def _pool_of(self, group: QueuedGroup) -> str:
        entry = self._services.catalog.of_tenant(group.tenant).find(group.endpoint)
        pool = self._services.pool_of(entry) if entry is not None else ""
        if pool not in self._services.pools.configured:
            raise EndpointNotFound("The catalogue has no such endpoint: add it, or cancel them.")
        return pool

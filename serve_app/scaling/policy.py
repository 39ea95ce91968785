"""Autoscaling policy for Ray Serve: the number of replicas of a pool, from the queue's demand.

Ray Serve runs the policy in its controller's loop every 100 ms, where it must never block or raise,
and pickles this module by value. The module therefore imports only the standard library and ray. A
thread reads the demand from Ray's internal KV. Without a fresh demand, the current target is kept.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import Any

from ray.experimental import internal_kv

NAMESPACE = b"darkroom"
STALE_AFTER_S = 10.0  # an older demand does not change the target
READ_EVERY_S = 0.5


def demand_key(scope: str, pool: str) -> bytes:
    """Key under which the ingress writes a pool's demand and the policy reads it.

    ``scope`` is the data directory. It separates two Darkrooms on one Ray cluster.
    """
    return f"demand/{scope}/{pool}".encode()


@dataclass(frozen=True)
class Bounds:
    """Scaling settings of a pool."""

    slots: int  # generations that a replica runs at once
    least: int
    most: int
    spare: int  # replicas beyond what the demand needs
    keep_alive_s: float  # idle time before a replica is removed


def target_replicas(
    bounds: Bounds, *, queued: int, running: int, idle_s: float, current: int
) -> int:
    """Number of replicas that a pool should have.

    The pool grows at once to what the demand needs plus ``spare``. It shrinks only after it has
    been idle for ``keep_alive_s``: Serve stops the newest replica, not an idle one, so a pool with
    leases never shrinks.
    """
    asked = queued + running
    spare = bounds.spare if asked else 0
    needed = math.ceil(asked / bounds.slots) + spare
    wanted = max(bounds.least, min(bounds.most, needed))
    if wanted >= current:
        return wanted
    if asked or idle_s < bounds.keep_alive_s:
        return current
    return wanted


class PoolPolicy:
    """Policy of one pool, instantiated once in Serve's controller."""

    def __init__(
        self,
        scope: str,
        pool: str,
        slots: int,
        least: int,
        most: int,
        spare: int,
        keep_alive_s: float,
    ) -> None:
        self._key = demand_key(scope, pool)
        self._bounds = Bounds(slots, least, most, spare, keep_alive_s)
        self._latest: dict[str, Any] | None = None
        self._changed_at = 0.0
        self._reader: threading.Thread | None = None

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return ``(target, state)``, as Serve's calling convention requires."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, daemon=True, name="demand")
            self._reader.start()
        current = context.target_num_replicas
        latest = self._latest
        if latest is None or time.monotonic() - self._changed_at > STALE_AFTER_S:
            return current, {}
        target = target_replicas(
            self._bounds,
            queued=latest["queued"],
            running=latest["running"],
            idle_s=latest["idle_s"],
            current=current,
        )
        return target, {}

    def _read(self) -> None:
        """Poll the KV forever.

        A demand is fresh if its sequence number has changed, so that no two clocks are compared.
        """
        while True:
            try:
                demand = self._stored()
                if demand and (self._latest is None or demand["seq"] != self._latest["seq"]):
                    self._latest = demand
                    self._changed_at = time.monotonic()
            except Exception as error:
                logging.getLogger("ray.serve").warning("The demand cannot be read: %r", error)
            time.sleep(READ_EVERY_S)

    def _stored(self) -> dict[str, Any] | None:
        if not internal_kv._internal_kv_initialized():  # noqa: SLF001 Ray offers no public KV
            return None
        raw = internal_kv._internal_kv_get(self._key, namespace=NAMESPACE)  # noqa: SLF001
        return json.loads(raw) if raw else None

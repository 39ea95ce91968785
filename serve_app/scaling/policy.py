"""Autoscaling policy for Ray Serve: the number of replicas of a pool, from the queue's demand.

Ray Serve runs the policy in its controller's loop every 100 ms, where it must never block or raise,
and pickles this module by value. The module therefore imports only the standard library and ray. A
thread reads the pool's bounds and its demand from Ray's internal KV: as arguments of the policy,
bounds would make Ray replace every replica when they change. Without a fresh demand, the current
target is kept, within the bounds.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
from typing import Any

from ray.experimental import internal_kv

NAMESPACE = b"darkroom"
STALE_AFTER_S = 10.0  # an older demand does not change the target
READ_EVERY_S = 0.5
ENOUGH = 0.95
"""Share of the time in which a shrunk pool would have been large enough. With all of the time, the
noise of a steady load keeps 7 to 10 % more (``python -m benchmarks.scaling``)."""
SETTLE_S = 60.0
"""Time after growing in which a pool does not shrink, so that a replica that was started for a
short queue is not stopped before it is ready."""


def demand_key(scope: str, pool: str) -> bytes:
    """Key under which the ingress writes a pool's demand and the policy reads it.

    ``scope`` is the data directory. It separates two Darkrooms on one Ray cluster.
    """
    return f"demand/{scope}/{pool}".encode()


def target_key(scope: str, pool: str) -> bytes:
    """Key under which the policy writes how many replicas it wants; ``scope`` as in
    ``demand_key``."""
    return f"target/{scope}/{pool}".encode()


def bounds_key(scope: str, pool: str) -> bytes:
    """Key under which the ingress writes a pool's ``Bounds``; ``scope`` as in ``demand_key``."""
    return f"bounds/{scope}/{pool}".encode()


@dataclass(frozen=True)
class Bounds:
    """Scaling settings of a pool."""

    slots: int  # generations that a replica runs at once
    least: int
    most: int
    spare: int  # replicas beyond what the demand needs
    keep_alive_s: float  # time for which a replica that is not needed is kept
    target_wait_s: float  # time in which all that is queued should have started


@dataclass(frozen=True)
class Load:
    """Requests of a pool at one moment."""

    queued: int
    running: int
    queued_s: float  # seconds of a slot that the queued ones take together
    idle_s: float  # time since the pool had a request
    warm: int = 0  # replicas that its warm targets need


def needed_replicas(bounds: Bounds, load: Load) -> int:
    """Replicas whose slots run what runs now, and start all that is queued within the target; at
    least those that warm targets need.

    A queued request never needs more than one slot, and any request needs a replica.
    """
    least = max(bounds.least, min(bounds.most, load.warm))
    if not load.queued and not load.running:
        return least
    queued: float = load.queued
    if bounds.target_wait_s > 0:
        queued = min(queued, load.queued_s / bounds.target_wait_s)
    needed = max(1, math.ceil((load.running + queued) / bounds.slots)) + bounds.spare
    return max(least, min(bounds.most, needed))


class Scaler:
    """Number of replicas of a pool over time.

    The pool grows at once to what is needed. It shrinks, also while requests run, to what was
    enough during ``ENOUGH`` of the last ``keep_alive_s``; a replica that is stopped hands its
    requests over. The last replica stays until the pool has been idle for ``keep_alive_s``.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds  # may be replaced at any time
        self._needed: deque[tuple[float, int]] = deque()  # time, replicas
        self._sorted: list[int] = []
        self._since = 0.0  # since when without a gap
        self._grown_at = float("-inf")

    def target(self, load: Load, current: int, now: float) -> int:
        """Replicas that the pool should have. ``now``: seconds of a monotonic clock."""
        keep_s = self.bounds.keep_alive_s
        needed = needed_replicas(self.bounds, load)
        self._observe(needed, now)
        if needed > current:
            self._grown_at = now
        if needed >= current:
            return needed
        if not load.queued and not load.running and load.idle_s >= keep_s:
            return needed
        if now - self._since < keep_s:
            return current  # what was needed before is not known
        if now - self._grown_at < min(keep_s, SETTLE_S):
            return current
        enough = self._sorted[min(len(self._sorted) - 1, int(ENOUGH * len(self._sorted)))]
        return min(current, max(1, needed, enough))

    def _observe(self, needed: int, now: float) -> None:
        if not self._needed or now - self._needed[-1][0] > STALE_AFTER_S:
            self._since = now
        self._needed.append((now, needed))
        insort(self._sorted, needed)
        while self._needed[0][0] < now - self.bounds.keep_alive_s:
            _, past = self._needed.popleft()
            self._sorted.pop(bisect_left(self._sorted, past))


class PoolPolicy:
    """Policy of one pool, instantiated once in Serve's controller."""

    def __init__(self, scope: str, pool: str) -> None:
        """Serve passes these by name."""
        self._keys = bounds_key(scope, pool), demand_key(scope, pool)
        self._target_key = target_key(scope, pool)
        self._target: int | None = None
        self._target_written: int | None = None
        self._scaler: Scaler | None = None
        self._latest: dict[str, Any] | None = None
        self._changed_at = 0.0
        self._reader: threading.Thread | None = None

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return ``(target, state)``, as Serve's calling convention requires."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, daemon=True, name="demand")
            self._reader.start()
        current, scaler, latest = context.target_num_replicas, self._scaler, self._latest
        if scaler is None:
            return current, {}
        now = time.monotonic()
        if latest is None or now - self._changed_at > STALE_AFTER_S:
            self._target = max(scaler.bounds.least, min(scaler.bounds.most, current))
            return self._target, {}
        load = Load(
            latest["queued"],
            latest["running"],
            latest["queued_s"],
            latest["idle_s"],
            latest.get("warm", 0),
        )
        self._target = scaler.target(load, min(scaler.bounds.most, current), now)
        return self._target, {}

    def _read(self) -> None:
        """Poll the KV forever."""
        while True:
            try:
                bounds, demand = map(_stored, self._keys)
                self.note(None if bounds is None else Bounds(**bounds), demand)
                self._write_target()
            except Exception as error:
                logging.getLogger("ray.serve").warning("The demand cannot be read: %r", error)
            time.sleep(READ_EVERY_S)

    def _write_target(self) -> None:
        """Write the target for the status page, when it has changed."""
        target = self._target
        if target is None or target == self._target_written:
            return
        if internal_kv._internal_kv_initialized():  # noqa: SLF001 Ray offers no public KV
            raw = json.dumps({"replicas": target}).encode()
            internal_kv._internal_kv_put(self._target_key, raw, namespace=NAMESPACE)  # noqa: SLF001
            self._target_written = target

    def note(self, bounds: Bounds | None, demand: dict[str, Any] | None) -> None:
        """Note what is stored. None: nothing is.

        A demand is fresh if its sequence number has changed, so that no two clocks are compared.
        """
        if bounds is not None and self._scaler is None:
            self._scaler = Scaler(bounds)
        elif bounds is not None and self._scaler is not None:
            self._scaler.bounds = bounds
        if demand and (self._latest is None or demand["seq"] != self._latest["seq"]):
            self._latest = demand
            self._changed_at = time.monotonic()


def _stored(key: bytes) -> dict[str, Any] | None:
    if not internal_kv._internal_kv_initialized():  # noqa: SLF001 Ray offers no public KV
        return None
    raw = internal_kv._internal_kv_get(key, namespace=NAMESPACE)  # noqa: SLF001
    return json.loads(raw) if raw else None

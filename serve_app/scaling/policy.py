"""Autoscaling policy for Ray Serve: the number of replicas of a pool, from the queue's demand.

Ray Serve runs the policy in its controller's loop every 100 ms, where it must never block or raise,
and pickles this module by value. The module therefore imports only the standard library and ray. A
thread reads the pool's bounds and its demand from Ray's internal KV: as arguments of the policy,
bounds would make Ray replace every replica when they change. Without a fresh demand, the current
target is kept, within the bounds.

A pool may take the overflow of another one, which is filled first: ``EarlierPool`` finds what that
one leaves. Its policy writes how many of its replicas are ready, for this.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.experimental import internal_kv

NAMESPACE = b"darkroom"
STALE_AFTER_S = 10.0  # an older demand does not change the target
READ_EVERY_S = 0.5
WRITE_EVERY_S = 4.0  # at least, also if nothing has changed: readers tell by it that this one lives
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
    """Key under which the policy writes how many replicas it wants, and how many are ready;
    ``scope`` as in ``demand_key``."""
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
    overflow_of: str = ""  # pool that is filled before this one; empty: none
    overflow_after_s: float = 0.0  # time that that one has; see ``EarlierPool``


@dataclass(frozen=True)
class Load:
    """Requests of a pool at one moment."""

    queued: int
    running: int
    queued_s: float  # seconds of a slot that the queued ones take together
    idle_s: float  # time since the pool had a request
    warm: int = 0  # replicas that its warm targets need
    quarantined: int = 0  # replicas that do not count, as they get a request now and then


def needed_replicas(bounds: Bounds, load: Load) -> int:
    """Replicas whose slots run what runs now, and start all that is queued within the target,
    beside the quarantined ones; at least those that warm targets need.

    A queued request never needs more than one slot, and any request needs a replica.
    """
    least = max(bounds.least, min(bounds.most, load.warm))
    if not load.queued and not load.running:
        return least
    slots = load.running + _slots_of_queued(load, bounds.target_wait_s)
    needed = max(1, math.ceil(slots / bounds.slots)) + bounds.spare + load.quarantined
    return max(least, min(bounds.most, needed))


def _slots_of_queued(load: Load, within_s: float) -> float:
    """Slots that start all that is queued within a time."""
    return min(load.queued, load.queued_s / within_s) if within_s > 0 else load.queued


@dataclass(frozen=True)
class Replicas:
    """Replicas of a pool at one moment."""

    target: int = 0
    ready: int = 0
    quarantined: int = 0  # of those that are ready


class EarlierPool:
    """What a pool leaves to the one that takes its overflow, where it has ``after_s`` seconds:

    - to start what is queued. What is left is beyond the slots of its most replicas for longer: a
      queue that it works off by then starts no replica, which would be ready too late to help.
    - to have each replica that it wants ready. Later that one does not count until it is: a spot
      group may have no node for it. Then all that it should run is left.

    Quarantined replicas do not count.
    """

    def __init__(self) -> None:
        self._missing: deque[float] = deque()  # since when, of each replica that is not ready
        self._ready = 0
        self._doubted_from = math.inf  # replicas above this number are doubted
        self._left_at: float | None = None

    def remaining_load(
        self, bounds: Bounds, load: Load, replicas: Replicas, after_s: float, now: float
    ) -> Load:
        """Load that is left, without warm targets and quarantined replicas, which a pool has of its
        own. ``idle_s``: time since something was."""
        load = replace(load, quarantined=replicas.quarantined)
        needed = min(bounds.most, max(needed_replicas(bounds, load), replicas.target))
        self._observe(needed, replicas.ready, after_s, now)
        late = sum(now - since >= after_s for since in self._missing)
        slots = max(0, needed - late - replicas.quarantined) * bounds.slots
        queued = _slots_of_queued(load, bounds.target_wait_s)
        too_many = load.running + _slots_of_queued(load, max(bounds.target_wait_s, after_s))
        beyond = max(too_many, min(load.running + queued, needed * bounds.slots)) - slots
        if beyond > 0 or self._left_at is None:
            self._left_at = now
        if beyond <= 0:
            return Load(0, 0, 0.0, now - self._left_at)
        waiting = min(beyond, queued)  # slots for those that wait
        running = math.ceil(beyond - waiting)
        if not waiting:
            return Load(0, running, 0.0, 0.0)
        share = waiting / queued
        number = math.ceil(load.queued * share - 1e-9)  # against the error of the division
        return Load(number, running, load.queued_s * share, 0.0)

    def _observe(self, needed: int, ready: int, after_s: float, now: float) -> None:
        """Note which replicas are missing. Those that become ready are the ones that were wanted
        first, and those that are no longer wanted are the last ones."""
        if ready > self._doubted_from:
            self._doubted_from = math.inf
        for _ in range(min(ready - self._ready, len(self._missing))):
            self._missing.popleft()
        self._ready = ready
        missing = max(0, needed - ready)
        while len(self._missing) > missing:
            if now - self._missing.pop() >= after_s:
                self._doubted_from = min(self._doubted_from, ready)
        while len(self._missing) < missing:
            doubted = ready + len(self._missing) >= self._doubted_from
            self._missing.append(-math.inf if doubted else now)


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


@dataclass(frozen=True)
class Earlier:
    """Pool that is filled before this one, as its policy wrote it last."""

    name: str
    bounds: Bounds
    written: dict[str, Any] | None  # by its policy; None: never


class PoolPolicy:
    """Policy of one pool, instantiated once in Serve's controller."""

    def __init__(self, scope: str, pool: str) -> None:
        """Serve passes these by name."""
        self._scope, self._pool = scope, pool
        self._replicas: Replicas | None = None
        self._written: Replicas | None = None
        self._written_at = float("-inf")
        self._scaler: Scaler | None = None
        self._demand = _Fresh()  # of the queue
        self._own: dict[str, Any] = {}  # what the demand says of this pool, with an overflow
        self._earlier: Sequence[Earlier] = ()  # that of the queue first
        self._pools: dict[str, tuple[EarlierPool, _Fresh]] = {}
        self._reader: threading.Thread | None = None
        self._called_at = float("-inf")

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return ``(target, state)``, as Serve's calling convention requires."""
        self._called_at = time.monotonic()
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, daemon=True, name="demand")
            self._reader.start()
        current, scaler, now = context.target_num_replicas, self._scaler, time.monotonic()
        if scaler is None:
            return current, {}
        bounds, latest = scaler.bounds, self._demand.record(now)
        if self._own.get("returned"):  # a canary that did worse
            target = 0
        elif latest is None:
            target = max(bounds.least, min(bounds.most, current))
        else:
            load = Load(latest["queued"], latest["running"], latest["queued_s"], latest["idle_s"])
            target = scaler.target(self._part(load, bounds, now), min(bounds.most, current), now)
        quarantined = self._own.get("quarantined", 0)
        self._replicas = Replicas(target, context.current_num_replicas, quarantined)
        return target, {}

    def _part(self, load: Load, bounds: Bounds, now: float) -> Load:
        """The part of its queue's load that this pool scales for, with its warm targets and its
        quarantined replicas."""
        own, earlier = self._own, self._earlier
        followers = [*(member.bounds for member in earlier), bounds][1:]
        for predecessor, follower in zip(earlier, followers, strict=True):
            pool, written = self._pools[predecessor.name]
            known = written.record(now) or {}
            replicas = Replicas(
                *(known.get(name, 0) for name in ("replicas", "ready", "quarantined"))
            )
            load = pool.remaining_load(
                predecessor.bounds, load, replicas, follower.overflow_after_s, now
            )
        if earlier and (most := own.get("overflow_queued", 0)) < load.queued:
            load = replace(load, queued=most)
        if earlier and load.queued:
            own_s = own["overflow_queued_s"] * load.queued / own["overflow_queued"]
            load = replace(load, queued_s=own_s)
        return replace(load, warm=own.get("warm", 0), quarantined=own.get("quarantined", 0))

    def _read(self) -> None:
        """Poll the KV while Serve calls this policy. At a redeployment it makes another one, whose
        replicas this one must not write over."""
        while time.monotonic() - self._called_at < STALE_AFTER_S:
            try:
                self._look()
                self._write()
            except Exception as error:
                logging.getLogger("ray.serve").warning("The demand cannot be read: %r", error)
            time.sleep(READ_EVERY_S)
        self._reader = None

    def _look(self) -> None:
        scope = self._scope
        stored = _read_value(bounds_key(scope, self._pool))
        if stored is None:
            return  # the ingress has not written it yet
        bounds, own = Bounds(**stored), _read_value(demand_key(scope, self._pool))
        earlier: list[Earlier] = []
        name = bounds.overflow_of
        while name and all(name != member.name for member in earlier):
            fields = _read_value(bounds_key(scope, name))
            if fields is None:
                return
            before = Bounds(**fields)
            earlier.insert(0, Earlier(name, before, _read_value(target_key(scope, name))))
            name = before.overflow_of
        demand = _read_value(demand_key(scope, earlier[0].name)) if earlier else own
        self.note(bounds, demand, own, earlier)

    def _write(self) -> None:
        """Write the replicas for the status page and for the pool that takes the overflow."""
        now, replicas = time.monotonic(), self._replicas
        unchanged = replicas == self._written and now - self._written_at < WRITE_EVERY_S
        if replicas is None or unchanged:
            return
        if internal_kv._internal_kv_initialized():  # noqa: SLF001 Ray offers no public KV
            record = {
                "replicas": replicas.target,
                "ready": replicas.ready,
                "quarantined": replicas.quarantined,
                "seq": now,
            }
            internal_kv._internal_kv_put(  # noqa: SLF001
                target_key(self._scope, self._pool),
                json.dumps(record).encode(),
                namespace=NAMESPACE,
            )
            self._written, self._written_at = replicas, now

    def note(
        self,
        bounds: Bounds | None,
        demand: dict[str, Any] | None,
        own: dict[str, Any] | None = None,
        earlier: Sequence[Earlier] = (),
    ) -> None:
        """Note what is stored. None: nothing is.

        ``demand``: of the queue. ``own``: of this pool, which is the same without ``earlier``: the
        pools that are filled before this one, that of the queue first.
        """
        now = time.monotonic()
        self._demand.note(demand, now)
        pools = {
            member.name: self._pools.get(member.name) or (EarlierPool(), _Fresh())
            for member in earlier
        }
        for predecessor in earlier:
            pools[predecessor.name][1].note(predecessor.written, now)
        self._own = own or demand or self._own
        self._pools = {**self._pools, **pools}  # before its names are used
        self._earlier = tuple(earlier)
        if bounds is not None and self._scaler is None:
            self._scaler = Scaler(bounds)
        elif bounds is not None and self._scaler is not None:
            self._scaler.bounds = bounds


class _Fresh:
    """Record that another process writes. It is fresh if its sequence number has changed lately, so
    that no two clocks are compared."""

    def __init__(self) -> None:
        self._latest: dict[str, Any] | None = None
        self._changed_at = 0.0

    def note(self, record: dict[str, Any] | None, now: float) -> None:
        if record and (self._latest is None or record.get("seq") != self._latest.get("seq")):
            self._latest, self._changed_at = record, now

    def record(self, now: float) -> dict[str, Any] | None:
        """The record, or None if it is too old."""
        return None if now - self._changed_at > STALE_AFTER_S else self._latest


def _read_value(key: bytes) -> dict[str, Any] | None:
    if not internal_kv._internal_kv_initialized():  # noqa: SLF001 Ray offers no public KV
        return None
    raw = internal_kv._internal_kv_get(key, namespace=NAMESPACE)  # noqa: SLF001
    return json.loads(raw) if raw else None

"""The asks that wait in this process, and the signals for what their replicas hold."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping

from serve_app.domain.lease import Ask, Held, Lease, Signal, SignalKind
from serve_app.domain.ports import Clock

REMEMBER_S = 60.0
TELL_AGAIN_S = 1.0


class Waiter:
    """One ask that waits.

    A statement that may lease to it first reserves a slot of it; the ask does not return while a
    slot is reserved, so no lease can be committed for an ask that is gone.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.free = ask.slots
        self.reserved = 0
        self.leases: list[Lease] = []
        self.signals: list[Signal] = []
        self.open = True  # may be given more
        self.gone = False  # the caller went away: what comes for it must be undone
        self.stirred = asyncio.Event()  # something came, or the last reservation ended

    @property
    def served(self) -> bool:
        return bool(self.leases or self.signals)

    @property
    def ready(self) -> bool:
        return self.reserved == 0 and (self.served or not self.open)

    @property
    def takes(self) -> bool:
        """Whether a slot of it may be reserved."""
        return self.open and self.free > 0 and not self.leases


class WaitingRoom:
    """Owned by one event loop; nothing here waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pools: dict[str, deque[Waiter]] = {}
        self._holders: dict[Held, Waiter] = {}
        self._signals: dict[Held, tuple[SignalKind, float]] = {}
        self._told: dict[tuple[str, Signal], float] = {}
        self._coming: dict[str, tuple[Ask, float]] = {}  # by replica, those that download
        self._closed = False

    def enter(self, ask: Ask) -> Waiter:
        """Wait for work or signals; signals that are known already are there at once."""
        waiter = Waiter(ask)
        self._coming.pop(ask.replica_id, None)
        if ask.coming:
            self._coming[ask.replica_id] = ask, self._clock.monotonic()
        if self._closed:
            waiter.open = False
            return waiter
        for held in ask.held:
            self._holders[held] = waiter
            known = self._signals.get(held)
            if known is not None:
                self._tell(waiter, Signal(known[0], held))
        if ask.slots > 0:
            self._pools.setdefault(ask.pool, deque()).append(waiter)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """The ask is answered or gone."""
        waiter.open = False
        for held in waiter.ask.held:
            if self._holders.get(held) is waiter:
                del self._holders[held]
        pool = self._pools.get(waiter.ask.pool)
        if pool is not None and waiter in pool:
            pool.remove(waiter)

    def bury(self, dead_actors: frozenset[str]) -> None:
        """Nothing more is given to their asks: whoever carried them may go on holding them open."""
        for pool in self._pools.values():
            for waiter in [each for each in pool if each.ask.actor_id in dead_actors]:
                waiter.gone = True
                self.leave(waiter)
                waiter.stirred.set()

    def close(self) -> None:
        """Answer every ask with nothing, and every later one."""
        self._closed = True
        for waiter in {
            *self._holders.values(),
            *(w for pool in self._pools.values() for w in pool),
        }:
            waiter.open = False
            waiter.stirred.set()

    # Work

    def pools(self) -> frozenset[str]:
        """Those for which somebody waits with a free slot."""
        return frozenset(
            name for name, waiters in self._pools.items() if any(each.takes for each in waiters)
        )

    def wanted(self, pool: str) -> bool:
        return any(each.takes for each in self._pools.get(pool, ()))

    def coming(self) -> Mapping[str, frozenset[str]]:
        """By pool, endpoints of which some of those who asked lately want no request."""
        found: dict[str, frozenset[str]] = {}
        for ask, _ in self._coming.values():
            found[ask.pool] = found.get(ask.pool, frozenset()) | frozenset(ask.coming)
        return found

    def slots(self, pool: str) -> int:
        """Free ones, and those for which a lease is on its way."""
        return sum(each.free + each.reserved for each in self._pools.get(pool, ()) if each.open)

    def reserve(self, pool: str, most: int) -> list[Waiter]:
        """Up to ``most`` free slots, one each in turn from those who wait longest.

        None of who has been given something: it returns as soon as nothing is reserved, and with a
        reservation by each statement that comes it would not for as long as they do.
        """
        slots: list[Waiter] = []
        waiters = [each for each in self._pools.get(pool, ()) if each.takes]
        while waiters and len(slots) < most:
            for waiter in waiters[: most - len(slots)]:
                waiter.free -= 1
                waiter.reserved += 1
                slots.append(waiter)
            waiters = [each for each in waiters if each.free > 0]
        return slots

    def reserve_one(self, pool: str, endpoint: str) -> Waiter | None:
        """A slot of who has the endpoint's weights on its device, else of who waits longest; not of
        who downloads them."""
        waiters = self._pools.get(pool, ())
        takes = [each for each in waiters if each.takes and endpoint not in each.ask.coming]
        if not takes:
            return None
        waiter = next((each for each in takes if endpoint in each.ask.hot), takes[0])
        waiter.free -= 1
        waiter.reserved += 1
        return waiter

    def give(self, waiter: Waiter, lease: Lease) -> bool:
        """End a reservation with a lease. False: the ask is gone, and the lease must be undone."""
        waiter.reserved -= 1
        if waiter.gone:
            waiter.stirred.set()
            return False
        waiter.leases.append(lease)
        waiter.stirred.set()
        return True

    def release(self, waiter: Waiter) -> None:
        """End a reservation without one."""
        waiter.reserved -= 1
        waiter.free += 1
        if waiter.reserved == 0:
            waiter.stirred.set()

    # Signals

    def signal(self, signals: Iterable[Signal]) -> None:
        """Tell the ask of whoever holds it, now, or when it comes."""
        now = self._clock.monotonic()
        for signal in signals:
            self._signals[signal.held] = (signal.kind, now + REMEMBER_S)
            waiter = self._holders.get(signal.held)
            if waiter is not None and waiter.open:
                self._tell(waiter, signal)

    def held(self) -> frozenset[Held]:
        """What those who wait hold."""
        return frozenset(self._holders)

    def tidy(self) -> None:
        """Forget old signals, and who has not asked for long."""
        now = self._clock.monotonic()
        self._coming = {
            id_: each for id_, each in self._coming.items() if each[1] + REMEMBER_S > now
        }
        self._signals = {held: each for held, each in self._signals.items() if each[1] > now}
        self._told = {key: at for key, at in self._told.items() if at + TELL_AGAIN_S > now}

    def _tell(self, waiter: Waiter, signal: Signal) -> None:
        # At most once a second to the same replica: it stops only at its next step, and asks again
        # before that. An answer that got lost on the way is made good by the next telling.
        key = (waiter.ask.replica_id, signal)
        now = self._clock.monotonic()
        if now - self._told.get(key, now - TELL_AGAIN_S) >= TELL_AGAIN_S:
            self._told[key] = now
            waiter.signals.append(signal)
            waiter.stirred.set()

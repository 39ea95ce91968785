"""Lease polls waiting in this process, and signals for the attempts that their replicas hold."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from serve_app.domain.lease import (
    Ask,
    Lease,
    LeaseKey,
    LeasePreference,
    LeftOut,
    Signal,
    SignalKind,
)
from serve_app.domain.ports import Clock

REMEMBER_S = 60.0
SIGNAL_AGAIN_S = 1.0
RETURN_S = 0.1
"""How long a replica that was given work, and has slots left, is expected to poll again. It does so
at once: this is the way there and back on a busy machine.
"""
PROMPT_RETURNS = 8
"""After so many returns in time in a row, a replica is expected. One that calls by Serve's handles
polls any ingress process, if there are several.
"""


@dataclass(frozen=True, slots=True)
class PoolOffer:
    """What a replica's pool offers its slots to."""

    queue: str  # name of the pool whose requests they may run
    rank: int = 0  # number of pools whose slots are taken before
    left_out: LeftOut = field(default_factory=LeftOut)  # what the pool does not run


class Waiter:
    """One waiting lease poll.

    A statement that may lease to it first reserves one of its slots. The poll does not return while
    a slot is reserved, so no lease can be committed for a poll that is gone.
    """

    def __init__(self, ask: Ask, offer: PoolOffer) -> None:
        self.ask = ask
        self.queue, self.rank = offer.queue, offer.rank
        wants = ask.preference
        if offer.left_out:
            wants = wants._replace(left_out=wants.left_out | offer.left_out)
        self.wants = wants  # compared for each slot, so made once
        self.left_out = wants.left_out
        self.free = ask.slots
        self.reserved = 0
        self.leases: list[Lease] = []
        self.signals: list[Signal] = []
        self.open = True  # may get more
        self.gone = False  # the caller disconnected: leases that arrive for it must be undone
        self.woken = asyncio.Event()  # something arrived, or the last reservation ended

    @property
    def is_answered(self) -> bool:
        return bool(self.leases or self.signals)

    @property
    def ready(self) -> bool:
        return self.reserved == 0 and (self.is_answered or not self.open)

    @property
    def accepts(self) -> bool:
        """True if a slot of it may be reserved."""
        return self.open and self.free > 0 and not self.leases


class _Return:
    """Next poll of a replica that was given work."""

    __slots__ = ("in_a_row", "pool", "slots", "until")

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.slots = 0  # that it will have; 0: none is expected
        self.until = 0.0
        self.in_a_row = 0  # returns in time


class Waiters:
    """All waiting polls of this process. Owned by one event loop; nothing here waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pools: dict[str, deque[Waiter]] = {}
        self._holders: dict[LeaseKey, Waiter] = {}
        self._signals: dict[LeaseKey, tuple[SignalKind, float]] = {}
        self._signalled_at: dict[tuple[str, Signal], float] = {}
        # last polls of replicas that hold attempts or do not take all work, by replica
        self._last: dict[str, tuple[Waiter, float]] = {}
        self._returns: dict[str, _Return] = {}  # by replica
        self._closed = False
        # Pools in which nothing is queued, as far as this process knows.
        self.drained: set[str] = set()
        self._on_work: Callable[[str], None] = lambda _: None

    def on_work(self, search: Callable[[str], None]) -> None:
        """Call ``search`` with each pool in which a request may have been queued."""
        self._on_work = search

    def wake(self, pools: Iterable[str]) -> None:
        """Look for queued requests in these pools: some were queued, or may have been."""
        for pool in pools:
            self.drained.discard(pool)
            self._on_work(pool)

    def wake_all(self) -> None:
        """Look for queued requests in every pool."""
        self.drained.clear()
        for pool in self.pools():
            self._on_work(pool)

    def add(self, ask: Ask, offer: PoolOffer | None = None) -> Waiter:
        """Add a poll that waits for work or signals. Signals that are already known are delivered
        at once. ``offer``: None for the requests of its own pool.
        """
        waiter = Waiter(ask, offer or PoolOffer(ask.pool))
        self._on_return(ask.replica_id)
        self._last.pop(ask.replica_id, None)
        if ask.leases or waiter.left_out:
            self._last[ask.replica_id] = waiter, self._clock.monotonic()
        if self._closed:
            waiter.open = False
            return waiter
        for lease in ask.leases:
            self._holders[lease] = waiter
            known = self._signals.get(lease)
            if known is not None:
                self._signal(waiter, Signal(known[0], lease))
        if ask.slots > 0:
            self._pools.setdefault(waiter.queue, deque()).append(waiter)
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Remove a poll that is answered or gone."""
        waiter.open = False
        for lease in waiter.ask.leases:
            if self._holders.get(lease) is waiter:
                del self._holders[lease]
        pool = self._pools.get(waiter.queue)
        if pool is not None and waiter in pool:
            pool.remove(waiter)

    def remove_answered(self, waiter: Waiter) -> None:
        """Remove a poll that is answered, and expect the next one of its replica if it has slots
        left.
        """
        self.remove(waiter)
        ask = waiter.ask
        if waiter.leases and waiter.free > 0 and not self._closed:
            expected = self._returns.setdefault(ask.replica_id, _Return(waiter.queue))
            expected.slots = waiter.free
            expected.until = self._clock.monotonic() + RETURN_S

    def _on_return(self, replica_id: str) -> None:
        expected = self._returns.get(replica_id)
        if expected is not None and expected.slots:
            in_time = self._clock.monotonic() <= expected.until
            expected.in_a_row = expected.in_a_row + 1 if in_time else 0
            expected.slots = 0

    def end_terms(self, actors: frozenset[str]) -> None:
        """Remove the polls of actors whose term has ended, and answer those that can be answered:
        the connections that carried the others may stay open."""
        polls = {*self._holders.values(), *(poll for pool in self._pools.values() for poll in pool)}
        for waiter in polls:
            if waiter.ask.actor_id in actors:
                waiter.gone = True
                self.remove(waiter)
                waiter.woken.set()

    def end_full_polls(self, ends: Callable[[Ask], bool]) -> None:
        """Answer the polls without a free slot for which ``ends`` is true."""
        for waiter in {*self._holders.values()}:
            if not waiter.ask.slots and waiter.open and ends(waiter.ask):
                waiter.open = False
                waiter.woken.set()

    def close(self) -> None:
        """Answer every poll, and every later one, with nothing."""
        self._closed = True
        for waiter in {
            *self._holders.values(),
            *(w for pool in self._pools.values() for w in pool),
        }:
            waiter.open = False
            waiter.woken.set()

    # Work

    def pools(self) -> frozenset[str]:
        """Pools with a waiting poll that has a free slot."""
        return frozenset(
            name
            for name, waiters in self._pools.items()
            if any(waiter.accepts for waiter in waiters)
        )

    def has_free_slot(self, pool: str) -> bool:
        """True if a poll with a free slot waits for the pool."""
        return any(waiter.accepts for waiter in self._pools.get(pool, ()))

    def left_out(self) -> Mapping[str, LeftOut]:
        """Requests that some recent pollers do not want, by pool."""
        by_queue: dict[str, LeftOut] = {}
        for waiter, _ in self._last.values():
            if waiter.left_out:
                by_queue[waiter.queue] = by_queue.get(waiter.queue, LeftOut()) | waiter.left_out
        return by_queue

    def slots(self, pool: str) -> int:
        """Number of free slots in the pool, including slots with a lease under way."""
        return sum(
            waiter.free + waiter.reserved for waiter in self._pools.get(pool, ()) if waiter.open
        )

    def slots_soon(self, pool: str, *, leasing: bool) -> int:
        """Number of slots in the pool that are expected to be free in a moment: of replicas that
        were given work, or are just being given it, and then poll again. ``leasing``: also those
        that are reserved for what is queued, which may be more than is needed.
        """
        now = self._clock.monotonic()
        slots = sum(
            expected.slots
            for expected in self._returns.values()
            if expected.pool == pool
            and expected.until > now
            and expected.in_a_row >= PROMPT_RETURNS
        )
        for waiter in self._pools.get(pool, ()):
            if waiter.open and (leasing or waiter.leases):
                slots += waiter.free + (waiter.reserved if leasing else 0)
        return slots

    def idle(self) -> Mapping[str, tuple[int, int]]:
        """Number of polls that wait, and of their free slots, by the pool of their replica."""
        counts: dict[str, tuple[int, int]] = dict.fromkeys(self._pools, (0, 0))
        for waiters in self._pools.values():
            for waiter in waiters:
                if waiter.accepts:
                    polls, free = counts.get(waiter.ask.pool, (0, 0))
                    counts[waiter.ask.pool] = polls + 1, free + waiter.free
        return counts

    def reserve(self, pool: str, most: int) -> list[Waiter]:
        """Reserve up to ``most`` free slots, one each in turn from the polls that wait longest, and
        those of overflow pools last.

        Polls that already got work are skipped: a poll returns once nothing is reserved for it, and
        reserving again with every statement could delay it indefinitely.
        """
        slots: list[Waiter] = []
        accepting = [waiter for waiter in self._pools.get(pool, ()) if waiter.accepts]
        for rank in sorted({waiter.rank for waiter in accepting}):
            _take_turns([waiter for waiter in accepting if waiter.rank == rank], slots, most)
        return slots

    def reserve_one(self, pool: str, endpoint: str, tenant: str) -> Waiter | None:
        """Reserve a slot of a replica that has the endpoint's weights on its device, or else in
        host memory, or else of the poll that waits longest. Overflow pools come last.

        Replicas that are downloading these weights, or that take nothing of the tenant, are
        skipped.
        """
        waiters = self._pools.get(pool, ())
        accepting = [
            poll
            for poll in waiters
            if poll.accepts
            and endpoint not in poll.left_out.endpoints
            and tenant not in poll.left_out.tenants
        ]
        if not accepting:
            return None
        waiter = min(accepting, key=lambda poll: (poll.rank, poll.wants.distance(endpoint)))
        waiter.free -= 1
        waiter.reserved += 1
        return waiter

    def deliver(self, waiter: Waiter, lease: Lease) -> bool:
        """End a reservation with a lease. False if the poll is gone, and the lease must be
        undone.
        """
        waiter.reserved -= 1
        if waiter.gone:
            waiter.woken.set()
            return False
        waiter.leases.append(lease)
        waiter.woken.set()
        return True

    def release(self, waiter: Waiter) -> None:
        """End a reservation without a lease."""
        waiter.reserved -= 1
        waiter.free += 1
        if waiter.reserved == 0:
            waiter.woken.set()

    # Signals

    def signal(self, signals: Iterable[Signal]) -> None:
        """Deliver signals to the poll of the replica that holds each attempt, now or at its next
        poll.
        """
        now = self._clock.monotonic()
        for signal in signals:
            self._signals[signal.lease_key] = (signal.kind, now + REMEMBER_S)
            waiter = self._holders.get(signal.lease_key)
            if waiter is not None and waiter.open:
                self._signal(waiter, signal)

    def held_leases(self) -> frozenset[LeaseKey]:
        """Attempts held by the waiting replicas."""
        return frozenset(self._holders)

    def named_by(self, actors: frozenset[str]) -> frozenset[LeaseKey]:
        """Attempts that the last polls of these actors named: they had arrived there."""
        return frozenset(
            lease
            for waiter, _ in self._last.values()
            if waiter.ask.actor_id in actors
            for lease in waiter.ask.leases
        )

    def expire(self) -> None:
        """Forget old signals, and replicas that have not polled for long."""
        now = self._clock.monotonic()
        self._returns = {
            id_: expected
            for id_, expected in self._returns.items()
            if expected.until + REMEMBER_S > now
        }
        self._last = {id_: poll for id_, poll in self._last.items() if poll[1] + REMEMBER_S > now}
        self._signals = {
            lease: signal for lease, signal in self._signals.items() if signal[1] > now
        }
        self._signalled_at = {
            key: at for key, at in self._signalled_at.items() if at + SIGNAL_AGAIN_S > now
        }

    def _signal(self, waiter: Waiter, signal: Signal) -> None:
        # At most once a second to the same replica: it stops only at its next step, and polls again
        # before that. If an answer is lost, the next delivery makes up for it.
        key = (waiter.ask.replica_id, signal)
        now = self._clock.monotonic()
        if now - self._signalled_at.get(key, now - SIGNAL_AGAIN_S) >= SIGNAL_AGAIN_S:
            self._signalled_at[key] = now
            waiter.signals.append(signal)
            waiter.woken.set()


def _take_turns(waiters: Sequence[Waiter], slots: list[Waiter], most: int) -> None:
    """Reserve a slot of each in turn, until ``slots`` has ``most`` or none is free."""
    while waiters and len(slots) < most:
        for waiter in waiters[: most - len(slots)]:
            waiter.free -= 1
            waiter.reserved += 1
            slots.append(waiter)
        waiters = [waiting for waiting in waiters if waiting.free > 0]


# Turns of waiting replicas, of which one leasing statement gives requests to those that are alike.


def nearer_elsewhere(wants: LeasePreference, others: Iterable[LeasePreference]) -> frozenset[str]:
    """Endpoints whose weights are nearer to the device of another replica that waits."""
    endpoints: set[str] = set()
    for other in others:
        nearer = (other.hot - wants.hot) | (other.host - wants.hot - wants.host)
        endpoints |= nearer - other.left_out.endpoints
    return frozenset(endpoints)


def ranked_turns(
    waiters: Sequence[Waiter],
) -> Iterator[tuple[int, LeasePreference, LeasePreference]]:
    """Turns of waiting replicas, with their rank: those of overflow pools come last."""
    for rank in sorted({waiter.rank for waiter in waiters}):
        for wants, offered in turns([waiter for waiter in waiters if waiter.rank == rank]):
            yield rank, wants, offered


def turns(waiters: Sequence[Waiter]) -> Sequence[tuple[LeasePreference, LeasePreference]]:
    """What waiting replicas want, those that wait longest first, each with what they are offered.

    If weights differ, all have two turns. In the first, requests whose weights are nearer to the
    device of another replica are left to that one; in the second, each is offered what is left.
    """
    wants = [*dict.fromkeys(waiter.wants for waiter in waiters)]
    if len(wants) == 1:
        return [(wants[0], wants[0])]
    last = [(want, want) for want in wants]
    first = [
        (want, want._replace(left_out=want.left_out | LeftOut(nearer_elsewhere(want, wants))))
        for want in wants
    ]
    return last if first == last else [*first, *last]

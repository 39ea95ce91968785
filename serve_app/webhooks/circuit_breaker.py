"""Limits on concurrent webhook deliveries, with a circuit breaker per channel and per tenant.

Tenants share the deliveries first, then the channels of each tenant. A tenant never holds more
deliveries than are still free, which leaves room for the others.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from serve_app.domain.webhook import DeliveryChannel, ReceiverResponse

MAX_IN_FLIGHT = 64  # concurrent deliveries in this process
MAX_PER_TENANT = 32
MAX_UNPROVEN_PER_TENANT = 4
"""Concurrent deliveries of a tenant to receivers that did not accept their last one, and all
deliveries of a tenant without a 2xx in the last ``RECENT_S``."""
RECENT_S = 600.0

PROVEN = 8  # concurrent deliveries to a receiver that accepted the last one
UNPROVEN = 2
FAILING = 1

OPENS_AFTER = 5  # consecutive failures of a channel
TENANT_OPENS_AFTER = 20  # consecutive failures of a tenant
FIRST_OPEN_S = 5.0
LONGEST_OPEN_S = 60.0
MAX_BREAKERS = 10_000  # maximum number of channels, and of tenants, with a breaker


@dataclass(slots=True)
class _Breaker:
    opens_after: int
    failures: int = 0  # consecutive
    open_until: float = 0.0  # monotonic seconds
    accepted_at: float = float("-inf")  # monotonic seconds of the last 2xx

    def record_result(self, answer: ReceiverResponse, now: float) -> None:
        if answer.is_accepted:
            self.accepted_at = now
        if _alive(answer):
            self.failures, self.open_until = 0, 0.0
            return
        self.failures += 1
        over = self.failures - self.opens_after
        if over >= 0:
            self.open_until = now + min(FIRST_OPEN_S * 2 ** min(over, 10), LONGEST_OPEN_S)


class CircuitBreakers:
    """Circuit breakers and counters. Decides only; has no effects.

    A channel without a breaker counts as unproven. A tenant's open breaker stops its deliveries
    to receivers that are not proven.
    """

    def __init__(self) -> None:
        self._channels: OrderedDict[DeliveryChannel, _Breaker] = OrderedDict()
        self._tenants: OrderedDict[str, _Breaker] = OrderedDict()
        self._in_flight: Counter[DeliveryChannel] = Counter()

    @property
    def in_flight(self) -> int:
        return self._in_flight.total()

    def choose(self, due: Iterable[DeliveryChannel], now: float) -> Mapping[DeliveryChannel, int]:
        """Number of deliveries to claim per channel, by turns of the tenants.

        The tenant with the fewest deliveries in progress is first.
        """
        channels: defaultdict[str, list[DeliveryChannel]] = defaultdict(list)
        for channel in due:
            channels[channel.tenant].append(channel)
        shares = [_Share(self, tenant, waiting, now) for tenant, waiting in channels.items()]
        turns = deque(sorted(shares, key=lambda share: share.in_flight))
        free = MAX_IN_FLIGHT - self.in_flight
        chosen: Counter[DeliveryChannel] = Counter()
        while turns and free > 0:
            share = turns.popleft()
            channel = share.next() if share.in_flight < free else None
            if channel is not None:
                chosen[channel] += 1
                free -= 1
                turns.append(share)
        return chosen

    def count_start(self, channel: DeliveryChannel) -> None:
        """Count a delivery that has started."""
        self._in_flight[channel] += 1

    def count_end(self, channel: DeliveryChannel) -> None:
        """Count a delivery that has ended."""
        self._in_flight -= Counter((channel,))  # subtracting drops entries that reach zero

    def record_result(self, channel: DeliveryChannel, answer: ReceiverResponse, now: float) -> None:
        """Update the breakers of a channel and of its tenant with the result of a delivery."""
        _breaker(self._channels, channel, OPENS_AFTER).record_result(answer, now)
        _breaker(self._tenants, channel.tenant, TENANT_OPENS_AFTER).record_result(answer, now)

    def open(self, now: float) -> tuple[int, int]:
        """Number of open breakers: of channels, and of tenants."""
        return (
            sum(now < breaker.open_until for breaker in self._channels.values()),
            sum(now < breaker.open_until for breaker in self._tenants.values()),
        )

    def failures(self, channel: DeliveryChannel) -> int:
        """Consecutive failures of a channel."""
        breaker = self._channels.get(channel)
        return breaker.failures if breaker else 0

    def proven(self, channel: DeliveryChannel) -> bool:
        """Return True if the receiver answered the last delivery."""
        breaker = self._channels.get(channel)
        return breaker is not None and not breaker.failures

    def in_flight_of(self, tenant: str) -> Mapping[DeliveryChannel, int]:
        """Deliveries of a tenant that are in progress."""
        return {channel: n for channel, n in self._in_flight.items() if channel.tenant == tenant}

    def room(self, channel: DeliveryChannel, now: float) -> int:
        """Deliveries that may start on a channel, by its own breaker."""
        breaker = self._channels.get(channel)
        if breaker is None:
            most = UNPROVEN
        elif now < breaker.open_until:
            most = 0
        else:
            most = FAILING if breaker.failures else PROVEN
        return max(0, most - self._in_flight[channel])

    def tenant_limits(self, tenant: str, now: float) -> tuple[int, int]:
        """Deliveries of a tenant that may be in progress: in all, and to unproven receivers."""
        breaker = self._tenants.get(tenant)
        if breaker is None:
            return MAX_UNPROVEN_PER_TENANT, MAX_UNPROVEN_PER_TENANT
        recent = now - breaker.accepted_at < RECENT_S
        most = MAX_PER_TENANT if recent else MAX_UNPROVEN_PER_TENANT
        if now < breaker.open_until:
            return most, 0
        half_open = breaker.failures >= breaker.opens_after
        return most, 1 if half_open else MAX_UNPROVEN_PER_TENANT


class _Share:
    """Turns of one tenant in one choice: its channels by turns, those that failed last."""

    def __init__(
        self, breakers: CircuitBreakers, tenant: str, channels: list[DeliveryChannel], now: float
    ) -> None:
        self._breakers = breakers
        self._most, self._most_unproven = breakers.tenant_limits(tenant, now)
        in_flight = breakers.in_flight_of(tenant)
        self.in_flight = sum(in_flight.values())
        self._unproven = sum(
            n for receiver, n in in_flight.items() if not breakers.proven(receiver)
        )
        self._room = {channel: breakers.room(channel, now) for channel in channels}
        self._turns = deque(sorted(channels, key=breakers.failures))

    def next(self) -> DeliveryChannel | None:
        """Channel of the tenant's next delivery; None if it has reached a limit."""
        while self._turns and self.in_flight < self._most:
            channel = self._turns.popleft()
            unproven = not self._breakers.proven(channel)
            if not self._room[channel] or (unproven and self._unproven >= self._most_unproven):
                continue
            self._room[channel] -= 1
            self._unproven += unproven
            self.in_flight += 1
            self._turns.append(channel)
            return channel
        return None


K = TypeVar("K")


def _breaker(breakers: OrderedDict[K, _Breaker], key: K, opens_after: int) -> _Breaker:
    """Breaker of ``key``; a new one replaces the least recently used one of too many."""
    breaker = breakers.setdefault(key, _Breaker(opens_after))
    breakers.move_to_end(key)
    while len(breakers) > MAX_BREAKERS:
        breakers.popitem(last=False)
    return breaker


def _alive(answer: ReceiverResponse) -> bool:
    """Return True if the receiver works: a receiver that refuses this call may accept the next."""
    return answer.status is not None and answer.status < 500 and answer.status != 429

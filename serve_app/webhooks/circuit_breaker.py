"""Limits on concurrent webhook deliveries, with a circuit breaker per channel."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve_app.domain.webhook import DeliveryChannel, ReceiverResponse

MAX_IN_FLIGHT = 64  # concurrent deliveries in this process
MAX_PER_TENANT = 32
PROVEN = 8  # concurrent deliveries to a receiver that accepted the last one
UNPROVEN = 2
FAILING = 1
OPENS_AFTER = 5  # consecutive failures
FIRST_OPEN_S = 5.0
LONGEST_OPEN_S = 60.0
MAX_BREAKERS = 10_000  # maximum number of channels with a breaker


@dataclass(slots=True)
class _Breaker:
    failures: int = 0  # consecutive
    open_until: float = 0.0  # monotonic seconds


class CircuitBreakers:
    """Circuit breakers and counters. Decides only; has no effects.

    A channel without a breaker counts as unproven.
    """

    def __init__(self) -> None:
        self._breakers: OrderedDict[DeliveryChannel, _Breaker] = OrderedDict()
        self._in_flight: Counter[DeliveryChannel] = Counter()
        self._per_tenant: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        return self._in_flight.total()

    def choose(self, due: Iterable[DeliveryChannel], now: float) -> Mapping[DeliveryChannel, int]:
        """Number of deliveries to claim per channel, shared as evenly as the limits allow."""
        chosen: dict[DeliveryChannel, int] = {}
        tenants = Counter(self._per_tenant)
        free = MAX_IN_FLIGHT - self.in_flight
        waiting = {channel: self._room(channel, now) for channel in due}
        while free > 0 and waiting:
            for channel, room in [*waiting.items()]:
                if not room or not free or tenants[channel.tenant] >= MAX_PER_TENANT:
                    del waiting[channel]
                    continue
                waiting[channel] = room - 1
                chosen[channel] = chosen.get(channel, 0) + 1
                tenants[channel.tenant] += 1
                free -= 1
        return chosen

    def started(self, channel: DeliveryChannel) -> None:
        """Count a delivery that has started."""
        self._in_flight[channel] += 1
        self._per_tenant[channel.tenant] += 1

    def finished(self, channel: DeliveryChannel) -> None:
        """Count a delivery that has ended."""
        self._in_flight -= Counter((channel,))  # subtracting drops entries that reach zero
        self._per_tenant -= Counter((channel.tenant,))

    def record_result(self, channel: DeliveryChannel, answer: ReceiverResponse, now: float) -> None:
        """Update the breaker of a channel with the result of a delivery."""
        breaker = self._breakers.setdefault(channel, _Breaker())
        self._breakers.move_to_end(channel)
        while len(self._breakers) > MAX_BREAKERS:
            self._breakers.popitem(last=False)
        if _alive(answer):
            breaker.failures, breaker.open_until = 0, 0.0
            return
        breaker.failures += 1
        over = breaker.failures - OPENS_AFTER
        if over >= 0:
            open_s = min(FIRST_OPEN_S * 2 ** min(over, 10), LONGEST_OPEN_S)
            breaker.open_until = now + open_s

    def _room(self, channel: DeliveryChannel, now: float) -> int:
        breaker = self._breakers.get(channel)
        if breaker is None:
            most = UNPROVEN
        elif now < breaker.open_until:
            most = 0
        else:
            most = FAILING if breaker.failures else PROVEN
        return max(0, most - self._in_flight[channel])


def _alive(answer: ReceiverResponse) -> bool:
    """Return True if the receiver works: a receiver that refuses this call may accept the next."""
    return answer.status is not None and answer.status < 500 and answer.status != 429

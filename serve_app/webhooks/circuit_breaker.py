"""How many deliveries of a channel may be on their way: a breaker for each."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve_app.domain.webhook import Answer, Channel

MOST = 64  # on their way at once, in this process
MOST_OF_TENANT = 32
PROVEN = 8  # of a channel whose receiver took the last one
UNPROVEN = 2
FAILING = 1
OPENS_AFTER = 5  # failures in a row
FIRST_OPEN_S = 5.0
LONGEST_OPEN_S = 60.0
REMEMBERED = 10_000  # channels


@dataclass(slots=True)
class _Breaker:
    failures: int = 0  # in a row
    open_until: float = 0.0  # monotonic


class Channels:
    """Decides, and does nothing. A channel that is not remembered is unproven."""

    def __init__(self) -> None:
        self._breakers: OrderedDict[Channel, _Breaker] = OrderedDict()
        self._under_way: Counter[Channel] = Counter()
        self._of_tenant: Counter[str] = Counter()

    @property
    def under_way(self) -> int:
        return self._under_way.total()

    def choose(self, due: Iterable[Channel], now: float) -> Mapping[Channel, int]:
        """How many to claim of each: as evenly as there is room."""
        chosen: dict[Channel, int] = {}
        tenants = Counter(self._of_tenant)
        free = MOST - self.under_way
        waiting = {channel: self._room(channel, now) for channel in due}
        while free > 0 and waiting:
            for channel, room in [*waiting.items()]:
                if not room or not free or tenants[channel.tenant] >= MOST_OF_TENANT:
                    del waiting[channel]
                    continue
                waiting[channel] = room - 1
                chosen[channel] = chosen.get(channel, 0) + 1
                tenants[channel.tenant] += 1
                free -= 1
        return chosen

    def left(self, channel: Channel) -> None:
        """One is on its way."""
        self._under_way[channel] += 1
        self._of_tenant[channel.tenant] += 1

    def back(self, channel: Channel) -> None:
        """One is not any more."""
        self._under_way -= Counter((channel,))  # drops what is zero
        self._of_tenant -= Counter((channel.tenant,))

    def heard(self, channel: Channel, answer: Answer, now: float) -> None:
        breaker = self._breakers.setdefault(channel, _Breaker())
        self._breakers.move_to_end(channel)
        while len(self._breakers) > REMEMBERED:
            self._breakers.popitem(last=False)
        if _alive(answer):
            breaker.failures, breaker.open_until = 0, 0.0
            return
        breaker.failures += 1
        over = breaker.failures - OPENS_AFTER
        if over >= 0:
            open_s = min(FIRST_OPEN_S * 2 ** min(over, 10), LONGEST_OPEN_S)
            breaker.open_until = now + open_s

    def _room(self, channel: Channel, now: float) -> int:
        breaker = self._breakers.get(channel)
        if breaker is None:
            most = UNPROVEN
        elif now < breaker.open_until:
            most = 0
        else:
            most = FAILING if breaker.failures else PROVEN
        return max(0, most - self._under_way[channel])


def _alive(answer: Answer) -> bool:
    """A receiver that refuses this one may take the next."""
    return answer.status is not None and answer.status < 500 and answer.status != 429

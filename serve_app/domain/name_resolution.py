"""Resolution of host names that users name, in threads of its own and with a share per tenant.

``getaddrinfo`` blocks a thread. Beside a name server that does not answer it takes tens of seconds,
and nothing can end it. So look-ups have threads that nothing else uses, and a tenant whose look-ups
hang waits alone.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from serve_app.domain.sharing.fair_queue import may_start, working_for

MAX_THREADS = 128  # each waits for a name server
MAX_PER_TENANT = 8
"""Look-ups of a tenant in progress. A tenant also never holds more threads than are still free."""
MAX_WAITING_PER_TENANT = 100
LIMIT_S = 5.0
NEGATIVE_TTL_S = 10.0
"""Time for which a name without an address is not looked up again."""
MAX_NEGATIVE = 4096

LookUp = Callable[[str], Sequence[str]]
"""Host name → addresses; may block. Raises ``OSError`` or ``ValueError`` if there is none."""


def system_look_up(host: str) -> Sequence[str]:
    """All addresses of a host name, as the system resolves it. Blocks."""
    addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(place[0]).partition("%")[0] for *_, place in addresses]


Found = Sequence[str] | OSError | ValueError


@dataclass(frozen=True, slots=True)
class _Running:
    tenant: str
    began: float  # seconds of the event loop's clock
    addresses: asyncio.Future[Found]


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    tenant: str
    host: str
    started: asyncio.Future[_Running]


class NameResolver:
    """``Resolve`` with limits of time and of threads. It belongs to one event loop.

    Equal look-ups that run at the same time share a thread. A look-up that has exceeded
    ``limit_s`` keeps its thread until the system gives up; calls for its host fail at once.
    """

    def __init__(
        self,
        look_up: LookUp = system_look_up,
        *,
        max_threads: int = MAX_THREADS,
        per_tenant: int = MAX_PER_TENANT,
        limit_s: float = LIMIT_S,
    ) -> None:
        self._look_up = look_up
        self._max_threads = max_threads
        self._per_tenant = per_tenant
        self._limit_s = limit_s
        self._running: dict[str, _Running] = {}
        self._held: Counter[str] = Counter()  # threads of each tenant
        self._waiting: list[_Waiting] = []
        self._negative: OrderedDict[str, float] = OrderedDict()  # host → end of its cache time

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Addresses of ``host``. Raises ``OSError``, also after ``limit_s``, or ``ValueError``."""
        del port  # a name has the same addresses for every port
        with suppress(ValueError):
            return [str(ip_address(host))]
        async with asyncio.timeout(self._limit_s):  # TimeoutError is an OSError
            running = self._join_or_start(host) or await self._turn(host)
            outcome = await asyncio.shield(running.addresses)
        if isinstance(outcome, Exception):
            raise OSError(f"The host {host} cannot be resolved: {outcome}") from outcome
        return outcome

    def _join_or_start(self, host: str) -> _Running | None:
        """Look-up of ``host``; a new one if its tenant has room, else None."""
        now = asyncio.get_running_loop().time()
        if self._negative.get(host, now) > now:
            raise OSError(f"The host {host} was not known some seconds ago.")
        running = self._running.get(host)
        if running is not None and now - running.began >= self._limit_s:
            raise TimeoutError(f"The name server does not answer for {host}.")
        tenant = working_for()
        if running is None and self._has_room(tenant):
            running = self._start(tenant, host)
        return running

    def _has_room(self, tenant: str) -> bool:
        running = self._held[tenant]
        return running < self._per_tenant and may_start(
            running, len(self._running), self._max_threads
        )

    async def _turn(self, host: str) -> _Running:
        """Wait until a look-up of ``host`` has started."""
        tenant = working_for()
        if sum(waiter.tenant == tenant for waiter in self._waiting) >= MAX_WAITING_PER_TENANT:
            raise OSError("Too many names of this tenant wait for a name server.")
        waiting = _Waiting(tenant, host, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await waiting.started
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiting)

    def _start(self, tenant: str, host: str) -> _Running:
        loop = asyncio.get_running_loop()
        # A daemon, because a pool would wait at the end of the process for look-ups that hang.
        threading.Thread(target=self._work, args=(loop, host), daemon=True, name="dns").start()
        running = self._running[host] = _Running(tenant, loop.time(), loop.create_future())
        self._held[tenant] += 1
        return running

    def _work(self, loop: asyncio.AbstractEventLoop, host: str) -> None:
        outcome: Found
        try:
            outcome = self._look_up(host) or OSError("it has no address")
        except (OSError, ValueError) as error:
            outcome = error
        with suppress(RuntimeError):  # the event loop has been closed
            loop.call_soon_threadsafe(self._finish_look_up, host, outcome)

    def _finish_look_up(self, host: str, outcome: Found) -> None:
        running = self._running.pop(host)
        self._held -= Counter((running.tenant,))  # subtracting drops entries that reach zero
        self._negative.pop(host, None)
        if isinstance(outcome, Exception):
            self._negative[host] = asyncio.get_running_loop().time() + NEGATIVE_TTL_S
            while len(self._negative) > MAX_NEGATIVE:
                self._negative.popitem(last=False)
        running.addresses.set_result(outcome)
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start the look-ups for which there is room now, in the order of their arrival."""
        for waiting in tuple(self._waiting):
            if waiting.started.done():
                continue
            running = self._running.get(waiting.host)
            if running is None and self._has_room(waiting.tenant):
                running = self._start(waiting.tenant, waiting.host)
            if running is not None:
                waiting.started.set_result(running)

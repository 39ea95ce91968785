"""Admission control of an ingress process: how many calls of a tenant it works on at once, how many
may be open, how much memory their bodies take, and how fast large bodies follow each other.

All calls share one event loop and Python's lock, so a tenant with a thousand clients would be
before everyone else a thousand times. Beside other tenants each has a few calls in work; its other
calls wait. A tenant that is alone is not limited, except by the memory of bodies.

A call counts only while the process works on it, not while it waits for its client or for the end
of its request.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

from serve_app.domain.errors import Overloaded
from serve_app.domain.ports import Clock

CALLS = 8
"""Calls in work, shared by the tenants that are active."""
LEAST_CALLS = 2
"""Calls of a tenant in work, beside however many others."""
MAX_WAITING_CALLS = 1_000
"""Calls of a tenant that wait for their turn. More are refused: they would wait for seconds."""
ACTIVE_S = 1.0
"""Time after its last call in which a tenant counts as active."""
RETRY_S = 1.0

RESTS = 10
"""How many times the duration of a call its place rests afterwards, if more calls of its tenant
wait beside a tenant whose calls do not. On a busy machine calls take longer: there, who has many
clients slows down before those with few do. Measured on two cores, with the attacker beside: p95 of
the others 1.7 to 2.0 times that of alone; with 3, 3.5 times, and without, 5.5 times."""

OPEN_CALLS = 4_000
"""Open calls of a process, streams among them. Each takes a connection of HAProxy and two file
descriptors, one there and one here."""
OPEN_RETRY_S = 5.0

MAX_WAITING_BODIES = 32
"""Bodies of a tenant that wait for memory."""
BYTES_PER_S = 8 * 2**20
"""Rate of a tenant's bodies beside other tenants. A body costs about 8 ns a byte in all: received,
parsed, encoded and sent to the database. So this is 7 % of the process."""
BURST_BYTES = 16 * 2**20
"""Bytes that a tenant may be ahead of its rate."""
RECHECK_S = 0.25
"""Time after which a paced body looks whether its tenant is alone now."""
MAX_PACED_S = 30.0
"""Longest delay of a body. One that would wait longer is refused."""

Later = Callable[[float, Callable[[], None]], object]
"""Calls the second after the first, in seconds."""

_pause = asyncio.sleep
_admission: ContextVar[CallAdmission | None] = ContextVar("darkroom_admission", default=None)


def current_admission() -> CallAdmission | None:
    """Return the admission of the current task's call. None: the task is no admitted call."""
    return _admission.get()


def _later(seconds: float, act: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, act)


def end_admission() -> None:
    """The call of the current task needs no more work, or waits for its end from now on."""
    if (admission := _admission.get()) is not None:
        admission.end()


@asynccontextmanager
async def admission_suspended() -> AsyncGenerator[None]:
    """The call of the current task waits for others while the block runs, and does not count."""
    admission = _admission.get()
    if admission is None:
        yield
        return
    async with admission.suspend():
        yield


class AdmissionControl:
    """Calls in work by tenant. Use on one event loop."""

    def __init__(self, clock: Clock, body_bytes: int, later: Later | None = None) -> None:
        """``body_bytes``: memory of bodies, at least twice the largest. ``later``: for rests; None:
        the event loop's timers."""
        self.bodies = BodyMemory(body_bytes)
        self.open_calls = OpenCalls(OPEN_CALLS)
        self._clock = clock
        self._later = later or _later
        # The tenant that was active last comes last.
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        # Monotonic time up to which a tenant's bodies have used its rate. It outlasts a pause,
        # after which the tenant does not count as active any more.
        self._paced_until: dict[str, float] = {}

    async def admit(self, tenant: str) -> CallAdmission:
        """Wait until a call of ``tenant`` may be worked on. ``Overloaded``: too many wait."""
        admission = CallAdmission(self, tenant)
        await admission.enter()
        _admission.set(admission)
        return admission

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncGenerator[None]:
        """Wait until ``tenant`` may have a piece of work done, and count it while the block runs,
        such as what an open stream does for each of its events. ``Overloaded``: see ``admit``."""
        admission = CallAdmission(self, tenant)
        await admission.enter()
        try:
            yield
        finally:
            admission.end()

    def now(self) -> float:
        return self._clock.monotonic()

    async def enter(self, tenant: str) -> None:
        """Count a call in. ``Overloaded``: see ``admit``."""
        state = self._touch_tenant(tenant)
        share = self._share()
        if not state.waiting and (share is None or state.places < share):
            state.in_use += 1
            return
        if len(state.waiting) >= MAX_WAITING_CALLS:
            raise Overloaded(
                f"{len(state.waiting)} of your calls already wait for their turn beside those of "
                "other tenants. Send fewer at once.",
                RETRY_S,
                "calls_limit",
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        state.waiting[turn] = None
        try:
            await turn  # whoever resolves it has counted it in
        except asyncio.CancelledError:
            if turn.cancelled():
                state.waiting.pop(turn, None)
            else:
                self.leave(tenant)
            raise

    def leave(self, tenant: str, took_s: float = 0.0) -> None:
        """Count a call out, which took so long."""
        state = self._touch_tenant(tenant)
        state.in_use -= 1
        if not state.waiting:
            return
        if took_s and self._share() is not None and self._others_are_few():
            state.resting += 1
            self._later(RESTS * took_s, partial(self._end_rest, state))
        self._admit_waiting(state)

    def _others_are_few(self) -> bool:
        """Return whether an active tenant has no more calls than its share."""
        return any(not state.waiting for state in self._tenants.values())

    def _end_rest(self, state: _Tenant) -> None:
        state.resting -= 1
        if state.waiting:
            self._admit_waiting(state)

    def _admit_waiting(self, state: _Tenant) -> None:
        share = self._share()
        while state.waiting and (share is None or state.places < share):
            turn, _ = state.waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                state.in_use += 1

    async def pace(self, tenant: str, cost: int) -> None:
        """Wait until a body of ``cost`` bytes keeps its tenant to its rate, unless it is alone.
        Bodies go in the order of their calls. ``Overloaded``: it would wait too long."""
        self._touch_tenant(tenant)
        now = self._clock.monotonic()
        earliest = now - BURST_BYTES / BYTES_PER_S
        for other, until in list(self._paced_until.items()):
            if until <= earliest:
                del self._paced_until[other]
        begin = self._paced_until.get(tenant, earliest)
        if begin - now > MAX_PACED_S and self._share() is not None:
            raise Overloaded(
                "Your bodies arrive faster than this installation takes those of one tenant beside "
                "others. Send fewer at once, or upload files first and send their URLs.",
                begin - now,
                "body_rate",
            )
        self._paced_until[tenant] = begin + cost / BYTES_PER_S
        while (left_s := begin - self._clock.monotonic()) > 0 and self._share() is not None:
            await _pause(min(left_s, RECHECK_S))
            self._touch_tenant(tenant)
        if self._share() is None:
            self._paced_until.pop(tenant, None)  # what it does alone does not count against it

    def _touch_tenant(self, tenant: str) -> _Tenant:
        state = self._tenants.get(tenant)
        if state is None:
            state = self._tenants[tenant] = _Tenant()
        state.active_at = self._clock.monotonic()
        self._tenants.move_to_end(tenant)
        return state

    def _share(self) -> int | None:
        """Calls that each tenant may have in work. None: only the one that asks is active."""
        now = self._clock.monotonic()
        while True:
            tenant, state = next(iter(self._tenants.items()))
            if now - state.active_at <= ACTIVE_S:
                break
            if state.places or state.waiting:  # its work takes longer than that
                self._touch_tenant(tenant)
            else:
                del self._tenants[tenant]
        active = len(self._tenants)
        return None if active == 1 else max(LEAST_CALLS, CALLS // active)


@dataclass(slots=True)
class _Tenant:
    in_use: int = 0
    resting: int = 0  # places that are free after a moment
    # A dict as the queue, so that a call that is cancelled leaves it at once.
    waiting: OrderedDict[asyncio.Future[None], None] = field(default_factory=OrderedDict)
    active_at: float = 0.0

    @property
    def places(self) -> int:
        return self.in_use + self.resting


class CallAdmission:
    """One call that is worked on. Use in one task, except for ``end``."""

    __slots__ = ("_body_bytes", "_control", "_ended", "_since", "_tenant")

    def __init__(self, control: AdmissionControl, tenant: str) -> None:
        self._control = control
        self._tenant = tenant
        self._since: float | None = None  # counted in; None: it does not count now
        self._ended = False
        self._body_bytes = 0

    def end(self) -> None:
        """Count the call out, and its body. May be called again."""
        if self._ended:
            return
        self._ended = True
        self._leave()
        if self._body_bytes:
            self._control.bodies.release(self._tenant, self._body_bytes)

    @asynccontextmanager
    async def suspend(self) -> AsyncGenerator[None]:
        """Do not count the call while the block runs. After an error in the block it has ended."""
        if self._since is None:
            yield
            return
        self._leave()
        yield
        await self.enter()

    async def enter(self) -> None:
        """Count the call in. ``Overloaded``: see ``AdmissionControl.admit``."""
        await self._control.enter(self._tenant)
        if self._ended:
            self._control.leave(self._tenant)
        else:
            self._since = self._control.now()

    def _leave(self) -> None:
        if self._since is not None:
            self._control.leave(self._tenant, self._control.now() - self._since)
            self._since = None

    async def reserve_body(self, size: int) -> None:
        """Wait for memory for a body of ``size`` bytes. ``Overloaded``: see ``BodyMemory``."""
        if self._ended:
            return
        size = min(size, self._control.bodies.largest)
        await self._control.bodies.reserve(self._tenant, size)
        if self._ended:
            self._control.bodies.release(self._tenant, size)
        else:
            self._body_bytes += size

    async def pace_body(self, cost: int) -> None:
        """See ``AdmissionControl.pace``."""
        await self._control.pace(self._tenant, cost)


class OpenCalls:
    """Calls in a process whose responses have not ended. A stream of events, a WebSocket, and a run
    until its end last for minutes, and need no work meanwhile. Use on one event loop.

    A tenant may open one more while it has fewer than are free. So one alone leaves half of them,
    and each further one half of the rest.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()
        self._number = 0

    @property
    def number(self) -> int:
        return self._number

    def begin(self, tenant: str) -> None:
        """Count a call in. ``Overloaded``: the tenant has too many."""
        count = self._open[tenant]
        if count >= self._most - self._number:
            raise Overloaded(
                f"You have {count} open calls and streams, the most that one tenant can have here "
                "beside those of others. Close some, or poll the status.",
                OPEN_RETRY_S,
                "open_calls_limit",
            )
        self._open[tenant] = count + 1
        self._number += 1

    def end(self, tenant: str) -> None:
        """Count a call out."""
        self._number -= 1
        self._open[tenant] -= 1
        if not self._open[tenant]:
            del self._open[tenant]


class BodyMemory:
    """Memory of the bodies in a process, from before they are read until their requests are stored.
    Use on one event loop.

    A tenant may begin one more body while it holds less than what is free. So one alone leaves half
    of the memory, and each further one half of the rest, also when they send slowly.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._held: dict[str, int] = {}
        # The tenant whose turn is next comes first.
        self._waiting: OrderedDict[str, OrderedDict[asyncio.Future[None], int]] = OrderedDict()

    @property
    def used_bytes(self) -> int:
        return self._used

    @property
    def largest(self) -> int:
        """What a body counts at most. The setting for its size may grow while the server runs."""
        return self._size // 2

    async def reserve(self, tenant: str, size: int) -> None:
        """Wait for ``size`` bytes, at most ``largest``. ``Overloaded``: too many of the
        tenant's bodies wait."""
        waiting = self._waiting.get(tenant)
        if waiting is None and self._take(tenant, size):
            return
        if waiting is not None and len(waiting) >= MAX_WAITING_BODIES:
            raise Overloaded(
                f"{len(waiting)} of your bodies already wait for memory. Send fewer at once, or "
                "upload files first and send their URLs.",
                RETRY_S,
                "body_memory",
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, OrderedDict())[turn] = size
        try:
            await turn  # whoever resolves it has taken the memory
        except asyncio.CancelledError:
            if turn.cancelled():
                self._drop(tenant, turn)
            else:
                self.release(tenant, size)
            raise

    def release(self, tenant: str, size: int) -> None:
        """Give memory back."""
        self._used -= size
        remaining = self._held.pop(tenant) - size
        if remaining:
            self._held[tenant] = remaining
        while (turn := self._next()) is not None:
            turn.set_result(None)

    def _take(self, tenant: str, size: int) -> bool:
        free, own_bytes = self._size - self._used, self._held.get(tenant, 0)
        if own_bytes >= free or size > free:
            return False
        self._held[tenant] = own_bytes + size
        self._used += size
        return True

    def _next(self) -> asyncio.Future[None] | None:
        """Take memory for the body whose turn it is. None: there is not enough."""
        for tenant, waiting in self._waiting.items():
            turn, size = next(iter(waiting.items()))
            if turn.done():  # cancelled a moment ago
                self._drop(tenant, turn)
                return self._next()
            if self._take(tenant, size):
                self._drop(tenant, turn)
                if tenant in self._waiting:
                    self._waiting.move_to_end(tenant)
                return turn
        return None

    def _drop(self, tenant: str, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(tenant)
        if waiting is not None and waiting.pop(turn, None) is not None and not waiting:
            del self._waiting[tenant]

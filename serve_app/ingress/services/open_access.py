"""Access of open calls: a call ends with what it was let in by, not only at its beginning.

A stream of events, a long poll, a download and a WebSocket last for minutes. Once a second, each
process checks what its open calls were let in by, and ends those whose access has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from serve_app.domain.errors import (
    DarkroomError,
    Forbidden,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from serve_app.periodic_task import PeriodicTask
from serve_app.tenants.scopes import Caller, expand_scopes

CHECK_S = 1.0
"""Interval in seconds at which the access of open calls is checked. With the time for which a key
is cached, and a slow lookup of it, it makes the five seconds after which nothing goes out."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a call was let in by."""

    holder: Hashable  # equal for calls whose access ends together
    check: Callable[[], Awaitable[object]]
    """Raises ``Unauthenticated``, ``Forbidden`` or ``NotFound`` once it has ended."""


class OpenCall(Protocol):
    """Call whose response has not ended."""

    access: Access | None  # None: it needs none, or is not authenticated yet
    ended: DarkroomError | None  # why its access has ended
    on_end: Callable[[], object]  # called then


def access_of_caller(
    caller: Caller, current: Callable[[], Awaitable[Caller]], credential: str = ""
) -> Access:
    """Access by a key or by a person's token, which is ``credential``. ``current``: the caller's
    rights as they are now; it raises once there are none."""

    async def check() -> None:
        require_no_less(caller, await current())

    return Access((caller, credential), check)


def require_no_less(before: Caller, now: Caller) -> None:
    """``Forbidden``: a caller has lost rights that it had when its call began."""
    lost = expand_scopes(before.scopes) - expand_scopes(now.scopes)
    if lost or now.tenant != before.tenant or not now.within(before.endpoints):
        raise Forbidden(
            f"{before.key_id} has fewer rights now than when this call began. Call again."
        )


class OpenAccess:
    """Open calls of a process, and what they were let in by. Use on one event loop."""

    def __init__(self, every_s: float = CHECK_S) -> None:
        self._open: dict[int, OpenCall] = {}
        self._older: set[int] = set()  # were open at the last check
        self._rounds = PeriodicTask(every_s, {"open calls": self.check})

    def start(self) -> None:
        self._rounds.start()

    async def aclose(self) -> None:
        await self._rounds.aclose()

    def begin(self, call: OpenCall) -> None:
        self._open[id(call)] = call

    def end(self, call: OpenCall) -> None:
        del self._open[id(call)]
        self._older.discard(id(call))

    async def check(self) -> None:
        """End the calls whose access has ended. Those that were not open a round ago had it then:
        most calls end sooner, and some end their own access."""
        calls = [opened for id_, opened in self._open.items() if id_ in self._older]
        self._older = set(self._open)
        accesses = {opened.access.holder: opened.access for opened in calls if opened.access}
        ends = await asyncio.gather(*(_end_of(access) for access in accesses.values()))
        reasons = dict(zip(accesses, ends, strict=True))
        for call in calls:
            reason = reasons.get(call.access.holder) if call.access else None
            if reason is not None and call.ended is None and id(call) in self._open:
                call.ended = reason
                call.on_end()


async def _end_of(access: Access) -> DarkroomError | None:
    """Why an access has ended. None: it has not, or this cannot be checked now, which is no reason
    to end a call."""
    try:
        await access.check()
    except Unavailable:
        return None
    except (Unauthenticated, Forbidden, NotFound) as error:
        return error
    return None

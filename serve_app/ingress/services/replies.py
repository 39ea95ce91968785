"""Memory of replies: the last ones to status polls, and those that were not delivered."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from serve_app.domain.billing.budgets import Allowance
from serve_app.domain.request import NewRequest

# A poll without news waits for a change.
#
# fal's Python client polls ten times a second. If it polls again and nothing has changed, the
# response is held back until something changes, for at most ``HOLD_S``. The client learns of a
# change at once, and the server answers one call instead of ten.

HOLD_S = 2.0
"""Longest time in seconds that a poll is held; below the timeout of every known client."""

POLL_WINDOW_S = 1.5
"""Seconds since the last reply within which a poll is held. A client that polls less often is
answered at once."""

MAX_REMEMBERED = 20_000


class LastReplies:
    """Bounded memory of last replies. The least recently polled is dropped first."""

    def __init__(self, size: int = MAX_REMEMBERED) -> None:
        self._size = size
        self._last: OrderedDict[Hashable, tuple[Hashable, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def is_unchanged(self, poll: Hashable, version: Hashable, now: float) -> bool:
        """Return whether the same ``poll`` got this ``version`` less than ``POLL_WINDOW_S`` ago."""
        last = self._last.get(poll)
        return last is not None and last[0] == version and now - last[1] < POLL_WINDOW_S

    def record(self, poll: Hashable, version: Hashable, now: float) -> None:
        self._last[poll] = (version, now)
        self._last.move_to_end(poll)
        while len(self._last) > self._size:
            self._last.popitem(last=False)

    def forget(self, poll: Hashable) -> None:
        """Drop a request after its final reply, as clients stop polling it."""
        self._last.pop(poll, None)


class UndeliveredReplies:
    """Pending records of lost responses, by API key and body.

    A client whose connection broke while its request was being stored retries at once. Its second
    submit has to wait until the first is stored and its loss recorded; otherwise it would not find
    the first request.
    """

    def __init__(self) -> None:
        self._pending: dict[tuple[str | None, bytes], set[asyncio.Task[None]]] = {}

    def add(self, new: NewRequest, task: asyncio.Task[None]) -> None:
        """Register ``task``, which stores ``new`` and then records that its response was lost."""
        alike = (new.replay_key, new.body_digest)
        self._pending.setdefault(alike, set()).add(task)
        task.add_done_callback(lambda done: self._on_record_end(alike, done))

    async def wait_recorded(self, new: NewRequest) -> None:
        """Wait until all pending records with the same API key and body are stored."""
        if tasks := self._pending.get((new.replay_key, new.body_digest)):
            await asyncio.wait(tuple(tasks))

    def _on_record_end(self, alike: tuple[str | None, bytes], task: asyncio.Task[None]) -> None:
        tasks = self._pending[alike]
        tasks.discard(task)
        if not tasks:
            del self._pending[alike]


class Allowances:
    """What submits have left of their tenants' rates and budgets, until they are answered: by the
    id of the request. Bounded, because some answers have no headers, such as those of sessions."""

    def __init__(self, size: int = MAX_REMEMBERED) -> None:
        self._size = size
        self._left: OrderedDict[str, Allowance] = OrderedDict()

    def record(self, request_id: str, allowance: Allowance | None) -> None:
        if allowance is None:
            return
        self._left[request_id] = allowance
        if len(self._left) > self._size:
            self._left.popitem(last=False)

    def take(self, request_id: str) -> Allowance | None:
        """Return it once. None for a call that submitted nothing, or of a tenant without both."""
        return self._left.pop(request_id, None) if self._left else None


LAST_BYTE_DELAY_S = 0.05
"""Seconds to hold back the last byte of a response, to detect that the response is lost."""


@dataclass(frozen=True, slots=True)
class Replies:
    """Memory of replies of this process."""

    last: LastReplies = field(default_factory=LastReplies)
    undelivered: UndeliveredReplies = field(default_factory=UndeliveredReplies)
    allowances: Allowances = field(default_factory=Allowances)
    last_byte_delay_s: float = LAST_BYTE_DELAY_S

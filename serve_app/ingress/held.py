"""What each polled request was last said to be, so that an unchanged answer can wait for a change.

fal's Python client asks ten times a second. When it asks again and nothing is new, the answer is
held until something is, for at most ``HOLD_S``: the client learns of a change at once, and the
server answers one call where it would have answered ten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

HOLD_S = 2.0
"""How long an unchanged answer is held; below the timeout of every client known."""

RECENT_S = 1.5
"""Since the last answer. Who comes back later does not poll hard, and is answered at once."""

MOST_REMEMBERED = 20_000


class LastAnswers:
    """Bounded memory of last answers; the least recently polled is forgotten first."""

    def __init__(self, size: int = MOST_REMEMBERED) -> None:
        self._size = size
        self._last: OrderedDict[Hashable, tuple[Hashable, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def nothing_new(self, poll: Hashable, version: Hashable, now: float) -> bool:
        """Whether the same ``poll`` was answered with this ``version`` a moment ago."""
        last = self._last.get(poll)
        return last is not None and last[0] == version and now - last[1] < RECENT_S

    def answered(self, poll: Hashable, version: Hashable, now: float) -> None:
        self._last[poll] = (version, now)
        self._last.move_to_end(poll)
        while len(self._last) > self._size:
            self._last.popitem(last=False)

    def forget(self, poll: Hashable) -> None:
        """After the final answer nobody polls any more."""
        self._last.pop(poll, None)

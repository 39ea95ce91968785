"""Realtime sessions: what the ingress says to the replica that holds one.

A session is a request of the priority ``REALTIME``. Its lease is held for as long as its client
stays, and its frames go past the queue, straight to the replica that has the lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.by_name import by_name
from serve_app.domain.lease import Held
from serve_app.domain.outcome import Outcome


@by_name
@dataclass(frozen=True, slots=True)
class Seat:
    """Where a session is held."""

    pool: str
    replica_id: str
    held: Held


@by_name
@dataclass(frozen=True, slots=True)
class Frame:
    """One input of a session."""

    request_id: str  # of its own: what it takes is counted under it
    input: Mapping[str, Any]  # valid, with its defaults
    files: tuple[UploadTicket, ...] = ()  # names and types of what it may make; they lead nowhere


@by_name
@dataclass(frozen=True, slots=True)
class Drawn:
    """What became of a frame."""

    outcome: Outcome
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])  # by the artifact's key


class Sessions(Protocol):
    """The replicas that hold sessions. Real: handles of their pools."""

    async def draw(self, seat: Seat, frame: Frame) -> Drawn:
        """Past the queue, before everything else of its replica. Waits while weights are loaded.

        ``Fenced`` when the session has ended there. While the replica does not answer this waits:
        whoever asks learns from the lease that it is dead, and cancels. Cancelled, it stops.
        """
        ...

    async def end(self, seat: Seat) -> None:
        """The session has succeeded. One that has ended already is no error."""
        ...

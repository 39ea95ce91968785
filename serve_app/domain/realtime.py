"""Realtime sessions: calls from the ingress to the replica of a session.

A session is a request of the priority ``REALTIME``. Its lease is held while its client is
connected. Its frames bypass the queue and go straight to the replica that holds the lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Outcome
from serve_app.domain.serialization import pickle_by_name


@pickle_by_name
@dataclass(frozen=True, slots=True)
class ReplicaSlot:
    """Replica that holds a session."""

    pool: str
    replica_id: str
    held: LeaseKey


@pickle_by_name
@dataclass(frozen=True, slots=True)
class Frame:
    """One input of a session."""

    request_id: str  # of the frame itself: its usage is recorded under it
    input: Mapping[str, Any]  # validated, with defaults
    files: tuple[UploadTicket, ...] = ()  # keys and types of possible files; their URLs are unused


@pickle_by_name
@dataclass(frozen=True, slots=True)
class FrameResult:
    """Result of a frame."""

    outcome: Outcome
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])  # by the artifact's key


class Sessions(Protocol):
    """Client of the replicas that hold sessions. Real: handles of their pools."""

    async def generate_frame(self, seat: ReplicaSlot, frame: Frame) -> FrameResult:
        """Generate a frame. It bypasses the queue and has the highest priority in its replica.
        Waits while weights are loaded.

        Raises ``Fenced`` if the session has ended. While the replica does not respond, this waits:
        the caller learns from the lease that it is dead, and cancels. On cancellation it stops.
        """
        ...

    async def end(self, seat: ReplicaSlot) -> None:
        """End the session as succeeded. If it has already ended, this is not an error."""
        ...

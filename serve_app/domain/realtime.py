"""Realtime sessions: calls from the ingress to the replica of a session.

A session is a request of the priority ``REALTIME``. Its lease is held while its client is
connected. Its frames bypass the queue and go straight to the replica that holds the lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.lease import LeaseKey
from serve_app.domain.outcome import Failure, Outcome
from serve_app.domain.serialization import pickle_by_name


@pickle_by_name
@dataclass(frozen=True, slots=True)
class ReplicaSlot:
    """Replica that holds a session."""

    pool: str
    replica_id: str
    lease_key: LeaseKey


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


SessionKind = Literal["frames", "app", "none"]


def session_kind(endpoint: Endpoint) -> SessionKind:
    """Sessions that an endpoint has: each frame is an input of the endpoint; or the messages are
    those of its app; or none."""
    if AppSessionRules.of(endpoint) is not None:
        return "app"
    return "none" if endpoint.runs_in_executor else "frames"


# Sessions of apps, whose messages are passed on as they are: a client and an app may agree on any
# encoding, and one message of either need not answer one of the other.

SESSION = "session"
"""Key of an endpoint's app, with what ``AppSessionRules`` has."""

UNARY, WEBSOCKET = "unary", "websocket"


@dataclass(frozen=True, slots=True)
class AppSessionRules:
    """How the messages of an app's sessions are passed on."""

    mode: str = WEBSOCKET  # of fal's for realtime routes, or WEBSOCKET
    buffering: int | None = None  # messages that the app itself keeps; it drops older ones
    max_batch_size: int = 1  # messages that one answer may be for
    content_type: str = ""

    @classmethod
    def of(cls, endpoint: Endpoint) -> AppSessionRules | None:
        """Rules of an endpoint. None: it has no sessions of an app's own."""
        rules = endpoint.executor_option.get(SESSION)
        if not isinstance(rules, Mapping):
            return None
        known = {attribute.name for attribute in fields(cls)}
        return cls(**{name: value for name, value in rules.items() if name in known})

    @property
    def is_realtime(self) -> bool:
        """True for a route of ``fal.realtime``, whose messages are binary."""
        return self.mode != WEBSOCKET

    @property
    def drops(self) -> bool:
        """True if newer messages of a client replace older ones that wait."""
        return self.mode == UNARY

    @property
    def most_unanswered(self) -> int | None:
        """Messages that the app may have before it answers: one batch runs and one waits. None: it
        has answers that belong to no message, or drops messages."""
        return 2 * self.max_batch_size if self.drops and self.buffering is None else None


@pickle_by_name
@dataclass(frozen=True, slots=True)
class SessionEnd:
    """End of an app's session: the app has closed it, or ``failure`` says why it broke."""

    code: int
    reason: str
    failure: Failure | None = None


@pickle_by_name
@dataclass(frozen=True, slots=True)
class AppMessages:
    """Messages of an app for its client, in their order."""

    messages: tuple[bytes | str, ...] = ()
    idle_s: float = 0.0  # time in which the app has only waited for a message
    end: SessionEnd | None = None  # after the messages


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


class AppSessions(Protocol):
    """Client of the replicas whose apps have sessions. Real: handles of their pools."""

    async def end(self, seat: ReplicaSlot) -> None:
        """As ``Sessions.end``. The app sees its client leave."""
        ...

    async def send_message(self, seat: ReplicaSlot, message: bytes | str) -> None:
        """Give a client's message to the app of a session. Waits until the app has room for it.

        Raises ``Fenced`` if the session has ended.
        """
        ...

    async def next_messages(self, seat: ReplicaSlot, within_s: float) -> AppMessages:
        """Messages of the app since the last call, at the latest after ``within_s`` seconds. Only
        one call at a time: a session that is not asked for messages ends.

        Raises ``Fenced`` if the session has ended.
        """
        ...


class ReplicaSessions(Sessions, AppSessions, Protocol):
    """Client of all replicas that hold sessions."""

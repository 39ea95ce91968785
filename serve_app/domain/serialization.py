"""Serialization of what replicas and ingress processes exchange: pickling by field name, framed
messages over a byte stream, and the proof that precedes them on a network.

An update replaces ingress processes and replicas one by one, so both versions run side by side for
a while. By default, a frozen dataclass with slots is pickled as the values of its fields, in order:
a version with one more or fewer fields would mix up the values. So the names are pickled too.
"""

from __future__ import annotations

import asyncio
import hmac
import pickle
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from operator import attrgetter
from struct import Struct
from typing import Any, TypeVar, cast

T = TypeVar("T")

MARK = "by name"
"""First of the names, which follow the values. A reader that takes only as many values as it has
fields ignores the names; versions before this format do that."""


def pickle_by_name(kind: type[T]) -> type[T]:
    """Class decorator, placed above ``@dataclass``. A reader ignores fields that it does not know
    and uses the defaults of missing ones. So a new field needs a default and a plain value, since
    another version cannot read a new class. New fields come last, because some versions send or
    read values without names."""
    of_any: Any = kind
    known: Mapping[str, Field[Any]] = {field.name: field for field in fields(of_any)}
    names = (MARK, *known)
    values = attrgetter(*known)
    single = len(known) == 1

    def get_state(self: Any) -> list[Any]:
        return [values(self), names] if single else [*values(self), names]

    def set_state(self: Any, state: Sequence[Any]) -> None:
        if state[-1:] == [names]:
            told: Iterable[tuple[str, Any]] = zip(known, state, strict=False)
        else:
            by_name = _state_by_name(state, known)
            told = ((name, _value(kind, field, by_name)) for name, field in known.items())
        for name, value in told:
            object.__setattr__(self, name, value)

    def set_attributes(self: Any, state: Mapping[str, Any]) -> None:
        own = {name: _value(kind, field, state) for name, field in known.items()}
        self.__dict__.update(state, **own)

    if "__slots__" in vars(kind):
        kind.__getstate__ = get_state
        kind.__setstate__ = set_state
    else:  # without slots, the state already has names
        kind.__setstate__ = set_attributes
    return kind


def _state_by_name(state: Any, known: Iterable[str]) -> Mapping[str, Any]:
    last = state[-1] if state else None
    if isinstance(last, tuple) and last[:1] == (MARK,):
        return dict(zip(last[1:], state, strict=False))
    return dict(zip(known, state, strict=False))


def _value(kind: type, field: Field[Any], state: Mapping[str, Any]) -> Any:
    if field.name in state:
        return state[field.name]
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    raise TypeError(f"Another version sent a {kind.__name__} without {field.name}, which it needs.")


# RPC between a replica and an ingress process. A frame is a pickle, preceded by its length.
# Unpickling runs code, so both ends must be processes of the same user, such as the ends of a Unix
# socket in a directory of mode 0700, or of a connection that began with a ``Handshake``.

_LENGTH = Struct("<I")


class FrameStream(asyncio.Protocol):
    """One end of a stream. Subclasses implement ``message_received``, and ``lost`` for the end of
    the connection. For one event loop."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._incoming = bytearray()
        self._outgoing: list[bytes] = []

    @property
    def open(self) -> bool:
        """True if the connection is open, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: object) -> None:
        """Send a message. All messages of one event loop iteration go out in one write. Messages to
        a closed stream are dropped."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing += (_LENGTH.pack(len(body)), body)

    def close(self) -> None:
        """Close the stream. Sent messages still go out; nothing more is received."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def message_received(self, message: Any) -> None:
        raise NotImplementedError

    def lost(self) -> None:
        raise NotImplementedError

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self._incoming += data
        start = 0
        while (begin := start + _LENGTH.size) <= len(self._incoming):
            (length,) = _LENGTH.unpack_from(self._incoming, start)
            if begin + length > len(self._incoming):
                break
            start = begin + length
            self.message_received(pickle.loads(self._incoming[begin:start]))  # noqa: S301 see above
        del self._incoming[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self.lost()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(outgoing))


# Proof of a key, before frames on a network.

NONCE_BYTES = PROOF_BYTES = 32
HANDSHAKE_S = 5.0
SILENT_S = 25
"""Time after which a connection ends whose peer acknowledges nothing, as behind a cut cable."""


class Handshake(asyncio.Protocol):
    """Start of a connection over a network: each end proves that it knows the key before anything
    is unpickled.

    Each end sends random bytes, and then the HMAC-SHA256 of its role, its own bytes and the other's
    under the key (a challenge and response as in RFC 2195, in both directions). Then a stream takes
    the connection over. What follows is neither signed nor encrypted, like all of Ray's traffic.
    """

    def __init__(self, key: bytes, make: Callable[[], FrameStream], *, serves: bool) -> None:
        """``make``: makes the stream that takes over. ``serves``: True at one end only."""
        self._key = key
        self._make = make
        self._roles = (b"server", b"client") if serves else (b"client", b"server")
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._incoming = bytearray()
        self._proved = False  # this end
        self._transport: asyncio.Transport | None = None
        loop = asyncio.get_running_loop()
        self._limit = loop.call_later(HANDSHAKE_S, self._end)
        self.stream: asyncio.Future[FrameStream] = loop.create_future()
        """The stream, once it has the connection. ``ConnectionError``: the other end has no proof,
        or is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        _end_if_silent(self._transport)
        self._transport.write(self._nonce)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._incoming += data
        theirs, proof = bytes(self._incoming[:NONCE_BYTES]), bytes(self._incoming[NONCE_BYTES:])
        if len(theirs) == NONCE_BYTES and not self._proved:
            self._proved = True
            self._transport.write(self._proof(self._roles[0], self._nonce, theirs))
        if len(proof) < PROOF_BYTES:
            return
        expected = self._proof(self._roles[1], theirs, self._nonce)
        if hmac.compare_digest(proof[:PROOF_BYTES], expected):
            self._hand_over(self._transport, proof[PROOF_BYTES:])
        else:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._limit.cancel()
        if not self.stream.done():
            self.stream.set_exception(ConnectionResetError("The other end has not proved the key."))
            self.stream.exception()  # nobody may wait for it

    def _proof(self, role: bytes, own: bytes, other: bytes) -> bytes:
        return hmac.digest(self._key, role + own + other, "sha256")

    def _hand_over(self, transport: asyncio.Transport, rest: bytes) -> None:
        self._limit.cancel()
        stream = self._make()
        transport.set_protocol(stream)
        stream.connection_made(transport)
        self.stream.set_result(stream)
        if rest:
            stream.data_received(rest)

    def _end(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _end_if_silent(transport: asyncio.Transport) -> None:
    """Let the kernel end the connection after ``SILENT_S``, as far as this system can."""
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": SILENT_S - 10,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 2,
        "TCP_USER_TIMEOUT": SILENT_S * 1000,
    }
    for name, value in options.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

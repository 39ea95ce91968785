"""Serialization of what replicas and ingress processes exchange: pickling by field name, and framed
messages over a byte stream.

An update replaces ingress processes and replicas one by one, so both versions run side by side for
a while. By default, a frozen dataclass with slots is pickled as the values of its fields, in order:
a version with one more or fewer fields would mix up the values. So the names are pickled too.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterable, Mapping, Sequence
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
    known: Mapping[str, Field[Any]] = {each.name: each for each in fields(kind)}  # pyright: ignore[reportArgumentType]
    names = (MARK, *known)
    values = attrgetter(*known)
    single = len(known) == 1

    def get_state(self: Any) -> list[Any]:
        return [values(self), names] if single else [*values(self), names]

    def set_state(self: Any, state: Sequence[Any]) -> None:
        if state[-1:] == [names]:
            told: Iterable[tuple[str, Any]] = zip(known, state, strict=False)
        else:
            found = _named(state, known)
            told = ((name, _value(kind, each, found)) for name, each in known.items())
        for name, value in told:
            object.__setattr__(self, name, value)

    def set_attributes(self: Any, state: Mapping[str, Any]) -> None:
        own = {name: _value(kind, each, state) for name, each in known.items()}
        self.__dict__.update(state, **own)

    if "__slots__" in vars(kind):
        kind.__getstate__ = get_state  # pyright: ignore[reportAttributeAccessIssue]
        kind.__setstate__ = set_state  # pyright: ignore[reportAttributeAccessIssue]
    else:  # without slots, the state already has names
        kind.__setstate__ = set_attributes  # pyright: ignore[reportAttributeAccessIssue]
    return kind


def _named(state: Any, known: Iterable[str]) -> Mapping[str, Any]:
    last = state[-1] if state else None
    if isinstance(last, tuple) and last[:1] == (MARK,):
        return dict(zip(last[1:], state, strict=False))
    return dict(zip(known, state, strict=False))


def _value(kind: type, field: Field[Any], found: Mapping[str, Any]) -> Any:
    if field.name in found:
        return found[field.name]
    if field.default is not MISSING:
        return field.default
    if field.default_factory is not MISSING:
        return field.default_factory()
    raise TypeError(f"Another version sent a {kind.__name__} without {field.name}, which it needs.")


# Local RPC between a replica and an ingress process. A frame is a pickle, preceded by its length.
# Unpickling runs code, so both ends must be processes of the same user, such as the ends of a Unix
# socket in a directory of mode 0700.

_LENGTH = Struct("<I")


class FrameStream(asyncio.Protocol):
    """One end of a stream. Subclasses implement ``received``, for messages, and ``lost``, for the
    end of the connection. For one event loop."""

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

    def received(self, message: Any) -> None:
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
            self.received(pickle.loads(self._incoming[begin:start]))  # noqa: S301 see above
        del self._incoming[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self.lost()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(outgoing))

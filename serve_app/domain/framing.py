"""Framed messages over a byte stream: local RPC between a replica and an ingress process.

A frame is a pickle, preceded by its length. Unpickling runs code, so both ends must be processes of
the same user, such as the ends of a Unix socket in a directory of mode 0700.
"""

from __future__ import annotations

import asyncio
import pickle
from struct import Struct
from typing import Any, cast

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

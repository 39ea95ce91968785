"""Objects over a byte stream: what crosses a line between a replica and an ingress process.

A frame is a pickle with its length before it. Unpickling runs code, so both ends must be processes
of one user, as the two ends of a Unix socket in a directory of mode 0700 are.
"""

from __future__ import annotations

import asyncio
import pickle
from struct import Struct
from typing import Any, cast

_LENGTH = Struct("<I")


class Frames(asyncio.Protocol):
    """One end of a stream. Subclasses say what they do with what is ``received``, and when the
    other end is ``lost``. For one event loop."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._incoming = bytearray()
        self._outgoing: list[bytes] = []

    @property
    def open(self) -> bool:
        """Whether there is another end, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: object) -> None:
        """Frames that are sent in one turn of the event loop go in one write. To a stream that is
        not open nothing is sent."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing += (_LENGTH.pack(len(body)), body)

    def close(self) -> None:
        """What was sent still goes; nothing more is received."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def received(self, message: Any) -> None:
        raise NotImplementedError

    def lost(self) -> None:
        raise NotImplementedError

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no such class

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

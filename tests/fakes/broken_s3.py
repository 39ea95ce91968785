"""An S3 that answers what a test says, over real sockets: to see what is made of a broken one.

What a well one does is asked of real servers, in ``tests/storage/s3_servers.py``.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DROP = "drop"  # the connection ends without an answer
HANG = "hang"  # nothing is answered until the server closes


@dataclass(frozen=True)
class Says:
    """One answer. ``code`` and ``message`` become S3's XML; ``cut`` ends the body too early."""

    status: int
    code: str = ""
    message: str = "as asked"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None

    def content(self) -> bytes:
        if not self.code:
            return self.body
        xml = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>"
        return xml.encode()


@dataclass
class BrokenS3:
    """Answers from ``planned`` one after the other, then always ``after``."""

    url: str = ""
    planned: deque[Says | str] = field(default_factory=deque)
    after: Says | str = field(default_factory=lambda: Says(200))
    seen: list[tuple[str, str]] = field(default_factory=list)  # method, path
    closing: threading.Event = field(default_factory=threading.Event)

    def next(self) -> Says | str:
        return self.planned.popleft() if self.planned else self.after


@contextmanager
def broken_s3(after: Says | str | None = None) -> Iterator[BrokenS3]:
    state = BrokenS3()
    if after is not None:
        state.after = after

    class Handler(_Handler):
        broken = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    broken: BrokenS3
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.broken.seen.append((self.command, self.path))
        self.rfile.read(int(self.headers.get("content-length", 0)))
        says = self.broken.next()
        if isinstance(says, str):
            if says == HANG:
                self.broken.closing.wait(60)
            self.close_connection = True
            return
        content = says.content()
        self.send_response(says.status)
        for name, value in says.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: says.cut])
        self.close_connection = says.cut is not None

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests' own output is enough."""

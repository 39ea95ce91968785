"""A server that only this machine can reach: what a forged request must never touch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = b"credentials-of-the-machine-that-nobody-may-read"


class Inside(ThreadingHTTPServer):
    """Answers each call with a secret, and remembers it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.calls: list[str] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Answer(BaseHTTPRequestHandler):
    server: Inside

    def do_GET(self) -> None:
        self.server.calls.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("content-length", str(len(SECRET)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(SECRET)

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def inside() -> Iterator[Inside]:
    with Inside() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

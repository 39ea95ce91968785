"""A proxy before a Darkroom that answers some calls itself, as while the ingress starts again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from serve_app.cli.connection.client import ANSWER_ID
from tests.wire.served import Address

DROP = 0
"""The connection ends without an answer."""
CUT = 1
"""The connection ends after half of the answer."""

Trouble = Callable[[str, str], int | None]
"""Method and path of a call → status that the proxy answers, ``DROP`` or ``CUT``. None: it is
passed on."""


@contextmanager
def flaky_proxy(behind: Address, trouble: Trouble) -> Generator[Address]:
    """Address of the proxy. URLs in answers lead to it too."""

    class Handler(_Handler):
        origin = behind.url

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self.reply(trouble(self.command, path))

        def do_POST(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Address(f"http://127.0.0.1:{server.server_port}", behind.key)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    origin: str

    def reply(self, status: int | None) -> None:
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size)
        if status == DROP:
            self.close_connection = True
            return
        own = status is not None and status != CUT
        answer = httpx.Response(status, text="<html>") if own else self._passed_on(body)
        content = answer.content.replace(self.origin.encode(), self._own().encode())
        self.send_response(answer.status_code)
        for name in ("content-type", "location", ANSWER_ID):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if status == CUT else content)
        self.close_connection = status == CUT

    def _passed_on(self, body: bytes) -> httpx.Response:
        kept = {
            name: value
            for name, value in self.headers.items()
            if name.lower() in ("authorization", "content-type", "idempotency-key")
        }
        url = f"{self.origin}{self.path}"
        return httpx.request(self.command, url, headers=kept, content=body, timeout=30)

    def _own(self) -> str:
        return f"http://{self.headers['host']}"

    def log_message(self, *_: object) -> None:
        """Log nothing to the terminal."""

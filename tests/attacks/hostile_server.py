"""A server that passes calls to a real Darkroom, and spoils what it answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.wire.served import Address

MOST_CALLS = 12
"""Of one command. More are refused, so that none waits for an end that never comes."""
PASSED_ON = ("authorization", "content-type", "idempotency-key", "accept")


@dataclass(frozen=True)
class Answer:
    """What it sends. ``body`` None: chunks without end."""

    body: bytes | None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Spoil = Callable[[str, httpx.Response], Answer]
"""Path of a call and Darkroom's answer → what is sent."""


class HostileServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: Address) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.spoil: Spoil = pass_through
        self.calls = 0
        self._known: dict[tuple[str, str], httpx.Response] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def truth(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """What Darkroom answers, or has answered to the same call. Requests go on."""
        answer = self._known.get((method, path))
        if answer is None or path.startswith("/queue"):
            answer = httpx.request(method, self.behind.url + path, timeout=30, **arguments)
            self._known[method, path] = answer
        return answer


class _Handler(BaseHTTPRequestHandler):
    server: HostileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(size)
        server = self.server
        server.calls += 1
        if server.calls > MOST_CALLS:
            return self._send(Answer(b"{}", 400))
        kept = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
        answer = server.truth(self.command, self.path, headers=kept, content=body)
        return self._send(server.spoil(self.path, answer))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET  # noqa: N815

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.body is None:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        try:
            if answer.body is not None:
                self.wfile.write(answer.body)
                return
            while True:
                self.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


def pass_through(_path: str, answer: httpx.Response) -> Answer:
    kind = answer.headers.get("content-type", "")
    return Answer(answer.content, answer.status_code, {"content-type": kind})


def of_json(change: Callable[[Any], Any]) -> Spoil:
    """Change each answer that is JSON, and each line that is."""

    def spoil(path: str, answer: httpx.Response) -> Answer:
        try:
            lines = [answer.json()]
        except ValueError:
            try:
                lines = [json.loads(line) for line in answer.text.splitlines()]
            except ValueError:
                return pass_through(path, answer)
        body = b"\n".join(json.dumps(change(line)).encode() for line in lines)
        return Answer(body, answer.status_code, {"content-type": "application/json"})

    return spoil


@contextmanager
def hostile_server(behind: Address) -> Generator[HostileServer]:
    with HostileServer(behind) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

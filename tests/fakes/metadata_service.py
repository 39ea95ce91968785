"""Metadata services of three clouds, as their machines reach them: one server for all."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

MACHINE = "vm-7"
TOKEN_HEADERS = ("x-aws-ec2-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token")

Answer = tuple[HTTPStatus, str]
REFUSED: Answer = (HTTPStatus.UNAUTHORIZED, "")
ABSENT: Answer = (HTTPStatus.NOT_FOUND, "")


class FakeMetadataService:
    """What a cloud's service says of the machine. ``cloud``: the one that answers."""

    def __init__(self, cloud: str) -> None:
        self.cloud = cloud
        self.ends_at: datetime | None = None
        self.of = MACHINE  # whose end it is
        self.broken = False
        self.calls = 0
        self._tokens = 0
        self.url = ""

    def expire_token(self) -> None:
        self._tokens += 1

    def answer(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        self.calls += 1
        if self.broken:
            return HTTPStatus.BAD_GATEWAY, "<html>\nBad Gateway"
        responder = {"aws": self._amazon, "gcp": self._google, "azure": self._azure}[self.cloud]
        return responder(method, path, headers)

    def _amazon(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        token = f"token-{self._tokens}"
        if path == "/latest/api/token":
            known = method == "PUT" and TOKEN_HEADERS[0] in headers
            return (HTTPStatus.OK, token) if known else (HTTPStatus.BAD_REQUEST, "")
        if headers.get(TOKEN_HEADERS[1]) != token:
            return REFUSED
        if path != "/latest/meta-data/spot/instance-action" or self.ends_at is None:
            return ABSENT
        at = f"{self.ends_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return HTTPStatus.OK, json.dumps({"action": "terminate", "time": at})

    def _google(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        if headers.get("metadata-flavor") != "Google":
            return HTTPStatus.FORBIDDEN, "Missing Metadata-Flavor:Google header."
        if (method, path) != ("GET", "/computeMetadata/v1/instance/preempted"):
            return ABSENT
        return HTTPStatus.OK, "FALSE" if self.ends_at is None else "TRUE"

    def _azure(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        if headers.get("metadata") != "true" or method != "GET":
            return HTTPStatus.BAD_REQUEST, '{"error": "Required metadata header not specified"}'
        if path == "/metadata/instance/compute/name":
            return HTTPStatus.OK, MACHINE
        if path != "/metadata/scheduledevents":
            return ABSENT
        events = [{"EventId": "1", "EventType": "Freeze", "Resources": [MACHINE]}]
        if self.ends_at is not None:
            at = format_datetime(self.ends_at.astimezone(UTC), usegmt=True)
            end = {"EventId": "2", "EventType": "Preempt", "Resources": [self.of], "NotBefore": at}
            events.append(end)
        return HTTPStatus.OK, json.dumps({"DocumentIncarnation": 2, "Events": events})


@contextmanager
def metadata_service(cloud: str) -> Generator[FakeMetadataService]:
    service = FakeMetadataService(cloud)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, text = service.answer(self.command, urlsplit(self.path).path, headers)
            self.send_response(status)
            if service.cloud == "gcp":
                self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            self.wfile.write(text.encode())

        do_PUT = do_GET  # noqa: N815 - the name that the server calls

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        service.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()

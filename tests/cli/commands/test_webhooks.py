"""Commands that list and redeliver webhooks, with fakes behind real HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest

from tests.wire.served import Address, serve


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with serve(deliver=True, allow_private_webhooks=True, webhook_waits_s=()) as address:
        yield address


@pytest.fixture
def receiver() -> Iterator[HTTPServer]:
    """Receiver that answers with its ``status``."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    class Server(HTTPServer):
        status = 404

    server = Server(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url_of(receiver: HTTPServer) -> str:
    return f"http://127.0.0.1:{receiver.server_port}/hook"


def wait_for_state(darkroom: Any, request_id: str, state: str) -> dict[str, Any]:
    end = time.monotonic() + 120
    while True:
        printed = json.loads(darkroom("webhooks", "show", request_id, "--json").stdout)
        if printed["state"] == state:
            return dict(printed)
        assert time.monotonic() < end, printed
        time.sleep(0.05)


def test_what_is_dead_is_listed_shown_and_sent_again(
    darkroom: Any, address: Address, receiver: Any
) -> None:
    answer = httpx.post(
        f"{address.url}/queue/test/probe",
        params={"fal_webhook": url_of(receiver)},
        headers={"Authorization": f"Key {address.key}"},
        json={},
        trust_env=False,
    )
    request_id = answer.json()["request_id"]
    wait_for_state(darkroom, request_id, "dead")
    listed = darkroom("webhooks", "list", "--state", "dead").stdout
    assert listed.startswith(f"{request_id}  dead       1 attempt  ")
    assert "It answered 404." in listed
    assert "It answered 404." in darkroom("webhooks", "show", request_id).stdout
    receiver.status = 200
    output = darkroom("webhooks", "redeliver", request_id).stdout
    assert output == f"The webhook is sent again to {url_of(receiver)}.\n"
    assert len(wait_for_state(darkroom, request_id, "delivered")["log"]) == 2
    assert darkroom("webhooks", "list", "--state", "dead").stdout == ""
    assert f"webhook.redeliver  {request_id}" in darkroom("audit").stdout
    missing = "0190a0f0-0000-7000-8000-000000000000"
    assert "no request" in darkroom("webhooks", "show", missing, fails=True).stderr


def test_a_test_says_what_the_receiver_did(darkroom: Any, receiver: Any) -> None:
    failed = darkroom("webhooks", "test", url_of(receiver), fails=True)
    assert failed.stdout == "It answered 404.\n"
    receiver.status = 204
    assert darkroom("webhooks", "test", url_of(receiver)).stdout.startswith("Delivered after ")
    printed = json.loads(darkroom("webhooks", "test", url_of(receiver), "--json").stdout)
    assert (printed["delivered"], printed["status"]) == (True, 204)
    assert "url" in darkroom("webhooks", "test", "nonsense", fails=True).stderr


def test_secrets_and_keys_are_printed(darkroom: Any) -> None:
    (secret,) = darkroom("webhooks", "secret").stdout.split()
    assert secret.startswith("whsec_")
    assert [line.split("  ")[1] for line in darkroom("webhooks", "rotate").stdout.splitlines()] == [
        "signs",
        "will sign",
    ]
    (line,) = darkroom("webhooks", "rotate", "--at-once").stdout.splitlines()
    assert line.endswith("  signs")
    assert secret not in darkroom("webhooks", "secret").stdout

"""fal's own clients request webhooks; the receiver is the one of the documentation."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client
import httpx
import pytest

import fal_plain_http
from tests.docs.pages import DOCS, block
from tests.node import node, packages
from tests.wire.served import Address
from tests.wire.test_fal_javascript_client import HERE, program
from tests.wire.test_fal_python_client import GLOBALS

pytestmark = pytest.mark.wire

SHOWN_AT = "http://127.0.0.1:8000"
PATIENCE_S = 30.0


class Receiver:
    """Program of the documentation, with the address of the keys replaced."""

    def __init__(self, address: Address, folder: Path) -> None:
        shown = block(DOCS / "how-to" / "receive-webhooks.md", "python")
        assert SHOWN_AT in shown
        script = folder / "receiver.py"
        script.write_text(shown.replace(SHOWN_AT, address.url))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(self._port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath},
            text=True,
        )
        self.url = f"http://127.0.0.1:{self._port}/hook"
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
                return
            except ConnectionRefusedError:
                assert time.monotonic() < end, "the receiver did not start"
                time.sleep(0.05)

    def next_body(self) -> dict[str, Any]:
        """Next body whose signature the receiver has verified."""
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def receiver(darkroom_address: Address, tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(darkroom_address, tmp_path)
    yield receiver
    receiver.close()


def test_the_receiver_of_the_documentation_accepts_what_python_asked_for(
    darkroom_address: Address, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in GLOBALS:
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))
    fal_plain_http.use(darkroom_address.url)
    client = fal_client.SyncClient(key=darkroom_address.key)
    handle = client.submit("test/probe", {"echo": 7}, webhook_url=receiver.url)
    received = receiver.next_body()
    assert (received["request_id"], received["status"]) == (handle.request_id, "OK")
    assert received["payload"] == handle.get()
    with pytest.raises(fal_client.client.FalClientHTTPError) as refused:
        client.submit("test/probe", {}, webhook_url="ftp://receiver.example/")
    assert "fal_webhook" in str(refused.value)
    client._client.close()


def test_the_receiver_of_the_documentation_accepts_what_javascript_asked_for(
    darkroom_address: Address, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(packages(HERE))
    setup = tmp_path / "setup.mjs"
    setup.write_text(program("middleware", darkroom_address))
    done = subprocess.run(
        [node(), HERE / "webhook.mjs", setup, receiver.url],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    received = receiver.next_body()
    assert received["request_id"] == done.stdout.strip()
    assert received["payload"]["echo"] == "é"


def test_it_rejects_what_somebody_else_sends(receiver: Receiver) -> None:
    headers = {
        "x-fal-webhook-request-id": "1",
        "x-fal-webhook-user-id": "default",
        "x-fal-webhook-timestamp": str(time.time_ns() // 10**9),
        "x-fal-webhook-signature": "00" * 64,
    }
    answer = httpx.post(receiver.url, headers=headers, content=b"{}", trust_env=False)
    assert answer.status_code == 401

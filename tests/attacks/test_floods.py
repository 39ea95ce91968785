"""Clients that send or read slowly, and that send much: the calls of others go on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tests.attacks.attempts import Attempts
from tests.attacks.bystander import watch_bystander
from tests.attacks.scene import ALLOWED, Scene, keys_of, outcome
from tests.cluster.darkroom import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.long]

HOLD_S = 2.0  # of what holds connections, in a short run
SOCKETS = 300
HEADERS_S = 30.0  # as docs/explanation/security.md says
CLOSED_S = 60.0  # until a slow connection has been closed, with much else on the machine


@contextmanager
def sockets(scene: Scene, number: int, first: bytes) -> Iterator[list[socket.socket]]:
    """So many connections, each of which has sent ``first``."""
    with ExitStack() as stack:
        opened: list[socket.socket] = []
        for _ in range(number):
            connection = stack.enter_context(socket.create_connection(place(scene), timeout=10))
            connection.sendall(first)
            opened.append(connection)
        yield opened


def place(scene: Scene) -> tuple[str, int]:
    return "127.0.0.1", scene.darkroom.port


def drip(opened: list[socket.socket], piece: bytes, for_s: float) -> None:
    """Send a piece by each connection that is still open, each second."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        for connection in opened:
            try:
                connection.sendall(piece)
            except OSError:
                continue
        time.sleep(min(1.0, for_s))


def is_closed(connection: socket.socket) -> bool:
    """Read what has come. True: the other side has closed."""
    connection.settimeout(0.01)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def beginnings(key: str) -> dict[str, tuple[bytes, bytes]]:
    """What slow clients send first, and then each second."""
    begin = b"POST /queue/test/probe HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    with_key = begin + f"Authorization: Key {key}\r\nContent-Type: application/json\r\n".encode()
    return {
        "nothing": (b"", b""),
        "half a line": (b"GET /v1/requ", b"e"),
        "headers": (begin, b"X-A: b\r\n"),
        "one long header": (begin + b"X-A: ", b"b"),
        "a body": (with_key + b"Content-Length: 1000000\r\n\r\n{", b" "),
        "a body of chunks": (
            with_key + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
            b"1\r\n \r\n",
        ),
        "a body without a key": (begin + b"Content-Length: 1000000\r\n\r\n{", b" "),
    }


def test_slow_senders_hold_no_one_up(scene: Scene, attempts: Attempts) -> None:
    with watch_bystander(scene, attempts):
        for what, (first, piece) in beginnings(scene.attacker["submit"]).items():
            with sockets(scene, SOCKETS // 5, first) as opened:
                drip(opened, piece, 0.2)
                attempts.note(what, held=True)
        with sockets(scene, SOCKETS, b"GET / HTTP/1.1\r\n") as opened:
            drip(opened, b"X-A: b\r\n", HOLD_S)
            attempts.note(f"{SOCKETS} with slow headers", held=True)


def test_slow_senders_are_cut_off(scene: Scene, attempts: Attempts) -> None:
    with watch_bystander(scene, attempts):
        for what, (first, piece) in beginnings(scene.attacker["submit"]).items():
            with sockets(scene, 20, first) as opened:
                began = time.monotonic()
                while time.monotonic() - began < HEADERS_S + CLOSED_S:
                    drip(opened, piece, 1.0)
                    if all(map(is_closed, opened)):
                        break
                still = sum(not is_closed(client) for client in opened)
                took_s = time.monotonic() - began
                attempts.note(f"{what}: {still} open after {took_s:.0f} s", held=not still)


@pytest.mark.parametrize("hold_s", [HOLD_S, pytest.param(90.0, marks=pytest.mark.long)])
def test_slow_readers_hold_no_one_up(scene: Scene, attempts: Attempts, hold_s: float) -> None:
    """Of a file of 50 MB, which is more than the buffers of their connections."""
    size = 50_000_000
    with scene.client(scene.attacker["admin"]) as http:
        submitted = http.post(
            "/queue/test/probe", json={"artifacts": 1, "artifact_bytes": size}
        ).json()
        assert outcome(http, submitted["request_id"])["state"] == "succeeded"
        path = urlsplit(http.get(submitted["response_url"]).json()["images"][0]["url"]).path
    key = scene.attacker["submit"]
    call = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Key {key}\r\n\r\n".encode()
    with watch_bystander(scene, attempts), sockets(scene, 60, call) as opened:
        end = time.monotonic() + hold_s
        while time.monotonic() < end:
            for connection in opened:
                connection.settimeout(0.01)
                try:
                    connection.recv(1)
                except OSError:
                    continue
            time.sleep(0.5)
        attempts.note(f"{len(opened)} slow readers", held=True)


def several(number: int, work: Callable[[int], object]) -> None:
    """Run the work in so many threads, and wait for all."""
    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


FLOODS = {
    "submits": ("POST", "/queue/test/probe", {"json": {"sleep_s": 0.01}}),
    "runs": ("POST", "/run/test/probe", {"json": {"sleep_s": 0.01}}),
    "lists": ("GET", "/v1/requests", {"params": {"limit": 100, "expand": "payloads"}}),
    "uploads": ("POST", "/cdn/files/upload", {"content": bytes(200_000)}),
    "wrong keys": ("GET", "/v1/requests", {"headers": {"Authorization": "Key a:b"}}),
    "no key": ("GET", "/v1/shared/x", {"headers": {"Authorization": ""}}),
    "tokens": ("POST", "/rest/tokens/", {"json": {"allowed_apps": [ALLOWED]}}),
    "checks": ("POST", "/v1/verify", {"content": b"x", "headers": {"content-type": "image/png"}}),
}


@pytest.mark.parametrize("each_s", [0.5, pytest.param(20.0, marks=pytest.mark.long)])
def test_floods_of_calls_hold_no_one_up(scene: Scene, attempts: Attempts, each_s: float) -> None:
    limits = httpx.Limits(max_connections=None)
    headers = {"Authorization": f"Key {scene.attacker['admin']}"}
    with (
        watch_bystander(scene, attempts),
        httpx.Client(base_url=scene.darkroom.url, headers=headers, limits=limits) as http,
    ):
        for what, (method, path, more) in FLOODS.items():
            end = time.monotonic() + each_s
            seen: dict[int, int] = {}

            def call(_: int) -> None:
                while time.monotonic() < end:  # noqa: B023 it ends before the next
                    try:
                        status = http.request(method, path, **more).status_code  # noqa: B023
                    except httpx.TransportError:
                        status = 0
                    seen[status] = seen.get(status, 0) + 1  # noqa: B023

            several(16, call)
            wrong = [status for status in seen if status >= 500 and status != 503]
            attempts.note(f"{what}: {seen}", held=not wrong and sum(seen.values()) > 0)


def test_many_streams_and_sockets_hold_no_one_up(scene: Scene, attempts: Attempts) -> None:
    """More than a tenant may have: the surplus is refused."""
    key = scene.attacker["admin"]
    with scene.client(key) as http:
        submitted = http.post("/queue/test/probe", json={"sleep_s": 60}).json()
        request_id = submitted["request_id"]
        token = http.post("/rest/tokens/", json={"allowed_apps": [ALLOWED]}).json()
    stream = f"GET /queue/test/probe/requests/{request_id}/status/stream HTTP/1.1\r\n"
    wait = f"GET /v1/requests/{request_id}?wait=30 HTTP/1.1\r\n"
    rest = f"Host: 127.0.0.1\r\nAuthorization: Key {key}\r\n\r\n"
    with watch_bystander(scene, attempts):
        for what, line in (("streams", stream), ("long polls", wait)):
            with sockets(scene, SOCKETS, f"{line}{rest}".encode()):
                time.sleep(HOLD_S)
                attempts.note(what, held=True)
        url = f"ws://127.0.0.1:{scene.darkroom.port}/{ALLOWED}/realtime?fal_jwt_token={token}"
        with ExitStack() as stack:
            for _ in range(30):
                try:
                    stack.enter_context(connect(url, open_timeout=10, close_timeout=1))
                except (WebSocketException, OSError, TimeoutError):
                    continue
            time.sleep(HOLD_S)
            attempts.note("sessions", held=True)
    with scene.client(key) as http:
        http.put(f"/queue/test/probe/requests/{request_id}/cancel")
        eventually(lambda: http.get("/v1/requests", params={"limit": 1}).is_success, "it calls", 60)


def test_open_uploads_have_a_limit(scene: Scene, attempts: Attempts) -> None:
    named = {"file_name": "a.png"}
    # A tenant of its own: it may upload nothing for a while, and other tests upload as attacker.
    key = keys_of(scene.darkroom, "uploader")["admin"]
    with watch_bystander(scene, attempts), scene.client(key) as http:
        seen: dict[int, int] = {}
        for _ in range(1100):
            status = http.post("/rest/storage/upload/initiate", json=named).status_code
            seen[status] = seen.get(status, 0) + 1
            if status != 200:
                break
        attempts.note(f"open uploads: {seen}", held=any(400 <= status < 500 for status in seen))

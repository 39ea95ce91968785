"""Bodies, queries and headers that are cheap to send and dear to read: each is refused quickly."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgpack
import pytest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from serve_app.ingress.http.paths import COMFYUI_PREFIX, MCP_PATH, OPENAI_PREFIX, REPLICATE_PREFIX
from tests.attacks.attempts import Attempts
from tests.attacks.bystander import watch_bystander
from tests.attacks.scene import ALLOWED, Scene

pytestmark = [pytest.mark.cluster, pytest.mark.long]

ENDS_S = 50.0
"""A call that takes longer hangs. Alone each takes less than a second."""
MIB = 2**20

ONE_OF = pytest.mark.parametrize("one_of", [9, pytest.param(1, marks=pytest.mark.long)])
"""A short run tries one of so many."""

CALLS = (
    *("/queue/test/probe", f"/run/{ALLOWED}", f"{OPENAI_PREFIX}/images/generations", MCP_PATH),
    *(f"{REPLICATE_PREFIX}/predictions", f"{COMFYUI_PREFIX}/prompt", "/v1/workflows", "/v1/keys"),
    *("/v1/estimate", "/v1/requests/zip", "/rest/storage/upload/initiate", "/v1/weights"),
    *("/v1/models/pricing/estimate", f"{OPENAI_PREFIX}/batches", f"{COMFYUI_PREFIX}/settings"),
)


def nested_json(depth: int, begin: bytes = b"[", end: bytes = b"]", inner: bytes = b"1") -> bytes:
    return begin * depth + inner + end * depth


def bodies() -> Mapping[str, bytes]:
    """Bodies of JSON, all small or at once known as too large."""
    return {
        "deep lists": nested_json(100_000),
        "deep objects": nested_json(100_000, b'{"a":', b"}"),
        "deep, without an end": b"[" * 100_000,
        "a depth that is parsed": b'{"echo":%b,"prompt":%b}' % (nested_json(900), nested_json(900)),
        "deep in a text": json.dumps({"prompt": nested_json(100_000).decode()}).encode()[:MIB],
        "a number of many digits": b'{"seed":' + b"9" * 100_000 + b"}",
        "a large exponent": b'{"seed":1e999999999,"prompt":"x"}',
        "a small exponent": b'{"seed":1e-999999999,"prompt":"x"}',
        "a fraction of many digits": b'{"seed":0.' + b"3" * 100_000 + b"}",
        "NaN": b'{"seed":NaN,"prompt":"x"}',
        "Infinity": b'{"prompt":"x","guidance_scale":-Infinity}',
        "half a pair": b'{"prompt":"\\ud800"}',
        "half a pair as a name": b'{"\\udfff":1,"prompt":"x"}',
        "NUL": b'{"prompt":"a\\u0000b"}',
        "names twice": b'{"prompt":"x","prompt":"y",' + b'"a":1,' * 50_000 + b'"a":2}',
        "many names": json.dumps({f"name{n}": n for n in range(50_000)}).encode(),
        "no UTF-8": b'{"prompt":"\xff\xfe"}',
        "overlong UTF-8": b'{"prompt":"\xc0\x80"}',
        "UTF-16": '{"prompt":"x"}'.encode("utf-16"),
        "a mark of bytes": b"\xef\xbb\xbf{}",
        "many values": b"[" + b"1," * 1_500_000 + b"1]",
        "nothing": b"",
        "space": b" " * MIB,
        "a text": b'"x"',
        "null": b"null",
    }


LARGE = {
    "a long text": lambda: b'{"prompt":"' + b"x" * (15 * MIB) + b'"}',
    "escapes": lambda: b'{"prompt":"' + b"\\u00e9" * (15 * MIB // 6) + b'"}',
    "many lists": lambda: b'{"prompt":"x","echo":[' + b"[]," * 300_000 + b"[]]}",
    "100 MB": lambda: b'{"prompt":"' + b"x" * (100 * MIB) + b'"}',
}


def time_request(http: httpx.Client, method: str, path: str, **more: Any) -> tuple[int, float]:
    """Status and seconds. 0: the connection was closed without an answer."""
    began = time.monotonic()
    try:
        status = http.request(method, path, **more).status_code
    except httpx.TransportError:
        status = 0
    return status, time.monotonic() - began


def time_message(scene: Scene, message: bytes) -> tuple[int, float]:
    """The same for a message that no library would send."""
    began = time.monotonic()
    place = urlsplit(scene.darkroom.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        try:
            connection.sendall(message)
            line = connection.recv(4096)
        except OSError:
            line = b""
    return int(line.split()[1]) if line else 0, time.monotonic() - began


def fine(outcome: tuple[int, float], *, closed: bool = False) -> bool:
    status, took_s = outcome
    return took_s < ENDS_S and (status < 500 if status else closed)


JSON = {"content-type": "application/json"}


@ONE_OF
def test_bodies_of_json(scene: Scene, attempts: Attempts, one_of: int) -> None:
    tries = [(*item, path) for item in bodies().items() for path in CALLS]
    with watch_bystander(scene, attempts), scene.client(scene.attacker["admin"]) as http:
        for what, body, path in tries[::one_of]:
            outcome = time_request(http, "POST", path, content=body, headers=JSON)
            attempts.note(f"{what} {path}: {outcome}", held=fine(outcome))
        for what, encoding in (("gzip", 31), ("deflate", 15)):
            packer = zlib.compressobj(9, zlib.DEFLATED, encoding)
            packed = packer.compress(bytes(64 * MIB)) + packer.flush()
            headers = JSON | {"content-encoding": what}
            outcome = time_request(
                http, "POST", "/queue/test/probe", content=packed, headers=headers
            )
            attempts.note(f"{what}: {outcome}", held=fine(outcome) and outcome[0] >= 400)


def test_large_bodies_of_json(scene: Scene, attempts: Attempts) -> None:
    with watch_bystander(scene, attempts), scene.client(scene.attacker["submit"]) as http:
        for what, build in LARGE.items():
            body = build()
            for path in ("/v1/estimate", f"/queue/{ALLOWED}"):
                outcome = time_request(http, "POST", path, content=body, headers=JSON)
                attempts.note(f"{what} {path}: {outcome}", held=fine(outcome, closed=True))


def test_no_depth_poisons_the_queue(scene: Scene, attempts: Attempts) -> None:
    """What is accepted arrives at a replica, by each protocol that passes inputs on."""
    with scene.client(scene.attacker["admin"]) as http:
        for depth in (50, 90, 190, 300, 500, 700, 900):
            deep = json.loads(nested_json(depth))
            tool = {
                "name": "generate",
                "arguments": {"model": "test/probe", "input": {"echo": deep}},
            }
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool}
            accept = {"accept": "application/json, text/event-stream"}
            prediction = {"version": "test/probe", "input": {"echo": deep}}
            for path, body in (
                ("/run/test/probe", {"echo": deep}),
                (f"{REPLICATE_PREFIX}/predictions", prediction),
                (MCP_PATH, call),
            ):
                content = dumps(body)
                outcome = time_request(http, "POST", path, content=content, headers=JSON | accept)
                attempts.note(f"{path} {depth} deep: {outcome}", held=fine(outcome))
        shown = http.get("/v1/requests", params={"limit": 30}).json()
        left = [entry for entry in shown["requests"] if entry["state"] in ("queued", "running")]
        attempts.note(f"requests that do not end: {left}", held=not left)


def dumps(body: Mapping[str, Any]) -> bytes:
    """JSON of a deep body."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        return json.dumps(body).encode()
    finally:
        sys.setrecursionlimit(limit)


def test_forms(scene: Scene, attempts: Attempts) -> None:
    def form(parts: Iterator[bytes] | list[bytes], boundary: bytes = b"b") -> bytes:
        return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--b--\r\n"

    def field(name: bytes, value: bytes = b"x", more: bytes = b"") -> bytes:
        return b'Content-Disposition: form-data; name="%b"%b\r\n\r\n%b' % (name, more, value)

    forms = {
        "many fields": form([field(b"f%d" % n) for n in range(20_000)]),
        "many files": form([field(b"image[]", b"x", b'; filename="a"') for _ in range(5_000)]),
        "a deep name": form([field(b"a" + b"[b]" * 20_000)]),
        "brackets": form([field(b"[" * 100_000)]),
        "a long header": form([b"X-A: %b\r\n\r\nx" % (b"y" * MIB)]),
        "many headers": form([b"X-A: y\r\n" * 50_000 + b"\r\nx"]),
        "a header without an end": b"--b\r\nContent-Disposition: form-data; name=" + b"x" * MIB,
        "boundaries": b"--b\r\n" * 200_000,
        "lines": b"\r\n" * 500_000,
        "a name in parts": form([field(b"x", more=b"; filename*=utf-8''" + b"%41" * 50_000)]),
        "quotes": form([b"Content-Disposition: form-data" + b'; a="' * 50_000 + b"\r\n\r\nx"]),
    }
    kinds = (
        "multipart/form-data; boundary=b",
        "multipart/form-data",
        "multipart/form-data; b" * 99,
    )
    with watch_bystander(scene, attempts), scene.client(scene.attacker["admin"]) as http:
        for what, body in forms.items():
            for path in (f"{OPENAI_PREFIX}/images/edits", f"{OPENAI_PREFIX}/files"):
                outcome = time_request(
                    http, "POST", path, content=body, headers={"content-type": kinds[0]}
                )
                attempts.note(f"{what} {path}: {outcome}", held=fine(outcome, closed=True))
        for kind in kinds[1:]:
            path = f"{OPENAI_PREFIX}/images/edits"
            outcome = time_request(
                http, "POST", path, content=b"--b", headers={"content-type": kind}
            )
            attempts.note(f"{kind[:40]}: {outcome}", held=fine(outcome))


PATTERNS = (
    *("(a+)+$" * 20, "%" * 4000, "_" * 4000, "%_" * 2000, "\\" * 3999, "[[:" * 1000, "*" * 4000),
    *(
        "a & b | !" * 400,
        "' OR 1=1 --",
        "\U0010ffff" * 500,
        "\u0130\u0301" * 1000,
        "(?{1})",
        ":*" * 99,
    ),
)
LISTS = ("/v1/requests", "/v1/loras", "/v1/models", "/v1/batches", "/v1/shares", "/v1/webhooks")
SEARCHES = ("q", "search", "endpoint_id", "cursor", "status", "state", "prompt", "expand", "limit")


@ONE_OF
def test_queries(scene: Scene, attempts: Attempts, one_of: int) -> None:
    many, key = "&".join(f"a{n}={n}" for n in range(100_000)), scene.attacker["admin"]
    with watch_bystander(scene, attempts), scene.client(scene.attacker["admin"]) as http:
        tries = [(name, pattern) for name in SEARCHES for pattern in PATTERNS]
        for path in LISTS:
            for name, pattern in tries[::one_of]:
                outcome = time_request(http, "GET", path, params={name: pattern})
                attempts.note(f"{path}?{name}={pattern[:20]}: {outcome}", held=fine(outcome))
        for path in LISTS[::one_of]:
            for query in (
                many,
                many[:60_000],
                "&" * 60_000,
                "a&" * 30_000,
                "%41" * 20_000,
                "q=%ff",
            ):
                outcome = time_message(scene, request(f"{path}?{query}", key))
                attempts.note(f"{path}?{query[:20]}: {outcome}", held=fine(outcome, closed=True))


def request(path: str, key: str, headers: str = "") -> bytes:
    who = f"Host: 127.0.0.1\r\nAuthorization: Key {key}\r\n"
    return f"GET {path} HTTP/1.1\r\n{who}{headers}\r\n".encode()


OPTIONS = (
    *("X-Fal-Object-Lifecycle-Preference", "X-App-Fal-Upload-Policy", "X-Fal-Retry-Config"),
    *("X-Fal-Request-Timeout", "X-Fal-Queue-Priority", "X-Fal-Store-IO", "X-Fal-No-Retry"),
    *("Idempotency-Key", "Prefer", "traceparent", "tracestate", "Last-Event-ID", "Range", "Accept"),
    *("If-None-Match", "If-Range", "X-Forwarded-For", "X-Forwarded-Proto", "Cookie", "Origin"),
    *("X-Darkroom-Max-Cost", "X-Fal-Target-Url", "Accept-Encoding", "Accept-Language", "Host"),
    *("Content-Type", "Content-Disposition", "X-Fal-File-Name", "Authorization", "X-Request-Id"),
)
VALUES = (
    *(
        nested_json(15_000).decode(),
        '{"a":' * 10_000,
        "9" * 50_000,
        "1e999",
        "nan",
        "-inf",
        "-1",
        "",
    ),
    *("," * 50_000, "bytes=" + "0-1," * 10_000, "a,b;q=0.1," * 5_000, '"' * 30_000, "\xff" * 99),
    *(
        '{"expiration_duration_seconds":1e999}',
        '{"expiration_duration_seconds":NaN}',
        "a=b;" * 9000,
    ),
    *('{"timeout":1e400}', '{"initial_acl":{"default":"hide","rules":[' + "{}," * 5000 + "{}]}}"),
)


@ONE_OF
def test_headers(scene: Scene, attempts: Attempts, one_of: int) -> None:
    tries = [(name, value) for name in OPTIONS for value in VALUES]
    with watch_bystander(scene, attempts), scene.client(scene.attacker["admin"]) as http:
        for name, value in tries[::one_of]:
            headers = [(name.encode(), value.encode("latin-1", "ignore"))]
            for method, path in (("POST", "/queue/test/probe"), ("GET", "/v1/requests")):
                body = b"{}" if method == "POST" else None
                outcome = time_request(http, method, path, headers=headers, content=body)
                is_safe = fine(outcome, closed=True)
                attempts.note(f"{method} {name}: {value[:40]!r}: {outcome}", held=is_safe)
    key = scene.attacker["admin"]
    for headers in ("X-A: b\r\n" * 20_000, "".join(f"X-{n}: b\r\n" for n in range(20_000))):
        outcome = time_message(scene, request("/v1/requests", key, headers))
        attempts.note(f"{headers[:20]}: {outcome}", held=fine(outcome, closed=True))
    for path in ("/" * 50_000, "/v1" * 15_000, "/queue/" + "a/" * 20_000, "/files/" + "%2e" * 9999):
        outcome = time_message(scene, request(path, key))
        attempts.note(f"{path[:20]}: {outcome}", held=fine(outcome, closed=True))


def frames() -> Mapping[str, bytes | str]:
    """Frames of msgpack, and others."""
    return {
        "a list of 2^32 - 1": b"\xdd\xff\xff\xff\xff",
        "a map of 2^32 - 1": b"\xdf\xff\xff\xff\xff",
        "a text of 2^32 - 1": b"\xdb\xff\xff\xff\xff",
        "bytes of 2^32 - 1": b"\xc6\xff\xff\xff\xff",
        "an extension of 2^32 - 1": b"\xc9\xff\xff\xff\xff\x01",
        "deep lists": b"\x91" * 100_000 + b"\x01",
        "deep maps": b"\x81\xa1a" * 100_000 + b"\x01",
        "lists in a map": b"\x81\xa1a" + b"\xdc\xff\xff" * 1_000,
        "many values": msgpack.packb({"a": [0] * 19_999, "b": [[]] * 19_999}),
        "names of numbers": msgpack.packb({1: 2, "prompt": "x"}),
        "names of maps": b"\x81\x80\x01",
        "a time": msgpack.packb({"prompt": msgpack.Timestamp(2**33, 1)}),
        "a time that is none": b"\x81\xa1a\xd7\xff" + struct.pack(">Q", 2**64 - 1),
        "NaN": msgpack.packb({"prompt": "x", "seed": float("nan")}),
        "a large number": msgpack.packb({"prompt": "x", "seed": 2**64 - 1}),
        "no UTF-8": b"\x81\xa1a\xa2\xff\xfe",
        "NUL": msgpack.packb({"prompt": "a\0b"}),
        "much behind it": msgpack.packb({"prompt": "x"}) * 1_000,
        "zeros": bytes(1_000_000),
        "nothing": b"",
        "never used": b"\xc1",
        "JSON": '{"prompt":"x"}',
        "deep JSON": nested_json(100_000).decode(),
    }


def test_frames_of_realtime_sessions(scene: Scene, attempts: Attempts) -> None:
    with scene.client(scene.attacker["submit"]) as http:
        token = http.post("/rest/tokens/", json={"allowed_apps": [ALLOWED]}).json()
    place = urlsplit(scene.darkroom.url).netloc
    url = f"ws://{place}/{ALLOWED}/realtime?fal_jwt_token={token}"
    with watch_bystander(scene, attempts):
        for what, frame in frames().items():
            began = time.monotonic()
            try:
                with connect(url, open_timeout=ENDS_S, close_timeout=1) as session:
                    session.send(frame)
                    answer: Any = session.recv(timeout=ENDS_S)
            except WebSocketException as closed:
                answer = closed
            except TimeoutError:
                answer = None
            took_s = time.monotonic() - began
            is_safe = (
                answer is not None and took_s < ENDS_S and b"internal" not in repr(answer).encode()
            )
            attempts.note(f"{what}: {str(answer)[:200]} after {took_s:.1f} s", held=is_safe)

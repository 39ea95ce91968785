"""Proxy in front of moto's S3 that checks signatures, their time, digests and policies of POSTs, as
moto does not, and that can refuse what another provider refuses.

The checks follow AWS's description of Signature Version 4. They do not use botocore, because
botocore creates the signatures.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.storage.post_policy import check_post
from tests.storage.provider_rules import Call, Refused, check, not_implemented

ACCESS_KEY, SECRET_KEY = "AKIDSTRICT", "strict/secret"
MAX_SKEW = timedelta(minutes=15)

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Strict:
    """Proxy. ``skew``: how far its clock is ahead of the machine's; ``away``: it answers 503;
    ``like``: the provider whose refusals it has; ``damage``: changes bodies on their way in or out,
    by the method of the call; ``forget``: headers of requests that it ignores."""

    def __init__(self, app: Wsgi) -> None:
        self._app = app
        self._lock = threading.Lock()
        self.skew = timedelta()
        self.away = False
        self.like = ""
        self.damage: str | None = None
        self.forget: frozenset[str] = frozenset()
        self.calls: list[str] = []  # method and query of each, in order

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        try:
            _check_rate(away=self.away)
            self.calls.append(f"{environ['REQUEST_METHOD']} {environ['QUERY_STRING']}")
            _check(environ, body, datetime.now(UTC) + self.skew, self.like)
        except Refused as refusal:
            xml = f"<Error><Code>{refusal.code}</Code><Message>{refusal}</Message></Error>".encode()
            start(refusal.status, [("content-length", str(len(xml)))])
            return [b"" if environ["REQUEST_METHOD"] == "HEAD" else xml]
        environ["wsgi.input"] = io.BytesIO(body)
        for name in self.forget:
            environ.pop(f"HTTP_{name.upper().replace('-', '_')}", None)
        if self.damage == environ["REQUEST_METHOD"] == "PUT":
            environ["wsgi.input"] = io.BytesIO(bytes(len(body)))
        if self.damage == environ["REQUEST_METHOD"] == "GET":
            with self._lock:
                return [bytes(len(part)) for part in self._app(environ, start)]
        with self._lock:  # moto checks for an existing object and writes it in two steps
            return self._app(environ, start)


@contextmanager
def strict_s3() -> Iterator[tuple[str, Strict]]:
    """URL of the server, and the object that controls its clock."""
    app = Strict(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.RequestHandlerClass.log = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", app
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _check_rate(*, away: bool) -> None:
    if away:
        raise Refused("503 Service Unavailable", "SlowDown", "Please reduce your request rate")


def _check(environ: dict[str, Any], body: bytes, now: datetime, like: str) -> None:
    headers = _headers(environ)
    path, _, query = environ["RAW_URI"].partition("?")
    pairs = [(name, value) for name, _, value in (p.partition("=") for p in query.split("&") if p)]
    parameters = {name: unquote(value) for name, value in pairs}
    if headers.get("content-type", "").startswith("multipart/form-data"):
        if like in ("r2", "swift"):
            raise not_implemented("POST with a policy")
        return check_post(environ, path.strip("/"), now, _signature_of)
    if "X-Amz-Signature" in parameters:
        credential, signed = parameters["X-Amz-Credential"], parameters["X-Amz-SignedHeaders"]
        signature, at, payload = (
            parameters["X-Amz-Signature"],
            parameters["X-Amz-Date"],
            "UNSIGNED-PAYLOAD",
        )
        pairs = [(name, value) for name, value in pairs if name != "X-Amz-Signature"]
        end = _time(at) + timedelta(seconds=int(parameters["X-Amz-Expires"]))
        if now > end:
            raise Refused("403 Forbidden", "AccessDenied", "Request has expired")
    elif headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
        words = headers["authorization"].partition(" ")[2].split(",")
        parts = dict(word.strip().split("=", 1) for word in words)
        credential, signed, signature = (
            parts["Credential"],
            parts["SignedHeaders"],
            parts["Signature"],
        )
        at, payload = headers["x-amz-date"], headers["x-amz-content-sha256"]
        if abs(now - _time(at)) > MAX_SKEW:
            raise Refused("403 Forbidden", "RequestTimeTooSkewed", "The difference is too large")
    else:
        raise Refused("403 Forbidden", "AccessDenied", "Access Denied")
    key, _, scope = credential.partition("/")
    if key != ACCESS_KEY:
        raise Refused("403 Forbidden", "InvalidAccessKeyId", "There is no such key")
    _check_signed(headers, signed)
    request = "\n".join(
        (
            environ["REQUEST_METHOD"],
            path,
            "&".join(f"{name}={value}" for name, value in sorted(pairs)),
            *(f"{name}:{headers.get(name, '').strip()}" for name in signed.split(";")),
            "",
            signed,
            payload,
        )
    )
    if not hmac.compare_digest(_signature(request, at, scope), signature):
        raise Refused("403 Forbidden", "SignatureDoesNotMatch", "It does not match")
    check(
        Call(environ["REQUEST_METHOD"], headers, frozenset(parameters), scope.split("/")[1], body),
        like,
    )
    return None


def _check_signed(headers: Mapping[str, str], signed: str) -> None:
    unsigned = {n for n in headers if n.startswith("x-amz-")} - set(signed.split(";"))
    if unsigned:
        raise Refused("403 Forbidden", "AccessDenied", f"Not signed: {unsigned}")


def _headers(environ: Mapping[str, Any]) -> dict[str, str]:
    return {
        name.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
        for name, value in environ.items()
        if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
    }


def _signature(request: str, at: str, scope: str) -> str:
    digest = hashlib.sha256(request.encode()).hexdigest()
    return _signature_of("\n".join(("AWS4-HMAC-SHA256", at, scope, digest)), scope)


def _signature_of(text: str, scope: str) -> str:
    key = b"AWS4" + SECRET_KEY.encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

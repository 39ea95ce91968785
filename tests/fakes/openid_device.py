"""An OpenID Connect provider on this machine with sign-ins of programs (RFC 8628): discovery,
signed tokens, and the answers to those who ask too early, too fast, too late or twice.

Compared once with npm's oidc-provider 9.13.3 (2026-11): the same statuses, errors and fields in
each step, but that it names no ``interval``. Darkroom's sign-in ran against it too.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.fakes.openid import CLIENT_ID, PEOPLE

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
SECRET = "secret"


@dataclass
class Device:
    """A sign-in that a program has begun. ``person``: who agreed."""

    user_code: str
    person: str | None = None
    error: str = "authorization_pending"
    asked: int = 0


@dataclass
class DeviceProvider(ThreadingHTTPServer):
    """``devices``: by device code. ``slow``: how often to ask for more patience.
    ``offers_devices``: False for a provider without these sign-ins. ``interval``: seconds between
    two questions; None: it does not say."""

    devices: dict[str, Device] = field(default_factory=dict[str, Device])
    slow: int = 0
    offers_devices: bool = True
    interval: int | None = 7

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.key = RSAKey.generate_key(2048, {"kid": "k1"})
        self.issuer = f"http://127.0.0.1:{self.server_port}"

    def agree(self, person: str) -> None:
        """``person`` enters the code of the last sign-in, and agrees."""
        [*self.devices.values()][-1].person = person

    def end(self, error: str) -> None:
        """The last sign-in ends with an error of RFC 8628."""
        [*self.devices.values()][-1].error = error

    def token(self, person: str) -> str:
        now = int(time.time())  # noqa: TID251 as a provider has it
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": person,
            "iat": now,
            "exp": now + 3600,
        }
        return jwt.encode({"alg": "RS256", "kid": "k1"}, claims | PEOPLE[person], self.key)


class _Handler(BaseHTTPRequestHandler):
    server: DeviceProvider

    def do_GET(self) -> None:
        issuer = self.server.issuer
        if self.path == "/jwks":
            self._answer(200, {"keys": [self.server.key.as_dict(private=False)]})
        elif self.path == "/.well-known/openid-configuration":
            document = {
                "issuer": issuer,
                "jwks_uri": f"{issuer}/jwks",
                "authorization_endpoint": f"{issuer}/authorize",
                "token_endpoint": f"{issuer}/token",
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            }
            if self.server.offers_devices:
                document["device_authorization_endpoint"] = f"{issuer}/device"
            self._answer(200, document)
        else:
            self._answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        fields = {name: values[0] for name, values in parse_qs(body).items()}
        basic = base64.b64encode(f"{CLIENT_ID}:{SECRET}".encode()).decode()
        if self.headers["authorization"] != f"Basic {basic}":
            self._answer(401, {"error": "invalid_client"})
        elif self.path == "/device":
            assert fields["scope"] == "openid profile email"
            code, user_code = secrets.token_urlsafe(32), secrets.token_hex(4).upper()
            self.server.devices[code] = Device(user_code)
            page = f"{self.server.issuer}/enter"
            begun: dict[str, Any] = {
                "device_code": code,
                "user_code": user_code,
                "verification_uri": page,
                "verification_uri_complete": f"{page}?code={user_code}",
                "expires_in": 900,
            }
            if self.server.interval is not None:
                begun["interval"] = self.server.interval
            self._answer(200, begun)
        else:
            assert fields["grant_type"] == DEVICE_GRANT
            self._exchange(fields["device_code"])

    def _exchange(self, code: str) -> None:
        device = self.server.devices.get(code)
        if device is None:
            self._answer(400, {"error": "invalid_grant"})
            return
        device.asked += 1
        if device.asked <= self.server.slow:
            self._answer(400, {"error": "slow_down"})
        elif device.person is None:
            self._answer(400, {"error": device.error})
        else:
            del self.server.devices[code]
            token = self.server.token(device.person)
            answer = {"access_token": "a", "token_type": "Bearer", "id_token": token}
            answer |= {"expires_in": 3600, "scope": "openid profile email"}
            self._answer(200, answer)

    def _answer(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def device_provider() -> Iterator[DeviceProvider]:
    with DeviceProvider() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

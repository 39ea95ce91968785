"""Tokens: short-lived rights that a key's owner hands to a browser, for some endpoints only.

JSON Web Tokens, signed by a secret that all ingress replicas share. Nothing is stored, so a token
lasts until it expires, also when its key is revoked before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from serve_app.domain.errors import Unauthenticated
from serve_app.domain.ports import Clock
from serve_app.tenants.keys import API, Identity

ALGORITHM = "HS256"
ISSUER = "darkroom"
REQUIRED = ("iss", "exp", "sub", "key", "apps")

VERBS = ("/realtime", "/stream")
"""What clients put behind an endpoint's id, when they call it and when they ask for a token."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token allows: to call some endpoints, as the key's owner."""

    identity: Identity
    apps: tuple[str, ...]

    def allows(self, endpoint_id: str, alias: str) -> bool:
        """By the endpoint's id, by what it begins with (``fal-ai/flux``), or by its ``alias`` alone
        (``flux``), which is all that fal's clients say."""
        return any(
            app in (endpoint_id, alias) or ("/" in app and endpoint_id.startswith(f"{app}/"))
            for app in (*self.apps, *(_bare(each) for each in self.apps))
        )


class Tokens:
    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def issue(self, identity: Identity, apps: Sequence[str], valid_s: int) -> str:
        """A token for ``apps``, from now on. It has no scope but ``api``, whatever the key has."""
        now = int(self._clock.now().timestamp())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": identity.tenant,
            "key": identity.key_id,
            "apps": list(apps),
            "iat": now,
            "exp": now + valid_s,
        }
        return jwt.encode(claims, self._secret, ALGORITHM)

    def check(self, token: str) -> Grant:
        """``Unauthenticated`` for one that is not ours, or has expired."""
        try:
            claims = jwt.decode(
                token,
                self._secret,
                [ALGORITHM],
                issuer=ISSUER,
                # The clock is ours; the library would ask the machine's.
                options={"require": list(REQUIRED), "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            raise Unauthenticated("The token is not valid.") from None
        if self._clock.now().timestamp() >= claims["exp"]:
            raise Unauthenticated("The token has expired.")
        identity = Identity(claims["key"], claims["sub"], frozenset({API}))
        return Grant(identity, tuple(claims["apps"]))


def _bare(app: str) -> str:
    for verb in VERBS:
        app = app.removesuffix(verb)
    return app

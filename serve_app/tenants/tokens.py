"""Short-lived tokens for browsers, issued by a key's owner and limited to some endpoints.

They are JSON Web Tokens, signed with a secret that all ingress replicas share. Nothing is stored.
A token names its key, so that the caller can refuse it once the key is revoked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from serve_app.domain.errors import Unauthenticated, Unsupported
from serve_app.domain.ports import Clock
from serve_app.tenants.scopes import Caller
from serve_app.tenants.sign_in import ACTOR
from serve_app.tenants.signed_claims import read_claims, sign_claims

ISSUER = "darkroom"
REQUIRED = ("iss", "exp", "sub", "key", "apps")

VERBS = ("/realtime", "/stream")
"""Suffixes that clients append to an endpoint id in calls and in token requests."""


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """Rights of a token: to call some endpoints as the owner of the key that it names."""

    key_id: str
    tenant: str
    apps: tuple[str, ...]

    def allows(self, endpoint_id: str, alias: str) -> bool:
        """Return True if the token allows the endpoint.

        An app matches the endpoint id, a path prefix of it (``fal-ai/flux``) or the ``alias``
        (``flux``), which is all that fal's clients send.
        """
        return any(
            app in (endpoint_id, alias) or ("/" in app and endpoint_id.startswith(f"{app}/"))
            for app in (*self.apps, *(_bare(name) for name in self.apps))
        )


class Tokens:
    """Issuer and verifier of tokens."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def issue(self, identity: Caller, apps: Sequence[str], valid_s: int) -> str:
        """Issue a token for ``apps``, valid for ``valid_s`` seconds.

        It allows submits only, regardless of the key's scopes. ``Unsupported``: the caller has no
        key.
        """
        _require_key(identity)
        now = int(self._clock.now().timestamp())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "sub": identity.tenant,
            "key": identity.key_id,
            "apps": list(apps),
            "iat": now,
            "exp": now + valid_s,
        }
        return sign_claims(claims, self._secret)

    def check(self, token: str) -> TokenGrant:
        """Rights of a token. Raises ``Unauthenticated`` if it is not valid or has expired."""
        claims = read_claims(
            token, self._secret, REQUIRED, "The token is not valid.", issuer=ISSUER
        )
        if self._clock.now().timestamp() >= claims["exp"]:
            raise Unauthenticated("The token has expired.")
        return TokenGrant(claims["key"], claims["sub"], tuple(claims["apps"]))


# Tokens in the addresses of streams, which Replicate's JavaScript client reads without its key.

STREAM_VALID_S = 3600
STREAM = "stream"


class StreamTokens:
    """Issuer and verifier of tokens that show one request and nothing else.

    They name the key that they were issued to, so that the caller can refuse them once it is
    revoked. The secret may be that of ``Tokens``: the audience keeps them apart.
    """

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock

    def issue(self, key_id: str, request_id: str) -> str | None:
        """A token that is valid for ``STREAM_VALID_S``. None: for a person, who has no key."""
        if key_id.startswith(ACTOR):
            return None
        expires = int(self._clock.now().timestamp()) + STREAM_VALID_S
        claims = {"aud": STREAM, "sub": request_id, "key": key_id, "exp": expires}
        return sign_claims(claims, self._secret)

    def key_of(self, token: str, request_id: str) -> str:
        """Key that the token was issued to. Raises ``Unauthenticated`` if the token has expired,
        or is not valid for this request."""
        claims = read_claims(
            token,
            self._secret,
            ("exp", "sub", "key"),
            "The token of this stream is not valid.",
            audience=STREAM,
        )
        if claims["sub"] != request_id:
            raise Unauthenticated("The token is for the stream of another request.")
        if self._clock.now().timestamp() >= claims["exp"]:
            raise Unauthenticated(
                "The token of this stream has expired. Get the prediction again for another."
            )
        return str(claims["key"])


def _require_key(caller: Caller) -> None:
    """Tokens end with their key, so there are none for callers with a provider's token."""
    if caller.key_id.startswith(ACTOR):
        raise Unsupported(
            "Tokens are issued for API keys only. Send the provider's token with this call "
            "itself, or use a key."
        )


def _bare(app: str) -> str:
    for verb in VERBS:
        app = app.removesuffix(verb)
    return app


# Short-lived upload tokens. fal's Python client sends them instead of its key.

VALID_S = 900.0
CLIENT_VALID_S = 600.0
"""Lifetime that the client sees; it requests another token then.

The rest of ``VALID_S`` covers uploads in progress and clock differences.
"""

AUDIENCE = "uploads"


@dataclass(frozen=True, slots=True)
class UploadToken:
    """Upload token and its expiry."""

    text: str
    expires_at: datetime  # as the client sees it


@dataclass(frozen=True, slots=True)
class UploadGrant:
    """Tenant that an upload token is for, and the key that asked for it."""

    tenant: str
    key_id: str


class UploadTokens:
    """Issuer and verifier of upload tokens, with a secret that all ingress replicas share.

    A token allows uploads for one tenant, and reads of its private files. It names its key, so that
    the caller can refuse it once the key is revoked.
    """

    def __init__(self, signing_key: bytes, clock: Clock) -> None:
        self._signing_key = signing_key
        self._clock = clock

    def make(self, identity: Caller) -> UploadToken:
        """Make a token. ``Unsupported``: the caller has no key."""
        _require_key(identity)
        now = self._clock.now()
        expires = int((now + timedelta(seconds=VALID_S)).timestamp())
        claims = {
            "aud": AUDIENCE,
            "sub": identity.tenant,
            "key": identity.key_id,
            "exp": expires,
        }
        text = sign_claims(claims, self._signing_key)
        return UploadToken(text, now + timedelta(seconds=CLIENT_VALID_S))

    def grant_of(self, header: str | None) -> UploadGrant | None:
        """Grant of the upload token in this ``Authorization`` header.

        None if the header holds something else, such as an API key. Raises ``Unauthenticated`` if
        the token is not valid or has expired.
        """
        scheme, _, text = (header or "").partition(" ")
        if scheme.lower() != "bearer" or ":" in text:
            return None
        claims = read_claims(
            text.strip(),
            self._signing_key,
            ("exp", "sub", "key"),
            "The upload token is not valid.",
            audience=AUDIENCE,
        )
        if self._clock.now().timestamp() >= claims["exp"]:
            raise Unauthenticated("The upload token has expired. Request a new one.")
        return UploadGrant(str(claims["sub"]), str(claims["key"]))

"""Short-lived tokens to upload with: fal's Python client sends them in place of its key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import jwt

from serve_app.domain.errors import Unauthenticated
from serve_app.domain.ports import Clock

VALID_S = 900.0
TOLD_S = 600.0
"""What the client is told; it gets another one then. The rest is for what is under way, and for
clocks that differ."""

AUDIENCE = "uploads"
ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True)
class UploadToken:
    text: str
    expires_at: datetime  # for the client


class UploadTokens:
    """Made and checked with the same secret in every ingress replica. A token is the right to
    upload for one tenant, and to nothing else."""

    def __init__(self, signing_key: bytes, clock: Clock) -> None:
        self._signing_key = signing_key
        self._clock = clock

    def make(self, tenant: str) -> UploadToken:
        now = self._clock.now()
        expires = int((now + timedelta(seconds=VALID_S)).timestamp())
        claims = {"aud": AUDIENCE, "sub": tenant, "exp": expires}
        text = jwt.encode(claims, self._signing_key, ALGORITHM)
        return UploadToken(text, now + timedelta(seconds=TOLD_S))

    def tenant_of(self, header: str | None) -> str | None:
        """Whose token is in this ``Authorization`` header. None: it holds something else, such as
        an API key. ``Unauthenticated``: it is none of ours, or too old."""
        scheme, _, text = (header or "").partition(" ")
        if scheme.lower() != "bearer" or ":" in text:
            return None
        try:
            claims = jwt.decode(
                text.strip(),
                self._signing_key,
                [ALGORITHM],
                audience=AUDIENCE,
                # Its age is looked at below: the library knows no clock but the system's.
                options={"require": ["exp", "sub"], "verify_exp": False},
            )
        except jwt.InvalidTokenError:
            raise Unauthenticated("The upload token is not valid.") from None
        if self._clock.now().timestamp() >= claims["exp"]:
            raise Unauthenticated("The upload token has expired: ask for another one.")
        return str(claims["sub"])

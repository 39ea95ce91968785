"""Claims of the tokens that this installation signs itself: JSON Web Tokens by a shared secret."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jwt

from serve_app.domain.errors import Unauthenticated

ALGORITHM = "HS256"


def read_claims(
    token: str,
    secret: bytes,
    require: Sequence[str],
    refusal: str,
    *,
    audience: str | None = None,
    issuer: str | None = None,
) -> dict[str, Any]:
    """Claims of a token with this signature, audience and issuer. Raises ``Unauthenticated`` with
    the sentence ``refusal`` otherwise.

    The caller checks the expiry with Darkroom's clock; the library uses the system's.
    """
    try:
        return jwt.decode(
            token,
            secret,
            [ALGORITHM],
            audience=audience,
            issuer=issuer,
            options={"require": [*require], "verify_exp": False, "verify_iat": False},
        )
    except jwt.InvalidTokenError:
        raise Unauthenticated(refusal) from None

"""Claims of the tokens that this installation signs itself: JSON Web Tokens by a shared secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from serve_app.domain.errors import Unauthenticated

ALGORITHM = "HS256"


def sign_claims(claims: Mapping[str, Any], secret: bytes) -> str:
    """Token with these claims."""
    return jwt.encode({"alg": ALGORITHM}, dict(claims), OctKey.import_key(secret))


def read_claims(
    token: str,
    secret: bytes,
    require: Sequence[str],
    refusal: str,
    *,
    audience: str | None = None,
    issuer: str | None = None,
) -> dict[str, Any]:
    """Claims of a token with this signature, audience and issuer; without an ``audience``, of one
    that is for none. Raises ``Unauthenticated`` with the sentence ``refusal`` otherwise.

    The caller checks the expiry with Darkroom's clock.
    """
    try:
        claims = jwt.decode(token, OctKey.import_key(secret), algorithms=[ALGORITHM]).claims
    except (JoseError, ValueError):
        raise Unauthenticated(refusal) from None
    missing = any(claims.get(name) is None for name in require)
    if missing or claims.get("aud") != audience or (issuer and claims.get("iss") != issuer):
        raise Unauthenticated(refusal)
    return claims

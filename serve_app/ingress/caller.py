"""Who calls."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import Forbidden
from serve_app.ingress.core import core_of
from serve_app.tenants.keys import API, Identity


async def caller_of(request: HttpRequest, scope: str = API) -> Identity:
    """``Unauthenticated`` without a valid key, ``Forbidden`` when it lacks ``scope``."""
    identity = await core_of(request).keys.authenticate(request.headers.get("authorization"))
    if scope not in identity.scopes:
        raise Forbidden(f"The API key {identity.key_id} lacks the scope `{scope}`.")
    return identity

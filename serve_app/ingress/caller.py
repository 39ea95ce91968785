"""Who calls."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from serve_app.domain.errors import Forbidden
from serve_app.ingress import query
from serve_app.ingress.core import core_of
from serve_app.ingress.fal.paths import alias_of
from serve_app.tenants.keys import ADMIN, API, Identity

TOKEN = "fal_jwt_token"  # noqa: S105 the name of a query parameter


async def caller_of(request: HTTPConnection, scope: str = API) -> Identity:
    """``Unauthenticated`` without a valid key, ``Forbidden`` when it lacks ``scope``."""
    identity = await core_of(request).keys.authenticate(request.headers.get("authorization"))
    if scope not in identity.scopes:
        raise Forbidden(f"The API key {identity.key_id} lacks the scope `{scope}`.")
    return identity


async def caller_about(request: HTTPConnection, what: str) -> tuple[Identity, str]:
    """And the tenant that the call is about: ``?tenant=``, for those who may, or the caller's own.
    ``what`` it asks for, in the plural, for the ``Forbidden`` of others."""
    caller = await caller_of(request)
    tenant = query.text(request, "tenant") or caller.tenant
    if tenant != caller.tenant and ADMIN not in caller.scopes:
        raise Forbidden(f"{what} of another tenant take a key with the scope `admin`.")
    return caller, tenant


async def caller_at(connection: HTTPConnection, endpoint_id: str) -> Identity:
    """The same for a call that may bring a token in its query in place of the header, as calls from
    browsers do; ``Forbidden`` when the token is for other endpoints."""
    token = connection.query_params.get(TOKEN)
    if token is None or "authorization" in connection.headers:
        return await caller_of(connection)
    granted = core_of(connection).tokens.check(token)
    if not granted.allows(endpoint_id, alias_of(endpoint_id)):
        raise Forbidden(f"The token does not allow {endpoint_id}: {', '.join(granted.apps)} only.")
    return granted.identity

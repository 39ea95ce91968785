"""Authentication of a call."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from serve_app.domain.errors import Forbidden
from serve_app.ingress.http import query
from serve_app.ingress.http.paths import alias_of
from serve_app.ingress.services.services import services_of
from serve_app.tenants.api_keys import ADMIN, API, Caller

TOKEN = "fal_jwt_token"  # noqa: S105 the name of a query parameter


async def authenticate(request: HTTPConnection, scope: str = API) -> Caller:
    """Return the caller's identity.

    ``Unauthenticated``: there is no valid key. ``Forbidden``: the key lacks ``scope``.
    """
    identity = await services_of(request).identity.keys.authenticate(
        request.headers.get("authorization")
    )
    if scope not in identity.scopes:
        raise Forbidden(
            f"The API key {identity.key_id} lacks the scope `{scope}`. "
            "Use a key that has this scope."
        )
    return identity


async def authenticate_for_tenant(request: HTTPConnection, what: str) -> tuple[Caller, str]:
    """Return the caller, and the tenant that the call is about: ``?tenant=`` or the caller's own.

    ``Forbidden``: the call names another tenant and its key lacks the scope ``admin``. ``what``:
    a plural noun for the message, for example "Requests".
    """
    caller = await authenticate(request)
    tenant = query.text(request, "tenant") or caller.tenant
    if tenant != caller.tenant and ADMIN not in caller.scopes:
        raise Forbidden(f"{what} of another tenant require a key with the scope `admin`.")
    return caller, tenant


async def authenticate_for_endpoint(connection: HTTPConnection, endpoint_id: str) -> Caller:
    """Authenticate a call to ``endpoint_id``, by header or by a token in the query.

    Browsers send the token, because they cannot set the header. ``Forbidden``: the token is for
    other endpoints. ``Unauthenticated``: also if the key that issued it was revoked.
    """
    token = connection.query_params.get(TOKEN)
    if token is None or "authorization" in connection.headers:
        return await authenticate(connection)
    identity = services_of(connection).identity
    granted = identity.tokens.check(token)
    await identity.keys.identity_of(granted.identity.key_id)
    if not granted.allows(endpoint_id, alias_of(endpoint_id)):
        raise Forbidden(f"The token does not allow {endpoint_id}, only {', '.join(granted.apps)}.")
    return granted.identity

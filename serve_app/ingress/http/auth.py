"""Authentication of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Generator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from typing import NoReturn

from starlette.requests import HTTPConnection

from serve_app.domain.audit.acts import Actor
from serve_app.domain.errors import Forbidden, Unauthenticated
from serve_app.domain.sharing.fair_queue import work_from_now_on_for
from serve_app.ingress.http import query
from serve_app.ingress.http.client_address import client_address
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.paths import alias_of
from serve_app.ingress.http.route_scopes import (
    ANY_KEY,
    BY_CALL,
    OF_OWN_RIGHTS,
    ScopedRoute,
    ScopedSocketRoute,
)
from serve_app.ingress.services import request_ids
from serve_app.ingress.services.audit import source_of
from serve_app.ingress.services.open_access import access_of_caller
from serve_app.ingress.services.services import services_of
from serve_app.ingress.services.sign_in import SignIn
from serve_app.storage import keys
from serve_app.telemetry.logs import describe
from serve_app.tenants.scopes import READ, SUBMIT, TENANT_ADMIN, Caller
from serve_app.tenants.sign_in import (
    Person,
    Rights,
    actor_id,
    caller_of,
    provider_token,
    rights_of,
)

ALL_TENANTS = "*"
"""In place of a tenant's name: operators see all."""

TOKEN = "fal_jwt_token"  # noqa: S105 the name of a query parameter
STREAM_TOKEN = "token"  # noqa: S105 the name of a query parameter


async def authenticate(
    request: HTTPConnection, scope: str | None = None, header: str | None = None
) -> Caller:
    """Return the caller's identity.

    ``scope``: that the call needs, if the route leaves it to the handler.
    ``header``: in place of ``Authorization``, from where else a protocol's clients put their key.
    ``Unauthenticated``: there is no valid key. ``Forbidden``: the key lacks the scope, or is
    limited to other endpoints than that of the request that the path names.
    """
    if header is None:
        header = request.headers.get("authorization")
    identity = await _identity(request, header)
    context = context_of(request)
    context.key_id = identity.key_id
    describe(context.request_id, tenant=identity.tenant)
    work_from_now_on_for(identity.tenant)
    _require_scope(request, identity, scope)
    await _admit(request, identity.tenant)
    if identity.endpoints and (request_id := request.path_params.get("request_id")):
        await require_requests(request, identity, [request_id])
    return identity


async def while_valid(
    request: HTTPConnection, events: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    """Events until the key of the call is valid no more. A client that calls again is refused."""
    async with aclosing(events):
        async for event in events:
            try:
                await _identity(request, request.headers.get("authorization"))
            except Unauthenticated:
                return
            yield event


async def _admit(connection: HTTPConnection, tenant: str) -> None:
    """Wait for the tenant's turn. ``Overloaded``: too many of its calls wait, or are open. The work
    for a WebSocket has limits of its own."""
    context = context_of(connection)
    admission = services_of(connection).admission
    if context.close is None:
        admission.open_calls.begin(tenant)
        context.close = partial(admission.open_calls.end, tenant)
    if connection.scope["type"] == "http" and context.admission is None:
        context.admission = await admission.admit(tenant)


async def _identity(request: HTTPConnection, header: str | None) -> Caller:
    keys, sign_in = services_of(request).identity.keys, services_of(request).identity.sign_in
    token = None if sign_in is None else provider_token(header)
    if sign_in is not None and token is not None:
        person_now = partial(_person_now, request, sign_in, token)
        caller = await person_now()
        context_of(request).access = access_of_caller(caller, person_now, token)
        return caller
    try:
        caller = await keys.authenticate(header)
    except (Unauthenticated, Forbidden):  # its tenant may be disabled
        _count_failure(request, await keys.key_id_of(header), always=header is not None)
        raise
    still = partial(keys.identity_of, caller.key_id)
    context_of(request).access = access_of_caller(caller, still)
    return caller


async def _person_now(request: HTTPConnection, sign_in: SignIn, token: str) -> Caller:
    """Caller with the provider's token, as of now."""
    with counted_failure(request, always=True):
        person = await sign_in.provider.person_of(token)
    return caller_of(person, allowed_rights(request, sign_in, person))


def allowed_rights(
    request: HTTPConnection, sign_in: SignIn, person: Person, *, always: bool = False
) -> Rights:
    """Rights of a person whom the provider knows. ``Forbidden``: it has none, or its tenant is
    disabled; that is a refused sign-in. ``always``: see ``counted_failure``."""
    services = services_of(request)
    with counted_failure(request, actor_id(person), always=always):
        rights = rights_of(person, sign_in.groups(services.config))
        services.identity.tenants.require_enabled(rights.tenant)
    return rights


def _require_scope(request: HTTPConnection, caller: Caller, chosen: str | None) -> None:
    route: ScopedRoute | ScopedSocketRoute = request.scope["route"]
    needed: str | None = route.scope
    if needed == BY_CALL:
        needed = chosen
    elif chosen is not None and chosen != needed:
        raise LookupError(f"{route.path} has the scope {needed}, and {chosen} by its handler.")
    if needed is None:
        raise LookupError(f"The handler of {route.path} names no scope.")
    if needed != ANY_KEY:
        caller.require(needed)
    if needed == TENANT_ADMIN and caller.endpoints and route.path not in OF_OWN_RIGHTS:
        raise Forbidden(
            f"The API key {caller.key_id} is limited to some endpoints, and this call is about "
            "what all endpoints of the tenant share. Use a key that is not limited."
        )


async def require_requests(request: HTTPConnection, caller: Caller, ids: Sequence[str]) -> None:
    """``Forbidden``: the caller is limited to other endpoints than that of one of these requests.
    Ids of no request are left to others."""
    if not caller.endpoints:
        return
    known = [id_ for raw_id in ids if (id_ := request_ids.canonical(raw_id)) is not None]
    gallery = services_of(request).queue.gallery
    for record in await gallery.several(caller.tenant, known) if known else ():
        caller.require_endpoint(record.endpoint)


async def require_file(request: HTTPConnection, caller: Caller, key: str) -> None:
    """Check that a caller who is limited to some endpoints may read a file of its tenant.

    ``Forbidden``: it is of a request of another endpoint. ``ArtifactNotFound``: it is a result of
    another key's batch.
    """
    if (request_id := keys.request_of(key)) is not None:
        await require_requests(request, caller, [request_id])
    elif caller.batches_of is not None and keys.is_upload(key):
        await services_of(request).files.uploads.get_file(caller, key)


async def readable(
    request: HTTPConnection, caller: Caller, tenant: str, ids: Collection[str]
) -> Collection[str]:
    """Select the requests whose endpoints the caller may use."""
    if not caller.endpoints or not ids:
        return ids
    jobs = await services_of(request).queue.gallery.several(tenant, [*ids])
    return {record.id for record in jobs if caller.allows(record.endpoint)}


async def authenticate_for_tenant(request: HTTPConnection, what: str) -> tuple[Caller, str]:
    """Return the caller, and the tenant that the call is about: ``?tenant=`` or the caller's own.

    ``Forbidden``: the call names another tenant and its key lacks the scope ``operator``. ``what``:
    a plural noun for the message, for example "Requests".
    """
    caller = await authenticate(request)
    tenant = query.text(request, "tenant") or caller.tenant
    caller.require_tenant(tenant, what)
    await record_read(request, caller, tenant)
    return caller, tenant


def limit_anonymous(request: HTTPConnection) -> None:
    """Count a call that needs no key, and checks a secret or asks the provider. ``RateLimited``."""
    services_of(request).address_rates.take(source_of(client_address(request)))


def work_as_anonymous(request: HTTPConnection) -> None:
    """Count the work of a call that needs no key as that of its client's address."""
    work_from_now_on_for(f"address {client_address(request)}")


async def record_read(request: HTTPConnection, caller: Caller, tenant: str) -> None:
    """Write to the audit log that an operator reads another ``tenant`` than its own."""
    if tenant != caller.tenant:
        call, request_id = context_of(request).route, request.path_params.get("request_id", "")[:64]
        audit = services_of(request).audit
        await audit.tenant_read(actor_of(request), tenant, call, request_id)


def actor_of(request: HTTPConnection) -> Actor:
    """The authenticated caller, for the audit log."""
    return Actor(context_of(request).key_id, client_address(request))


@contextmanager
def counted_failure(
    request: HTTPConnection, key_id: str = "", *, always: bool = False
) -> Generator[None]:
    """Count a failed login if the block raises ``Unauthenticated`` or ``Forbidden``: who may do
    nothing here is refused too. ``key_id``: what the call names. A call without any credential is
    none, unless ``always``."""
    try:
        yield
    except (Unauthenticated, Forbidden):
        _count_failure(request, key_id, always=always)
        raise


def _count_failure(request: HTTPConnection, key_id: str, *, always: bool = False) -> None:
    if always or "authorization" in request.headers or TOKEN in request.query_params:
        services_of(request).audit.login_failed(client_address(request), key_id)


async def authenticate_for_endpoint(connection: HTTPConnection, endpoint_id: str) -> Caller:
    """Authenticate a call to ``endpoint_id``, by header or by a token in the query.

    Browsers send the token, because they cannot set the header. ``Forbidden``: the token is for
    other endpoints. ``Unauthenticated``: also if the key that issued it was revoked.
    """
    token = connection.query_params.get(TOKEN)
    if token is None or "authorization" in connection.headers:
        return await authenticate(connection, SUBMIT)
    with counted_failure(connection):
        granted = services_of(connection).identity.tokens.check(token)
    owner = await owner_of_token(connection, granted.key_id)
    describe(context_of(connection).request_id, tenant=owner.tenant, endpoint=endpoint_id)
    if not granted.allows(endpoint_id, alias_of(endpoint_id)):
        raise Forbidden(f"The token does not allow {endpoint_id}, only {', '.join(granted.apps)}.")
    owner.require(SUBMIT)
    await _admit(connection, owner.tenant)
    return Caller(owner.key_id, owner.tenant, frozenset({SUBMIT}), endpoints=owner.endpoints)


async def authenticate_for_stream(request: HTTPConnection) -> Caller:
    """Authenticate a call for the stream of the request that the path names, by header or by the
    token that the stream's address holds.

    ``Unauthenticated``: the token is not valid, or its key was revoked. ``Forbidden``: the key may
    not read, or lost the request's endpoint.
    """
    token = request.query_params.get(STREAM_TOKEN)
    if token is None or "authorization" in request.headers:
        return await authenticate(request)
    request_id: str = request.path_params["request_id"]
    with counted_failure(request, always=True):
        key_id = services_of(request).identity.stream_tokens.key_of(token, request_id)
    owner = await owner_of_token(request, key_id)
    describe(context_of(request).request_id, tenant=owner.tenant)
    owner.require(READ)
    await _admit(request, owner.tenant)
    await require_requests(request, owner, [request_id])
    return owner


async def until_access_ends(connection: HTTPConnection) -> NoReturn:
    """Wait until the access of a WebSocket has ended, and raise why: the session says so in the
    words of its protocol."""
    context, ended = context_of(connection), asyncio.Event()
    context.on_end = ended.set
    while context.ended is None:
        await ended.wait()
    raise context.ended


async def owner_of_token(connection: HTTPConnection, key_id: str) -> Caller:
    """The key that issued the token of a call, which is counted as the key's. ``Unauthenticated``:
    the key was revoked."""
    still = partial(services_of(connection).identity.keys.identity_of, key_id)
    with counted_failure(connection, key_id, always=True):
        owner = await still()
    context_of(connection).key_id = owner.key_id
    context_of(connection).access = access_of_caller(owner, still)
    work_from_now_on_for(owner.tenant)
    return owner

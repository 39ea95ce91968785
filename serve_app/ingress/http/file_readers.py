"""Readers of private files: the right of a call to read one, or to name one in an input."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import (
    ArtifactNotFound,
    DatabaseUnavailable,
    Forbidden,
    Unauthenticated,
)
from serve_app.domain.media.file_access import AccessDecision, FileAccess
from serve_app.domain.urls import split_url
from serve_app.ingress.http.auth import (
    authenticate,
    owner_of_token,
    record_read,
    require_file,
)
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.route_scopes import ANY_KEY
from serve_app.ingress.services.cpu_executor import pass_over
from serve_app.ingress.services.open_access import Access
from serve_app.ingress.services.services import Services, services_of
from serve_app.storage import keys
from serve_app.storage.signed_urls import READER, SIGNATURE
from serve_app.tenants.scopes import FILES, OPERATOR, Caller
from serve_app.tenants.sign_in import provider_token

NO_FILE = "There is no such file."
PRIVATE_FILE = (
    "This file is private. Read it with a signed URL, or with an API key of its owner that has the "
    "scope `files`."
)


async def require_readable(request: HttpRequest, key: str) -> int | None:
    """Check that the call may read a private file, by a signature in its URL or by its credential.

    Returns the time stamp at which the URL expires; None: it does not.
    ``ArtifactNotFound``: there is no such file, or its rules hide it from the reader, and a reader
    cannot tell which. ``Forbidden``: there is, and its rules say so. Anybody may name rules, so the
    answer depends on them only if the file exists.
    """
    services = services_of(request)
    access, refused = services.files.access, PRIVATE_FILE
    if SIGNATURE in request.query_params:
        check = partial(_check_signed_url, services, key, request.query_params)
        try:
            until = await check()
        except Forbidden as error:
            refused = error.message
        else:
            signature = request.query_params[SIGNATURE]
            context_of(request).access = Access(("url", key, signature), check)
            return until
    caller = await _reader(request)
    try:
        await services.files.storage.size(key)
    except ArtifactNotFound:
        raise ArtifactNotFound(NO_FILE) from None
    rules = await access.rules_of(key)
    if rules is None:
        raise ArtifactNotFound(NO_FILE)
    decision = rules.default if caller is None else await _decision(request, key, rules, caller)
    if decision is AccessDecision.HIDE:
        raise ArtifactNotFound(NO_FILE)
    if decision is AccessDecision.FORBID:
        raise Forbidden(refused)
    return None


async def _check_signed_url(services: Services, key: str, params: Mapping[str, str]) -> int | None:
    """Time stamp at which the signed URL of a file expires; None: it does not. ``Forbidden``: it is
    not valid, or has ended, also with its tenant."""
    access = services.files.access
    until = access.check(key, params).expires_at
    with suppress(DatabaseUnavailable):  # then it is accepted for a while, as ``check`` says
        rules = await access.rules_of(key)
        if rules is not None:
            services.identity.tenants.require_enabled(rules.tenant)
    return until


async def _reader(request: HttpRequest) -> Caller | None:
    """Owner of an API key or an upload token, or the request that a replica runs. None: the call
    has no credential."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    tenant = services_of(request).files.access.signer.reader(header)
    if tenant is not None:
        return Caller(READER, tenant, frozenset({FILES}))
    return await _caller(request, header)


async def _decision(
    request: HttpRequest, key: str, rules: FileAccess, caller: Caller
) -> AccessDecision:
    """Decision for a caller. ``Forbidden``: its key lacks the scope, or is limited to other
    endpoints."""
    if caller.may(OPERATOR) and caller.tenant != rules.tenant:
        await record_read(request, caller, rules.tenant)
        return AccessDecision.ALLOW
    decision = rules.decide(caller.tenant)
    if decision is AccessDecision.HIDE:
        return decision  # a refusal by the scope would say that there is a file
    if not caller.may(OPERATOR):
        caller.require(FILES)
    if caller.tenant == rules.tenant:
        await require_file(request, caller, key)
    return decision


async def _caller(request: HttpRequest, header: str) -> Caller:
    """Caller with the rights of its key. An upload token reads only what belongs to its tenant: a
    client hands it on, also to code that is to upload and no more."""
    identity = services_of(request).identity
    try:
        grant = identity.upload_tokens.grant_of(header)
    except Unauthenticated:
        if identity.sign_in is None or provider_token(header) is None:
            raise
        grant = None  # it may be a token of the provider
    if grant is None:
        return await authenticate(request, ANY_KEY)
    owner = await owner_of_token(request, grant.key_id)
    reads = owner.may(OPERATOR) or owner.may(FILES)
    return replace(owner, scopes=frozenset({FILES}) if reads else frozenset())


MAX_URL_CHARACTERS = 4096

PRIVATE_PATH = f"/files/{keys.PRIVATE}"
"""Beginning of the path in a private file's URL."""
_PRIVATE = re.compile(rf"(?i:https?)://[^/]+{PRIVATE_PATH}")


# Private files as inputs. The read of the file checks the same again, for the tenant of the
# request: the check at the submit is for its error, which names the field.


async def require_readable_inputs(
    services: Services, tenant: str, input: Mapping[str, Any]
) -> bool:
    """Return whether the input has URLs of private files.

    ``Forbidden``, with the field: one is of a file of this installation that ``tenant`` may not
    read, and the URL is not signed. A file that its rules hide passes, as one that does not exist:
    its replica finds neither.
    """
    named = False
    for field, url in await pass_over(input, _private_urls, input):
        named = True
        await _require(services, tenant, field, url)
    return named


def _private_urls(input: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Fields and URLs, in the order of the input. A field is named only once its URL is found: to
    name each of a million values took seconds."""
    return [(".".join(map(str, place)), url) for place, url in _private_urls_in(input)]


def _private_urls_in(value: Any) -> list[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        return [((), value)] if _is_private_url(value) else []
    if isinstance(value, Mapping):
        items: Iterable[tuple[str | int, Any]] = cast("Mapping[str, Any]", value).items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(cast("list[Any]", value))
    else:
        return []
    return [
        ((name, *place), url)
        for name, inner in items
        if isinstance(inner, (str, Mapping, list, tuple))
        for place, url in _private_urls_in(inner)
    ]


def _is_private_url(text: str) -> bool:
    return len(text) <= MAX_URL_CHARACTERS and _PRIVATE.match(text) is not None


async def _require(services: Services, tenant: str, field: str, url: str) -> None:
    parts, access = split_url(url), services.files.access
    key = unquote(parts.path).removeprefix("/files/")
    if not keys.valid(key):
        return  # it names no file of ours
    params, why = dict(parse_qsl(parts.query)), ""
    if SIGNATURE in params:
        try:
            access.check(key, params)
        except Forbidden as error:
            why = f" {error.message}"
        else:
            return
    rules = await access.rules_of(key)
    # Without rules it is of another installation, or invented.
    if rules is None or rules.decide(tenant) is not AccessDecision.FORBID:
        return
    try:
        await services.files.storage.size(key)
    except ArtifactNotFound:
        return  # anybody may name rules
    raise Forbidden(
        f"{field}: This file is private, and your tenant may not read it.{why} Ask its owner "
        "for a signed URL, or to allow your tenant."
    )

"""Who calls, and which endpoint runs the caller's workflows."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, cast

from starlette.requests import HTTPConnection

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import EndpointNotFound, Forbidden, Unauthenticated
from serve_app.domain.urls import split_url
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.services.services import Services, services_of
from serve_app.tenants.scopes import Caller

FAMILY = "comfyui"
ALIAS = "comfyui"
"""Name among the model aliases of the endpoint that runs workflows, where there are several."""

TOKEN = "token"  # noqa: S105 the name of a query parameter

NEEDED = frozenset({"prompt", "files", "extra_data", "client_id", "prompt_id"})
"""Fields of the endpoint's input."""

HOW = "see Serve ComfyUI workflows in the documentation"


async def caller_of(connection: HTTPConnection) -> Caller:
    """Authenticate a call. Clients of ComfyUI know no keys, but most take a URL with a user and a
    password, or with a query."""
    caller = await authenticate(connection, header=_header(connection))
    _require_same_origin(connection)
    return caller


def _require_same_origin(connection: HTTPConnection) -> None:
    """Raise ``Forbidden`` for a call that a page of another origin makes with the key that the
    browser has remembered. Browsers send it with every call, whoever makes it."""
    headers = connection.headers
    if not headers.get("authorization", "").lower().startswith("basic "):
        return
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site is not None:  # it is right behind a proxy that changes the host, too
        elsewhere = site not in ("same-origin", "none")
    else:
        elsewhere = origin is not None and split_url(origin).netloc != headers.get("host", "")
    if elsewhere:
        raise Forbidden(
            "A page of another origin cannot use the key that this browser remembers. Send the key "
            "as `Authorization: Key id:secret`."
        )


def _header(connection: HTTPConnection) -> str | None:
    header = connection.headers.get("authorization")
    if header is None:
        token = connection.query_params.get(TOKEN)
        return None if token is None else f"Key {token}"
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return header
    try:
        return f"Key {base64.b64decode(rest.strip(), validate=True).decode()}"
    except ValueError:  # it is not Base64, not ASCII, or not UTF-8
        raise Unauthenticated("The Authorization header is not valid Basic.") from None


def endpoint_of(connection: HTTPConnection, caller: Caller) -> CatalogEntry:
    """Endpoint that takes any workflow: the alias ``comfyui``, or the only one.

    ``EndpointNotFound`` says that there is none, or which of several to choose. ``Forbidden``: the
    key is limited to others.
    """
    services = services_of(connection)
    entry = _entry(services, caller)
    caller.require_endpoint(entry.endpoint.id)
    known = cast("Mapping[str, Any]", entry.schema.json_schema().get("properties") or {})
    if missing := sorted(NEEDED - known.keys()):
        raise EndpointNotFound(
            f"The input of {entry.endpoint.id} lacks the fields {', '.join(missing)}, which "
            f"clients of ComfyUI need. Add them to its entry in the catalogue ({HOW})."
        )
    return entry


def _entry(services: Services, caller: Caller) -> CatalogEntry:
    catalog = services.catalog_of(caller)
    alias = services.config.models.model_aliases.get(ALIAS)
    if alias is not None:
        entry = catalog.get(alias)
        if not _takes_any(entry):
            raise EndpointNotFound(
                f"The alias {ALIAS} names {alias}, which does not take any workflow: it is not of "
                f"the family {FAMILY}, or has a graph of its own ({HOW})."
            )
        return entry
    entries = [candidate for candidate in catalog if _takes_any(candidate)]
    if not entries:
        raise EndpointNotFound(
            "No endpoint here takes any ComfyUI workflow. The operator adds one of the family "
            f"{FAMILY} whose graph is null to the catalogue ({HOW})."
        )
    usable = [candidate for candidate in entries if caller.allows(candidate.endpoint.id)] or entries
    if len(usable) > 1:
        names = ", ".join(candidate.endpoint.id for candidate in usable)
        raise EndpointNotFound(
            f"Several endpoints take any ComfyUI workflow: {names}. The operator chooses one by "
            f"the model alias `{ALIAS}` ({HOW})."
        )
    return catalog.get(usable[0].endpoint.id)


def _takes_any(entry: CatalogEntry) -> bool:
    endpoint = entry.endpoint
    option = cast("Any", endpoint.options.get(FAMILY))
    return (
        endpoint.family == FAMILY
        and isinstance(option, Mapping)
        and cast("Mapping[str, Any]", option).get("graph", "") is None
    )

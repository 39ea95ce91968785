"""``DELETE /v1/tenants/{tenant}``: the deletion of a tenant, and its progress."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import Forbidden, NotFound
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path
from serve_app.ingress.services.services import services_of
from serve_app.tenants.api_keys import DEFAULT_TENANT
from serve_app.tenants.deletions import COUNTED_TO, TenantDeletion, UsageKept


class TenantDeletionStatus(TypedDict):
    """Deletion of a tenant. It goes on by itself, also after a restart."""

    tenant: str
    asked_at: Time
    actor: Annotated[str, Field(description="Id of the key that asked for it.")]
    ended_at: Annotated[Time | None, Field(description="Null: it is under way.")]
    usage_kept_as: Annotated[
        str | None,
        Field(description="Name of its sums of usage. Null: none are kept, or without a name."),
    ]
    left: Annotated[dict[str, int], Field(description=f"What is left, counted up to {COUNTED_TO}.")]


async def deleted(request: HttpRequest) -> Response:
    """Disable a tenant, end its requests, and begin to delete everything that is stored about it.
    A deletion that is under way goes on as it is."""
    context_of(request).route = "v1.tenant.delete"
    caller = await authenticate(request)
    tenant: str = request.path_params["tenant"]
    if tenant == caller.tenant:
        raise Forbidden(
            "A key cannot delete its own tenant. Use an operator's key of another tenant."
        )
    if tenant == DEFAULT_TENANT:
        raise Forbidden(
            f"The tenant {DEFAULT_TENANT} has the first key of this installation and cannot be "
            "deleted. Delete its requests and keys, or disable it."
        )
    services = services_of(request)
    usage = UsageKept(services.config.billing.deleted_tenant_usage)
    begun = await services.identity.tenants.delete(tenant, usage, actor_of(request))
    return json_reply(_status(begun), 202)


async def shown(request: HttpRequest) -> Response:
    """Show the latest deletion of a tenant."""
    context_of(request).route = "v1.tenant.deletion"
    await authenticate(request)
    tenant: str = request.path_params["tenant"]
    found = await services_of(request).identity.tenants.deletions.find(tenant)
    if found is None:
        raise NotFound(f"There was no deletion of a tenant {tenant[:64]}.")
    return json_reply(_status(found))


def _status(deletion: TenantDeletion) -> TenantDeletionStatus:
    return {
        "tenant": deletion.tenant,
        "asked_at": deletion.asked_at.isoformat(),
        "actor": deletion.actor,
        "ended_at": iso(deletion.ended_at),
        "usage_kept_as": deletion.kept_as,
        "left": dict(deletion.left),
    }


TENANT = in_path("tenant", "Id of the tenant.")
DELETE = Operation(
    "deleteTenant",
    "Delete a tenant with everything that is stored about it. Needs the scope `operator`",
    {202: answer("It is under way.", TenantDeletionStatus)},
    errors=(403, 404),
    parameters=(TENANT,),
)
SHOW = Operation(
    "getTenantDeletion",
    "Show the progress of a tenant's deletion. Needs the scope `operator`",
    {200: answer("Its latest deletion.", TenantDeletionStatus)},
    errors=(403, 404),
    parameters=(TENANT,),
)

ROUTES = [
    DocumentedRoute("/v1/tenants/{tenant}", deleted, {"DELETE": DELETE}),
    DocumentedRoute("/v1/tenants/{tenant}/deletion", shown, {"GET": SHOW}),
]

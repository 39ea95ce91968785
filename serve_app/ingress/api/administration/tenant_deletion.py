"""``DELETE /v1/tenants/{tenant}``: the deletion of a tenant, and its progress."""

from __future__ import annotations

from serve_app.domain.errors import Forbidden, NotFound
from serve_app.ingress.resources.calls import Call, Calls, Special
from serve_app.resources.tenants import TENANTS
from serve_app.tenants.api_keys import DEFAULT_TENANT
from serve_app.tenants.deletions import TenantDeletion, UsageKept

calls = Calls(TENANTS)
ROUTES = calls.routes


@calls.delete(
    "Delete a tenant with everything that is stored about it",
    Special(reply=TenantDeletion, status=202),
)
async def delete_tenant(call: Call, tenant: str) -> TenantDeletion:
    """Disable a tenant, end its requests, and begin to delete everything that is stored about it.
    A deletion that is under way goes on as it is."""
    if tenant == call.caller.tenant:
        raise Forbidden(
            "A key cannot delete its own tenant. Use an operator's key of another tenant."
        )
    if tenant == DEFAULT_TENANT:
        raise Forbidden(
            f"The tenant {DEFAULT_TENANT} has the first key of this installation and cannot be "
            "deleted. Delete its requests and keys, or disable it."
        )
    usage = UsageKept(call.services.config.billing.deleted_tenant_usage)
    return await call.services.identity.tenants.delete(tenant, usage, call.actor)


@calls.show(
    "Show the progress of a tenant's latest deletion", Special(reply=TenantDeletion), "deletion"
)
async def show_deletion(call: Call, tenant: str) -> TenantDeletion:
    deletion = await call.services.identity.tenants.deletions.find(tenant)
    if deletion is None:
        raise NotFound(f"There was no deletion of a tenant {tenant[:64]}.")
    return deletion

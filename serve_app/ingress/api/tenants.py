"""``/v1/tenants``: create, show, change and disable tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from serve_app.domain.errors import Forbidden, InvalidInput
from serve_app.ingress.resources.calls import Call, Calls, Special
from serve_app.ingress.services.live_tenants import cancel_queued, limits_in_force
from serve_app.ingress.services.services import Services
from serve_app.resources.tenants import TENANTS, TenantBudget, TenantStatus
from serve_app.settings import BUDGET, NO_LIMITS, Tenant, TenantLimits
from serve_app.settings.pools import BudgetConfig
from serve_app.tenants.tenants import TenantChange, TenantInfo
from serve_app.webhooks.target import BadTarget


def _changeable(field: FieldInfo) -> tuple[Any, Any]:
    """A field of ``TenantLimits`` that may be left out or null. Its bounds are checked later:
    OpenAPI 3.0 cannot write them all."""
    type_: Any = field.annotation
    return type_ | None, Field(None, description=field.description)


class Budget(BaseModel):
    """Money that a tenant may spend in a period. It replaces a budget that was set before."""

    model_config = ConfigDict(extra="forbid")

    amount: int | float | str = Field(description="Money in a period, more than 0. Text is exact.")
    currency: str | None = Field(None, description="Three letters. Default: USD.")
    period: Literal["day", "month"] | None = Field(None, description="In UTC. Default: month.")
    warn_at: list[float] | None = Field(
        None, description="Shares of the amount that warn, once a period. Default: 0.8."
    )
    stop: bool | None = Field(
        None, description="Refuse requests that exceed the amount. False: only warn. Default: true."
    )
    webhook: str | None = Field(None, description="URL that is called with each warning.")


_FIELDS: Any = {
    name: _changeable(limit) for name, limit in TenantLimits.model_fields.items() if name != BUDGET
}
_BUDGET: Any = (Budget | None, Field(None, description="What it may spend."))
LimitChanges = create_model(
    "LimitChanges",
    __config__=ConfigDict(extra="forbid"),
    __doc__="Limits of a tenant. Null: the limit of the settings again.",
    **_FIELDS,
    **{BUDGET: _BUDGET},
)


class NewTenant(BaseModel):
    """Tenant to be created."""

    model_config = ConfigDict(extra="forbid")

    tenant: Tenant
    name: str = Field(default="", max_length=200, description="For people. Default: the id.")
    limits: LimitChanges | None = None  # pyrefly: ignore[invalid-annotation]


class TenantChanges(BaseModel):
    """Changes of a tenant. What is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, min_length=1, max_length=200)
    limits: LimitChanges | None = None  # pyrefly: ignore[invalid-annotation]


class Disabling(BaseModel):
    """How a tenant is disabled."""

    model_config = ConfigDict(extra="forbid")

    cancel_queued: bool = Field(
        default=False, description="Cancel what is queued. Otherwise it waits."
    )


calls = Calls(TENANTS)
ROUTES = calls.routes


@calls.list("List the tenants by id, with their limits and the bytes of their uploaded files")
async def list_tenants(call: Call) -> Sequence[TenantStatus]:
    return await _statuses(call.services, await call.services.identity.tenants.stored.list())


@calls.create("Create a tenant. It has no keys yet", NewTenant, Special(status=201, errors=(400,)))
async def create_tenant(call: Call, new: NewTenant) -> TenantStatus:
    limits = await _read_limits(call.services, new.tenant, new.limits)
    tenants = call.services.identity.tenants
    return await _status(call, await tenants.create(new.tenant, new.name, limits, call.actor))


@calls.show("Show a tenant, with its limits")
async def show_tenant(call: Call, tenant: str) -> TenantStatus:
    return await _status(call, await call.services.identity.tenants.find(tenant))


@calls.change(
    "Change the name and the limits of a tenant. They are in force everywhere within seconds",
    TenantChanges,
)
async def change_tenant(call: Call, tenant: str, body: TenantChanges) -> TenantStatus:
    limits = await _read_limits(call.services, tenant, body.limits)
    return await _change(call, tenant, TenantChange(body.name, limits))


@calls.act("disable", "Disable a tenant: its keys are refused, and nothing of it starts", Disabling)
async def disable_tenant(call: Call, tenant: str, how: Disabling) -> TenantStatus:
    """What is queued waits or is cancelled, and what runs ends."""
    if tenant == call.caller.tenant:
        raise Forbidden(
            "A key cannot disable its own tenant, because no key could enable it again. Use an "
            "operator's key of another tenant."
        )
    changed = await _change(call, tenant, TenantChange(disabled=True))
    if how.cancel_queued:
        services = call.services
        services.background.start_until_closed(cancel_queued(services.queue, tenant, call.actor))
    return changed


@calls.act("enable", "Enable a tenant again", None, Special(errors=(400,)))
async def enable_tenant(call: Call, tenant: str, _: None) -> TenantStatus:
    """What was queued and not cancelled runs."""
    return await _change(call, tenant, TenantChange(disabled=False))


async def _change(call: Call, tenant: str, change: TenantChange) -> TenantStatus:
    return await _status(
        call, await call.services.identity.tenants.change(tenant, change, call.actor)
    )


async def _status(call: Call, info: TenantInfo) -> TenantStatus:
    (status,) = await _statuses(call.services, [info])
    return status


async def _statuses(services: Services, infos: Sequence[TenantInfo]) -> Sequence[TenantStatus]:
    sizes = await services.files.uploads.sizes([tenant.id for tenant in infos])
    return [_of(services, tenant, sizes[tenant.id]) for tenant in infos]


async def _read_limits(services: Services, tenant: str, limits: BaseModel | None) -> dict[str, Any]:
    """The limits of a call. ``InvalidInput``: a budget's webhook cannot be called."""
    if limits is None:
        return {}
    fields = limits.model_dump(exclude_unset=True)
    if budget := fields.get(BUDGET):
        budget = fields[BUDGET] = {key: value for key, value in budget.items() if value is not None}
        budget["amount"] = str(budget["amount"])
        if (webhook := budget.get("webhook")) is not None:
            try:
                budget["webhook"] = await services.webhooks.targets.check(webhook, tenant)
            except BadTarget as wrong:
                raise InvalidInput.of_field("limits.budget.webhook", f"It {wrong}") from None
    return fields


def _of(services: Services, info: TenantInfo, uploads_bytes: int) -> TenantStatus:
    own = services.config.queue.tenant_limits.get(info.id, NO_LIMITS)
    limits = limits_in_force(info, services.file_config, services.config)
    shown: Any = {name: limits[name].value for name in TENANTS.fields if name in limits}
    return TenantStatus(
        tenant=info.id,
        name=info.name or info.id,
        created_at=info.created_at,
        disabled_at=info.disabled_at,
        valid_keys=info.valid_keys,
        uploads_bytes=uploads_bytes,
        storage=own.storage,
        limits=limits,
        budget=None if own.budget is None else _budget(own.budget, info),
        **shown,
    )


def _budget(budget: BudgetConfig, info: TenantInfo) -> TenantBudget:
    fields: Any = budget.model_dump() | {"amount": f"{budget.amount:f}"}
    return TenantBudget(**fields, source="api" if BUDGET in info.limits else "file")

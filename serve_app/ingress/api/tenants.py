"""``/v1/tenants``: create, show, change and disable tenants."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import Forbidden, InvalidInput
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import iso, json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_path
from serve_app.ingress.resources.calls import MAX_BODY_BYTES
from serve_app.ingress.services.live_tenants import cancel_queued, limits_in_force
from serve_app.ingress.services.services import Services, services_of
from serve_app.settings import BUDGET, NO_LIMITS, Tenant, TenantLimits
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
    name: _changeable(each) for name, each in TenantLimits.model_fields.items() if name != BUDGET
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
    limits: LimitChanges | None = None  # pyright: ignore[reportInvalidTypeForm]


class TenantChanges(BaseModel):
    """Changes of a tenant. What is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, min_length=1, max_length=200)
    limits: LimitChanges | None = None  # pyright: ignore[reportInvalidTypeForm]


class Disabling(BaseModel):
    """How a tenant is disabled."""

    model_config = ConfigDict(extra="forbid")

    cancel_queued: bool = Field(
        default=False, description="Cancel what is queued. Otherwise it waits."
    )


class TenantLimit(TypedDict):
    """Limit in force, and where it comes from."""

    value: Annotated[float | str | None, Field(description="Null: no limit.")]
    source: Annotated[
        Literal["api", "file", "default"],
        Field(
            description="`api`: set by an operator. `file`: the settings for this tenant. "
            "`default`: the settings for all tenants."
        ),
    ]


class TenantBudget(TypedDict):
    """Budget in force, and where it comes from."""

    amount: Annotated[str, Field(description="Text, because it is exact.")]
    currency: str
    period: Literal["day", "month"]
    warn_at: list[float]
    stop: bool
    webhook: str | None
    source: Annotated[Literal["api", "file"], Field(description="As of limits.")]


class TenantStatus(TypedDict):
    """Tenant, with the limits in force: its own, or those of all tenants."""

    tenant: str
    name: str
    created_at: Time
    disabled_at: Annotated[Time | None, Field(description="Null: it is enabled.")]
    valid_keys: Annotated[int, Field(description="Neither revoked nor expired.")]
    weight: Annotated[float, Field(description="Share relative to other tenants.")]
    max_running: Annotated[int | None, Field(description="Null: no limit.")]
    max_waiting: int
    max_waiting_bytes: int
    uploads_bytes: Annotated[int, Field(description="Of its uploaded files.")]
    max_uploads_bytes: int
    retention_days: Annotated[float | None, Field(description="Null: kept for ever.")]
    storage: Annotated[
        str | None,
        Field(description="Storage location of its new files. Null: the installation's own."),
    ]
    limits: Annotated[
        dict[str, TenantLimit], Field(description="Every limit, with where it comes from.")
    ]
    budget: Annotated[TenantBudget | None, Field(description="Null: it may spend any amount.")]


class TenantPage(TypedDict):
    tenants: Annotated[list[TenantStatus], Field(description="By name, at most 1000.")]


async def listed(request: HttpRequest) -> Response:
    """List all tenants, with their limits and the bytes of their uploaded files."""
    context_of(request).route = "v1.tenants"
    await authenticate(request)
    services = services_of(request)
    found = await services.identity.tenants.stored.list()
    sizes = await services.files.uploads.sizes([each.id for each in found])
    body: TenantPage = {"tenants": [_tenant(services, each, sizes[each.id]) for each in found]}
    return json_reply(body)


async def created(request: HttpRequest) -> Response:
    """Create a tenant. It has no keys yet."""
    context_of(request).route = "v1.tenants"
    await authenticate(request)
    new = await read_model(request, NewTenant, MAX_BODY_BYTES)
    services = services_of(request)
    limits = await _given(services, new.tenant, new.limits)
    tenants = services.identity.tenants
    made = await tenants.create(new.tenant, new.name, limits, actor_of(request))
    return json_reply(await _shown(request, made), 201)


async def shown(request: HttpRequest) -> Response:
    context_of(request).route = "v1.tenant"
    await authenticate(request)
    tenants = services_of(request).identity.tenants
    return json_reply(await _shown(request, await tenants.find(request.path_params["tenant"])))


async def changed(request: HttpRequest) -> Response:
    """Change the name and limits of a tenant. Limits are in force within seconds everywhere."""
    context_of(request).route = "v1.tenant.change"
    await authenticate(request)
    wanted = await read_model(request, TenantChanges, MAX_BODY_BYTES)
    tenant: str = request.path_params["tenant"]
    limits = await _given(services_of(request), tenant, wanted.limits)
    return await _change(request, TenantChange(wanted.name, limits))


async def disabled(request: HttpRequest) -> Response:
    """Refuse all keys of a tenant. What is queued waits or is cancelled, and what runs ends."""
    context_of(request).route = "v1.tenant.disable"
    caller = await authenticate(request)
    how = await read_model(request, Disabling, MAX_BODY_BYTES)
    tenant: str = request.path_params["tenant"]
    if tenant == caller.tenant:
        raise Forbidden(
            "A key cannot disable its own tenant, because no key could enable it again. Use an "
            "operator's key of another tenant."
        )
    reply = await _change(request, TenantChange(disabled=True))
    if how.cancel_queued:
        services = services_of(request)
        services.background.start_until_closed(
            cancel_queued(services.queue, tenant, actor_of(request))
        )
    return reply


async def enabled(request: HttpRequest) -> Response:
    """Accept the keys of a tenant again. What was queued and not cancelled runs."""
    context_of(request).route = "v1.tenant.enable"
    await authenticate(request)
    return await _change(request, TenantChange(disabled=False))


async def _change(request: HttpRequest, change: TenantChange) -> Response:
    tenants, tenant = services_of(request).identity.tenants, request.path_params["tenant"]
    info = await tenants.change(tenant, change, actor_of(request))
    return json_reply(await _shown(request, info))


async def _shown(request: HttpRequest, info: TenantInfo) -> TenantStatus:
    services = services_of(request)
    sizes = await services.files.uploads.sizes([info.id])
    return _tenant(services, info, sizes[info.id])


async def _given(services: Services, tenant: str, limits: BaseModel | None) -> dict[str, Any]:
    """The limits of a call. ``InvalidInput``: a budget's webhook cannot be called."""
    if limits is None:
        return {}
    given = limits.model_dump(exclude_unset=True)
    if budget := given.get(BUDGET):
        budget = given[BUDGET] = {key: each for key, each in budget.items() if each is not None}
        budget["amount"] = str(budget["amount"])
        if (webhook := budget.get("webhook")) is not None:
            try:
                budget["webhook"] = await services.webhooks.targets.check(webhook, tenant)
            except BadTarget as wrong:
                raise InvalidInput.of_field("limits.budget.webhook", f"It {wrong}") from None
    return given


def _budget(services: Services, info: TenantInfo) -> TenantBudget | None:
    budget = services.config.queue.tenant_limits.get(info.id, NO_LIMITS).budget
    if budget is None:
        return None
    return {
        "amount": f"{budget.amount:f}",
        "currency": budget.currency,
        "period": budget.period,
        "warn_at": [*budget.warn_at],
        "stop": budget.stop,
        "webhook": budget.webhook,
        "source": "api" if BUDGET in info.limits else "file",
    }


def _tenant(services: Services, info: TenantInfo, uploads_bytes: int) -> TenantStatus:
    limits = limits_in_force(info, services.file_config, services.config)
    value: dict[str, Any] = {name: each.value for name, each in limits.items()}
    return {
        "tenant": info.id,
        "name": info.name or info.id,
        "created_at": info.created_at.isoformat(),
        "disabled_at": iso(info.disabled_at),
        "valid_keys": info.valid_keys,
        "weight": value["weight"],
        "max_running": value["max_running"],
        "max_waiting": value["max_waiting"],
        "max_waiting_bytes": value["max_waiting_bytes"],
        "uploads_bytes": uploads_bytes,
        "max_uploads_bytes": value["max_uploads_bytes"],
        "retention_days": value["retention_days"],
        "storage": services.config.queue.tenant_limits.get(info.id, NO_LIMITS).storage,
        "limits": {
            name: {"value": each.value, "source": each.source} for name, each in limits.items()
        },
        "budget": _budget(services, info),
    }


TENANT = in_path("tenant", "Id of the tenant.")
NEEDS = "Needs the scope `operator`"

LIST = Operation(
    "listTenants",
    f"List the tenants, with their limits. {NEEDS}",
    {200: answer("The tenants.", TenantPage)},
)
CREATE = Operation(
    "createTenant",
    f"Create a tenant. {NEEDS}",
    {201: answer("The tenant.", TenantStatus)},
    errors=(400, 413, 422),
    body=NewTenant,
)
SHOW = Operation(
    "getTenant",
    f"Show a tenant, with its limits. {NEEDS}",
    {200: answer("The tenant.", TenantStatus)},
    errors=(404,),
    parameters=(TENANT,),
)
CHANGE = Operation(
    "changeTenant",
    f"Change the name and the limits of a tenant. {NEEDS}",
    {200: answer("The tenant as it is now.", TenantStatus)},
    errors=(404, 413, 422),
    parameters=(TENANT,),
    body=TenantChanges,
)
DISABLE = Operation(
    "disableTenant",
    f"Disable a tenant: its keys are refused, and nothing of it starts. {NEEDS}",
    {200: answer("The tenant as it is now.", TenantStatus)},
    errors=(404, 413, 422),
    parameters=(TENANT,),
    body=Disabling,
)
ENABLE = Operation(
    "enableTenant",
    f"Enable a tenant again. {NEEDS}",
    {200: answer("The tenant as it is now.", TenantStatus)},
    errors=(400, 404),
    parameters=(TENANT,),
)

ROUTES = [
    DocumentedRoute("/v1/tenants", listed, {"GET": LIST}),
    DocumentedRoute("/v1/tenants", created, {"POST": CREATE}),
    DocumentedRoute("/v1/tenants/{tenant}", shown, {"GET": SHOW}),
    DocumentedRoute("/v1/tenants/{tenant}", changed, {"PATCH": CHANGE}),
    DocumentedRoute("/v1/tenants/{tenant}/disable", disabled, {"PUT": DISABLE}),
    DocumentedRoute("/v1/tenants/{tenant}/enable", enabled, {"PUT": ENABLE}),
]

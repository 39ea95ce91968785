"""``/v1/account/billing``, in fal's format: a tenant's budget is its balance of credits."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.ingress.http import query
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.tenants.scopes import USAGE

CREDITS = "credits"


class Credits(TypedDict):
    """What is left of a budget in its period, without what is reserved."""

    current_balance: Annotated[
        float, Field(description="Below 0: a budget that stops nothing is exceeded.")
    ]
    currency: str


class AccountBilling(TypedDict):
    """The key's tenant, and what it may still spend."""

    username: str
    credits: NotRequired[
        Annotated[Credits, Field(description="With `expand=credits`, if the tenant has a budget.")]
    ]


calls = JsonCalls()


@calls.call(
    "/v1/account/billing",
    "getAccountBilling",
    "Show what is left of the tenant's budget",
    USAGE,
    parameters=(in_query("expand", "Adds the balance.", Literal["credits"]),),
    errors=(422,),
)
async def billing(call: Call) -> AccountBilling:
    body: AccountBilling = {"username": call.caller.tenant}
    expand = query.several(call.request, "expand")
    for field in expand:
        if field != CREDITS:
            raise query.invalid("expand", f"should be `{CREDITS}`", field)
    if expand and (left := await call.services.queue.budget_left(call.caller.tenant)):
        body["credits"] = {"current_balance": float(left.remaining), "currency": left.currency}
    return body


ROUTES = calls.routes

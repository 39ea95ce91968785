"""``/v1/usage/report``: GPU hours paid, busy and idle, against fal's list prices."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.domain.billing.report import HOUR_S, ReplicaHours
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.http.time_range import time_range
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services.services import Services
from serve_app.tenants.scopes import OPERATOR

LENGTH = timedelta(days=30)
OTHERS = "*"


class PoolHours(TypedDict):
    """GPU hours of a pool on one class of GPU."""

    pool: str
    gpu: Annotated[str, Field(description="Class; empty: none, or not known.")]
    paid_hours: float
    busy_hours: Annotated[float, Field(description="In which at least one request ran.")]
    idle_hours: float
    cost: Annotated[float | None, Field(description="Null: the settings have no cost for it.")]


class FalCost(TypedDict):
    """What the work of an endpoint would have cost by fal's list price."""

    endpoint_id: str
    requests: Annotated[int, Field(description="Computed and successful.")]
    cost: Annotated[float | None, Field(description="Null: the settings have no price of fal.")]
    currency: str | None


class CostReport(TypedDict):
    """Costs of a time."""

    start: Time
    end: Time
    currency: Annotated[str, Field(description="Of the machines' costs.")]
    pools: list[PoolHours]
    paid_hours: float
    busy_hours: float
    idle_hours: float
    cost: float
    endpoints: list[FalCost]
    fal_cost: Annotated[float, Field(description="In `currency`, of endpoints with such a price.")]


calls = JsonCalls()
ROUTES = calls.routes


@calls.call(
    "/v1/usage/report",
    "getCostReport",
    "Compare what GPUs cost with fal's list prices for the same work",
    OPERATOR,
    errors=(422,),
    parameters=(
        in_query("start", "A date or a time. Default: 30 days before the end."),
        in_query("end", "A date or a time, exclusive. Default: now."),
    ),
)
async def report(call: Call) -> CostReport:
    """Hours are whole ones (UTC) that begin in the time."""
    services = call.services
    span = time_range(call.request, services.clock.now(), length=LENGTH)
    hours = await services.queue.costs.replica_hours(span.start, span.end)
    quantities = await services.queue.costs.made_units(span.start, span.end)
    billing = services.config.billing
    pools = [_hours(services, replica_hours) for replica_hours in hours]
    endpoints: list[FalCost] = []
    fal_cost = Decimal(0)
    for quantity in quantities:
        price = billing.fal_prices.get(quantity.endpoint)
        cost = None if price is None else quantity.cost(price)
        if price is not None and cost is not None and price.currency == billing.cost_currency:
            fal_cost += cost
        endpoints.append(
            {
                "endpoint_id": quantity.endpoint,
                "requests": quantity.requests,
                "cost": None if cost is None else float(cost),
                "currency": price.currency if price else None,
            }
        )
    return {
        "start": span.start.isoformat(),
        "end": span.end.isoformat(),
        "currency": billing.cost_currency,
        "pools": pools,
        "paid_hours": sum(pool["paid_hours"] for pool in pools),
        "busy_hours": sum(pool["busy_hours"] for pool in pools),
        "idle_hours": sum(pool["idle_hours"] for pool in pools),
        "cost": sum(pool["cost"] or 0.0 for pool in pools),
        "endpoints": endpoints,
        "fal_cost": float(fal_cost),
    }


def _hours(services: Services, hours: ReplicaHours) -> PoolHours:
    """Hours of GPUs: each of a replica's devices counts."""
    pool = services.pools.configured.get(hours.pool)
    devices = pool.devices_per_replica if pool else 1
    paid, busy = hours.paid_s * devices / HOUR_S, hours.busy_s * devices / HOUR_S
    costs = services.config.billing.gpu_hour_costs
    rate = costs.get(hours.gpu, costs.get(OTHERS))
    return {
        "pool": hours.pool,
        "gpu": hours.gpu,
        "paid_hours": float(round(paid, 4)),
        "busy_hours": float(round(busy, 4)),
        "idle_hours": float(round(paid - busy, 4)),
        "cost": None if rate is None else float(round(paid * rate, 4)),
    }

"""``/v1/estimate``: what a request would wait for, and take, before it is submitted."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, NotRequired, cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.request import NewRequest, Waiting
from serve_app.ingress.api.models import WeightsState, held_weights, weights_state
from serve_app.ingress.api.usage import Unit, unit_of
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.options import parse_options
from serve_app.ingress.submission.status import WaitingStatus, round_significant, waiting_body
from serve_app.tenants.scopes import SUBMIT


class PlannedRequest(BaseModel):
    """Request that is not submitted."""

    model_config = ConfigDict(extra="forbid")

    endpoint_id: str
    input: Annotated[
        dict[str, Any], Field(description="Checked as the body of a submit would be.")
    ] = {}


class PlannedPrice(TypedDict):
    """What a request would cost if it succeeds, as far as its input says."""

    unit: Unit
    quantity: float
    unit_price: float
    cost: float
    currency: str


class PlannedTimes(TypedDict):
    """Times in seconds from now; null: not known."""

    endpoint_id: str
    weights: Annotated[WeightsState, Field(description="Where its weights are: see `/v1/models`.")]
    queue_position: Annotated[int, Field(description="Requests before it.")]
    waiting: Annotated[
        WaitingStatus | None, Field(description="Why it would wait. Null: it would start at once.")
    ]
    starts_in_s: float | None
    runs_s: Annotated[
        float | None,
        Field(description="On a replica that holds the weights. Null: none has run here yet."),
    ]
    ends_in_s: float | None
    price: NotRequired[Annotated[PlannedPrice, Field(description="Missing: it costs nothing.")]]


async def estimate(request: HttpRequest) -> Response:
    """Estimate when a request would start and end. Nothing is stored."""
    context_of(request).route = "v1.estimate"
    caller = await authenticate(request)
    services = services_of(request)
    planned = await read_model(request, PlannedRequest, services.config.limits.max_body_bytes)
    new = await submission.validate(
        services,
        caller,
        planned.endpoint_id,
        planned.input,
        parse_options(request, caller, own_bucket=True),
        request_id=context_of(request).request_id,
        only_estimated=True,
    )
    forecast = await services.queue.estimate(new)
    waiting = forecast.waiting
    starts_in_s, ends_in_s = _times(waiting, services.clock.now())
    entry = services.catalog_of(caller).get(planned.endpoint_id)
    body: PlannedTimes = {
        "endpoint_id": planned.endpoint_id,
        "weights": weights_state(entry, await held_weights(services)),
        "queue_position": waiting.position,
        "waiting": None if starts_in_s == 0 else waiting_body(waiting),
        "starts_in_s": starts_in_s,
        "runs_s": round_significant(forecast.runs_s),
        "ends_in_s": ends_in_s,
    }
    if new.price is not None:
        body["price"] = _price(services, new, forecast.runs_s)
    return json_reply(body)


def _price(services: Services, new: NewRequest, runs_s: float | None) -> PlannedPrice:
    price = cast("Price", new.price)
    quantities = new.expected
    if price.unit is PriceUnit.GPU_SECOND:
        quantities = replace(quantities, gpu_seconds=Decimal(str(round_significant(runs_s) or 0)))
    return {
        "unit": unit_of(services.catalog, new.endpoint, price),
        "quantity": float(quantities.of(price.unit)),
        "unit_price": float(price.amount),
        "cost": float(quantities.cost(price)),
        "currency": price.currency,
    }


def _times(waiting: Waiting, now: datetime) -> tuple[float | None, float | None]:
    """Seconds to the start and to the end. What the estimate itself took counts for neither."""
    if (start := waiting.starts_at) is None:
        return None, None
    starts_s = max(0.0, (start - now).total_seconds())
    end = waiting.ends_at
    ends_s = None if end is None else starts_s + (end - start).total_seconds()
    return round_significant(starts_s), round_significant(ends_s)


ESTIMATE = Operation(
    "estimateRequest",
    "Estimate when a request would start and end, without submitting it",
    {200: answer("The times, as far as they are known.", PlannedTimes)},
    errors=(404, 413, 422, 503),
    body=PlannedRequest,
)

ROUTES = [DocumentedRoute("/v1/estimate", estimate, {"POST": ESTIMATE}, SUBMIT)]

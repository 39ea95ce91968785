"""``/v1/estimate``: what a request would wait for, and take, before it is submitted.

With ``Accept: text/event-stream``, the estimate is sent again whenever it changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, NotRequired, cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.billing.price import Price, PriceUnit
from serve_app.domain.errors import DarkroomError
from serve_app.domain.request import NO_CHANGES, NewRequest, Waiting
from serve_app.ingress.api.changes import LOOK_S, PAUSE_S
from serve_app.ingress.api.events import KEEP_ALIVE_S, RECONNECT_MS
from serve_app.ingress.api.models import WeightsState, held_weights, weights_state
from serve_app.ingress.api.usage import Unit, unit_of
from serve_app.ingress.http import sse
from serve_app.ingress.http.auth import authenticate, while_valid
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import EVENTS, JSON, Answer, DocumentedRoute, Operation
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission import submission
from serve_app.ingress.submission.options import parse_options
from serve_app.ingress.submission.status import WaitingStatus, round_significant, waiting_body
from serve_app.tenants.scopes import SUBMIT, Caller

RENEW_S = 5.0
"""How often an estimate is made anew without a change of a request or a replica: its start comes
nearer."""


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
    if sse.MEDIA_TYPE in request.headers.get("accept", ""):
        return sse.stream_reply(while_valid(request, stream(services, caller, new)))
    return json_reply(await _planned(services, caller, new))


async def stream(services: Services, caller: Caller, new: NewRequest) -> AsyncGenerator[bytes]:
    """Estimates of ``new`` until the client disconnects, the database fails, or the tenant has too
    many calls."""
    replicas, sent, quiet_s = services.replica_changes, None, 0.0
    yield b"retry: %d\n\n" % RECONNECT_MS
    with services.queue.follow(caller.tenant) as changes:
        while True:
            count = await replicas.count()
            try:
                async with services.admission.turn(caller.tenant):
                    body = await _planned(services, caller, new)
            except DarkroomError:
                return
            if body != sent:
                sent, quiet_s = body, 0.0
                yield sse.json_event(body)
            elif quiet_s >= KEEP_ALIVE_S:
                quiet_s = 0.0
                yield sse.NOTHING_NEW
            await asyncio.sleep(PAUSE_S)  # in which changes are collected
            for _ in range(int(RENEW_S / LOOK_S)):
                quiet_s += LOOK_S
                if await changes.next(LOOK_S) != NO_CHANGES or await replicas.count() != count:
                    break


async def _planned(services: Services, caller: Caller, new: NewRequest) -> PlannedTimes:
    forecast = await services.queue.estimate(new)
    waiting = forecast.waiting
    starts_in_s, ends_in_s = _times(waiting, services.clock.now())
    entry = services.catalog_of(caller).get(new.endpoint)
    body: PlannedTimes = {
        "endpoint_id": new.endpoint,
        "weights": weights_state(entry, await held_weights(services)),
        "queue_position": waiting.position,
        "waiting": None if starts_in_s == 0 else waiting_body(waiting),
        "starts_in_s": starts_in_s,
        "runs_s": round_significant(forecast.runs_s),
        "ends_in_s": ends_in_s,
    }
    if new.price is not None:
        body["price"] = _price(services, new, forecast.runs_s)
    return body


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
    {
        200: Answer(
            "The times, as far as they are known. With `Accept: text/event-stream`, also each "
            "change of them.",
            {JSON: PlannedTimes, EVENTS: str},
        )
    },
    errors=(404, 413, 422, 503),
    body=PlannedRequest,
)

ROUTES = [DocumentedRoute("/v1/estimate", estimate, {"POST": ESTIMATE}, SUBMIT)]

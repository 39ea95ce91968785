"""``/v1/models/pricing``: prices of endpoints, and what calls would cost, in fal's format.

Without a price it is 0, and the unit is the one that ``/v1/models/usage`` counts, so operators can
divide the costs of their machines by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, cast

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.billing.price import CURRENCY, Price
from serve_app.domain.errors import InvalidInput
from serve_app.ingress.api.usage import Unit, unit_of
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import read_json
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer, in_query
from serve_app.ingress.http.route_scopes import ANY_KEY
from serve_app.ingress.http.time_buckets import MAX_ENDPOINTS, PageLinks
from serve_app.ingress.services.services import Services, services_of

BY_CALLS = "historical_api_price"
QUANTITIES = {BY_CALLS: "call_quantity", "unit_price": "unit_quantity"}
"""Type of an estimate → field with its quantity."""

LATELY = timedelta(days=30)

EstimateType = Literal["historical_api_price", "unit_price"]


class ListedPrice(TypedDict):
    endpoint_id: str
    unit_price: Annotated[float, Field(description="0: nothing is charged.")]
    unit: Unit
    currency: str


class PricePage(PageLinks):
    prices: list[ListedPrice]


class EndpointQuantity(TypedDict, total=False):
    call_quantity: Annotated[float, Field(description="For `historical_api_price`.")]
    unit_quantity: Annotated[float, Field(description="For `unit_price`.")]


class EstimateRequest(TypedDict):
    """Quantities whose costs are estimated."""

    estimate_type: EstimateType
    endpoints: Annotated[
        dict[str, EndpointQuantity], Field(min_length=1, description="Quantities by endpoint id.")
    ]


class Estimate(TypedDict):
    estimate_type: EstimateType
    total_cost: Annotated[
        float,
        Field(description="Without a price, 0. Calls cost what the latest ones did on average."),
    ]
    currency: str


async def pricing(request: HttpRequest) -> Response:
    """List prices. ``?endpoint_id=``: 1 to 50, repeated or separated by commas."""
    context_of(request).route = "v1.models.pricing"
    caller = await authenticate(request)
    services = services_of(request)
    catalog = services.catalog_of(caller)
    ids = list(dict.fromkeys(query.several(request, "endpoint_id")))
    _check_number("endpoint_id", ids)
    prices = [_listed_price(services, catalog.get_listed(endpoint_id)) for endpoint_id in ids]
    body: PricePage = {"prices": prices, "next_cursor": None, "has_more": False}
    return json_reply(body)


def _listed_price(services: Services, entry: CatalogEntry) -> ListedPrice:
    price = services.price_of(entry)
    return {
        "endpoint_id": entry.endpoint.id,
        "unit_price": float(price.amount) if price else 0.0,
        "unit": unit_of(services.catalog, entry.endpoint.id, price),
        "currency": price.currency if price else CURRENCY,
    }


async def estimate(request: HttpRequest) -> Response:
    """Estimate costs. ``POST``: ``estimate_type``, and ``endpoints`` with their quantities."""
    context_of(request).route = "v1.models.pricing.estimate"
    caller = await authenticate(request)
    services = services_of(request)
    body = await read_json(request, services.config.limits.max_body_bytes)
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object.")
    fields = cast("Mapping[str, Any]", body)
    kind = fields.get("estimate_type")
    if not isinstance(kind, str) or kind not in QUANTITIES:
        raise InvalidInput.of_field("estimate_type", f"Input should be {' or '.join(QUANTITIES)}")
    endpoints = fields.get("endpoints")
    if not isinstance(endpoints, dict) or not endpoints:
        raise InvalidInput.of_field("endpoints", "Input should be an object with quantities by id")
    total, currencies = Decimal(0), set[str]()
    for endpoint_id, quantity in cast("Mapping[str, Any]", endpoints).items():
        price = services.price_of(services.catalog_of(caller).get_listed(endpoint_id))
        number = _check_quantity(quantity, QUANTITIES[kind])
        if price is None:
            continue
        currencies.add(price.currency)
        units = Decimal(1)
        if kind == BY_CALLS:
            units = await _units_of_call(services, caller.tenant, endpoint_id, price)
        total += Decimal(str(number)) * units * price.amount
    if len(currencies) > 1:
        what = f"Prices are in {' and '.join(sorted(currencies))}: ask for each currency by itself"
        raise InvalidInput.of_field("endpoints", what)
    cost = float(total)
    if math.isinf(cost):
        raise InvalidInput.of_field("endpoints", "The cost is too large for a number")
    estimated: Estimate = {
        "estimate_type": cast("EstimateType", kind),
        "total_cost": cost,
        "currency": next(iter(currencies), CURRENCY),
    }
    return json_reply(estimated)


async def _units_of_call(
    services: Services, tenant: str, endpoint_id: str, price: Price
) -> Decimal:
    """Units that the tenant's calls were billed for on average; 1 if there were none lately."""
    now = services.clock.now()
    totals = await services.queue.ledger.usage_totals(tenant, [now - LATELY, now], [endpoint_id])
    same = [total for total in totals if total.price and total.price.unit is price.unit]
    calls = sum(total.requests for total in same)
    return sum((total.billed for total in same), Decimal(0)) / calls if calls else Decimal(1)


LIST_PRICES = Operation(
    "listPrices",
    "List prices of endpoints, and the units that are counted",
    {200: answer("The prices; 0 for endpoints without one.", PricePage)},
    errors=(404, 422),
    parameters=(
        in_query(
            "endpoint_id",
            "1 to 50 endpoints; repeated or separated by commas.",
            list[str],
            required=True,
        ),
    ),
)
ESTIMATE = Operation(
    "estimateCost",
    "Estimate the costs of a number of calls or units",
    {200: answer("The costs.", Estimate)},
    errors=(404, 413, 422),
    body=EstimateRequest,
)

ROUTES = [
    DocumentedRoute("/v1/models/pricing", pricing, {"GET": LIST_PRICES}, ANY_KEY),
    DocumentedRoute("/v1/models/pricing/estimate", estimate, {"POST": ESTIMATE}, ANY_KEY),
]


def _check_number(name: str, endpoints: Sequence[str]) -> None:
    if not 1 <= len(endpoints) <= MAX_ENDPOINTS:
        what = f"should name 1 to {MAX_ENDPOINTS} endpoints"
        raise query.invalid(name, what, str(len(endpoints)))


def _check_quantity(value: Any, name: str) -> float:
    quantity = cast("Mapping[str, Any]", value).get(name) if isinstance(value, dict) else None
    if isinstance(quantity, bool) or not isinstance(quantity, int | float) or not quantity > 0:
        raise InvalidInput.of_field("endpoints", f"Each should be an object with {name} above 0")
    return quantity

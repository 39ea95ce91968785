"""``/v1/models/pricing``: what endpoints cost, in fal's shape. Nothing does here: the units are
those that ``/v1/models/usage`` counts, for whoever shares out what the machines cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.domain.errors import InvalidInput
from serve_app.ingress import query
from serve_app.ingress.body import read_json
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.time_buckets import MAX_ENDPOINTS
from serve_app.ingress.usage import unit_of

CURRENCY = "USD"
QUANTITIES = {"historical_api_price": "call_quantity", "unit_price": "unit_quantity"}
"""By the type of an estimate: what it is made from."""


async def pricing(request: HttpRequest) -> Response:
    """``?endpoint_id=`` (1 to 50; may be repeated, or several with commas)."""
    exchange_of(request).route = "v1.models.pricing"
    await caller_of(request)
    catalog = core_of(request).catalog
    asked = list(dict.fromkeys(query.several(request, "endpoint_id")))
    _check_number("endpoint_id", asked)
    prices = [
        {
            "endpoint_id": catalog.listed(each).endpoint.id,
            "unit_price": 0.0,
            "unit": unit_of(catalog, each),
            "currency": CURRENCY,
        }
        for each in asked
    ]
    return json_reply({"prices": prices, "next_cursor": None, "has_more": False})


async def estimate(request: HttpRequest) -> Response:
    """``POST`` of ``estimate_type`` and ``endpoints``: how many calls, or units, of each."""
    exchange_of(request).route = "v1.models.pricing.estimate"
    await caller_of(request)
    core = core_of(request)
    body = await read_json(request, core.config.max_body_bytes)
    if not isinstance(body, dict):
        raise InvalidInput("The body must be a JSON object.")
    given = cast("Mapping[str, Any]", body)
    kind = given.get("estimate_type")
    if not isinstance(kind, str) or kind not in QUANTITIES:
        raise InvalidInput.of_field("estimate_type", f"Input should be {' or '.join(QUANTITIES)}")
    endpoints = given.get("endpoints")
    if not isinstance(endpoints, dict) or not endpoints:
        raise InvalidInput.of_field("endpoints", "Input should be an object with quantities by id")
    for endpoint_id, quantity in cast("Mapping[str, Any]", endpoints).items():
        core.catalog.listed(endpoint_id)
        _check_quantity(quantity, QUANTITIES[kind])
    return json_reply({"estimate_type": kind, "total_cost": 0.0, "currency": CURRENCY})


ROUTES = [
    Route("/v1/models/pricing", pricing, methods=["GET"]),
    Route("/v1/models/pricing/estimate", estimate, methods=["POST"]),
]


def _check_number(name: str, endpoints: Sequence[str]) -> None:
    if not 1 <= len(endpoints) <= MAX_ENDPOINTS:
        what = f"should name 1 to {MAX_ENDPOINTS} endpoints"
        raise query.invalid(name, what, str(len(endpoints)))


def _check_quantity(given: Any, name: str) -> None:
    quantity = cast("Mapping[str, Any]", given).get(name) if isinstance(given, dict) else None
    if isinstance(quantity, bool) or not isinstance(quantity, int | float) or not quantity > 0:
        raise InvalidInput.of_field("endpoints", f"Each should be an object with {name} over 0")

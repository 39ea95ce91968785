"""``/v1/models/usage``: what a tenant has consumed, in fal's shape.

Nothing is charged here, so prices and costs are zero; ``darkroom`` has what was really spent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from serve_app.catalog.catalog import Catalog
from serve_app.domain.ledger import Consumed
from serve_app.ingress import query
from serve_app.ingress.caller import caller_of
from serve_app.ingress.core import core_of
from serve_app.ingress.exchange import exchange_of
from serve_app.ingress.reply import json_reply
from serve_app.ingress.time_buckets import LAST, SUMMARY, TIME_SERIES, asked_of, page_of

UNITS = {"image": "megapixels", "video": "seconds", "audio": "seconds"}
"""By the last word of an endpoint's category: of what its replicas count units."""


async def usage(request: HttpRequest) -> Response:
    """By bucket and endpoint, ``?start=&end=&timeframe=&timezone=&endpoint_id=``, some buckets at a
    time; with ``expand=summary`` over the whole time. Buckets in which nothing ended are empty."""
    exchange_of(request).route = "v1.models.usage"
    caller = await caller_of(request)
    core = core_of(request)
    expand = _expand(request)
    asked = await asked_of(request, core.clock.now())
    ledger, body, page = core.queue.ledger, dict[str, Any](), LAST
    if TIME_SERIES in expand:
        page = page_of(request, asked)
        found = await ledger.consumed(caller.tenant, page.edges, asked.endpoints)
        body[TIME_SERIES] = [
            {
                "bucket": start.astimezone(asked.zone).isoformat(),
                "results": _results(core.catalog, (one for one in found if one.bucket == number)),
            }
            for number, start in enumerate(page.starts)
        ]
    if SUMMARY in expand:
        whole = [asked.span.start, asked.span.end]
        found = await ledger.consumed(caller.tenant, whole, asked.endpoints)
        body[SUMMARY] = _results(core.catalog, found)
    return json_reply({**body, **page.links})


ROUTES = [Route("/v1/models/usage", usage, methods=["GET"])]


def _expand(request: HttpRequest) -> Sequence[str]:
    expand = query.several(request, "expand") or [TIME_SERIES]
    for given in expand:
        if given not in (TIME_SERIES, SUMMARY):
            what = f"should be {TIME_SERIES} or {SUMMARY}; by which key is not counted here"
            raise query.invalid("expand", what, given)
    return expand


def _results(catalog: Catalog, found: Iterable[Consumed]) -> list[dict[str, Any]]:
    return [
        {
            "endpoint_id": each.endpoint,
            "unit": unit_of(catalog, each.endpoint),
            "quantity": each.usage.units,
            "unit_price": 0.0,
            "cost": 0.0,
            "currency": "USD",
            "darkroom": {
                "requests": each.requests,
                "run_s": each.usage.run_s,
                "steps": each.usage.steps,
            },
        }
        for each in found
    ]


def unit_of(catalog: Catalog, endpoint_id: str) -> str:
    """``units`` of an endpoint of whose kind, or of which, the catalogue says nothing any more."""
    entry = catalog.find(endpoint_id)
    kind = entry.endpoint.category.rpartition("-")[2] if entry else ""
    return UNITS.get(kind, "units")

"""``/v1/shadows``: requests of all tenants beside their copies at other endpoints."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request as HttpRequest
from typing_extensions import TypedDict

from serve_app.domain.errors import DarkroomError
from serve_app.domain.executors.shadow import ShadowPair, ShadowSide, ShadowState, ShadowSums
from serve_app.domain.request import State
from serve_app.ingress.api.gallery.items import OutputFile, output_files
from serve_app.ingress.http import query
from serve_app.ingress.http.auth import ALL_TENANTS, record_read
from serve_app.ingress.http.errors import iso
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.http.origin import origin_of
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services.services import services_of
from serve_app.ingress.submission.rendering import rendered_output
from serve_app.tenants.scopes import OPERATOR

MAX_PAGE, PAGE = 100, 20
MAX_PROMPT = 200


class ShadowError(TypedDict):
    code: str
    message: str


class ShadowRequest(TypedDict):
    """One of the two requests of a pair."""

    request_id: str
    tenant: str
    endpoint_id: Annotated[str, Field(description="Endpoint that ran it, or will.")]
    state: State
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    run_s: Annotated[float | None, Field(description="Seconds of its attempt on a replica.")]
    cost: Annotated[float | None, Field(description="Null: no price, or it has not ended.")]
    currency: str | None
    error: ShadowError | None
    files: list[OutputFile]
    output: Annotated[
        Any, Field(description="Null: it did not succeed, or the output was deleted.")
    ]


class ShadowPairItem(TypedDict):
    """A request and its copy."""

    endpoint_id: str
    shadow: Annotated[str, Field(description="Endpoint of the copy.")]
    state: Annotated[ShadowState, Field(description="What became of the copy.")]
    reason: Annotated[str, Field(description="Why there is no copy, if it is skipped.")]
    prompt: Annotated[str | None, Field(description="The first 200 characters.")]
    original: ShadowRequest | None
    copy: Annotated[
        ShadowRequest | None, Field(description="Null: it is not stored, or was deleted.")
    ]


class ShadowTotals(TypedDict):
    """Sums of the originals, or of the copies, of the pairs of the last day."""

    failed: int
    median_s: Annotated[float | None, Field(description="Of those that succeeded, on a replica.")]
    cost: float
    currency: str | None


class ShadowComparison(TypedDict):
    """An endpoint and its shadow in the last day. Only pairs count whose requests have both
    ended."""

    endpoint_id: str
    shadow: str
    pairs: int
    originals: ShadowTotals
    copies: ShadowTotals


class ShadowPage(TypedDict):
    comparisons: list[ShadowComparison]
    pairs: list[ShadowPairItem]
    next_before: str | None


calls = JsonCalls()
ROUTES = calls.routes


@calls.call(
    "/v1/shadows",
    "listShadows",
    "List requests beside their copies at shadows",
    OPERATOR,
    errors=(422,),
    parameters=(
        in_query("endpoint_id", "Only requests for this endpoint."),
        in_query("before", "`next_before` of the previous page."),
        in_query("limit", "1 to 100; default 20.", int),
    ),
)
async def list_shadows(call: Call) -> ShadowPage:
    """The newest request first, and sums of the last day."""
    request = call.request
    await record_read(request, call.caller, ALL_TENANTS)
    limit = query.page_size(request, default=PAGE, most=MAX_PAGE)
    before = query.request_id(request, "before")
    book = call.services.queue.shadows
    pairs = await book.page(query.text(request, "endpoint_id"), before, limit + 1)
    page = pairs[:limit]
    return {
        "comparisons": [_comparison(totals) for totals in await book.sums()],
        "pairs": [await _pair(request, pair) for pair in page],
        "next_before": page[-1].original if len(pairs) > limit else None,
    }


async def _pair(http: HttpRequest, pair: ShadowPair) -> ShadowPairItem:
    prompt = pair.first.request.input.get("prompt") if pair.first else None
    return {
        "endpoint_id": pair.endpoint,
        "shadow": pair.target,
        "state": pair.state,
        "reason": pair.reason,
        "prompt": prompt[:MAX_PROMPT] if isinstance(prompt, str) else None,
        "original": None if pair.first is None else await _side(http, pair.first),
        "copy": None if pair.second is None else await _side(http, pair.second),
    }


async def _side(http: HttpRequest, side: ShadowSide) -> ShadowRequest:
    request, outcome = side.request, side.request.outcome
    access, failure = services_of(http).files.access, outcome.failure if outcome else None
    url = partial(access.url, origin_of(http), tenant=request.tenant)
    return {
        "request_id": request.id,
        "tenant": request.tenant,
        "endpoint_id": request.runs_at,
        "state": request.state,
        "created_at": request.created_at.isoformat(),
        "started_at": iso(request.started_at),
        "finished_at": iso(request.finished_at),
        "run_s": outcome.usage.run_s if outcome else None,
        "cost": None if side.amount is None else float(side.amount),
        "currency": side.currency or None,
        "error": {"code": failure.code, "message": failure.message} if failure else None,
        "files": output_files(outcome, url),
        "output": await _output(http, side) if request.state is State.SUCCEEDED else None,
    }


async def _output(http: HttpRequest, side: ShadowSide) -> Any:
    files, origin = services_of(http).files, origin_of(http)
    try:
        return await rendered_output(side.request, files, origin, inline=False)
    except DarkroomError:  # it was deleted
        return None


def _comparison(sums: ShadowSums) -> ShadowComparison:
    return {
        "endpoint_id": sums.endpoint,
        "shadow": sums.target,
        "pairs": sums.pairs,
        "originals": _totals(sums, 0),
        "copies": _totals(sums, 1),
    }


def _totals(sums: ShadowSums, place: int) -> ShadowTotals:
    amount: Decimal = sums.amounts[place]
    return {
        "failed": sums.failed[place],
        "median_s": sums.median_s[place],
        "cost": float(amount),
        "currency": sums.currencies[place] or None,
    }

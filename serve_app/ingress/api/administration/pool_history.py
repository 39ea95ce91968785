"""``/v1/status/history``: what each pool had in the last hours."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from serve_app.ingress.http import query
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import in_query
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.tenants.scopes import OPERATOR

MOST_HOURS = 24
FINE, COARSE = timedelta(minutes=1), timedelta(minutes=10)
FINE_HOURS = 2


class PoolPoint(TypedDict):
    """Largest figures of a pool in one step."""

    at: Time
    queued: int
    running: int
    replicas: Annotated[int, Field(description="That were ready.")]
    wait_s: Annotated[float, Field(description="Of the oldest queued request.")]


class PoolHistoryAnswer(TypedDict):
    """Steps in which the pool was not seen are left out."""

    step_s: int
    pools: dict[str, list[PoolPoint]]


calls = JsonCalls()
ROUTES = calls.routes


@calls.call(
    "/v1/status/history",
    "getStatusHistory",
    "Show what each pool had in the last hours: minute by minute, over two hours in steps of ten",
    OPERATOR,
    errors=(422,),
    parameters=(in_query("hours", f"1 to {MOST_HOURS}; default 1.", int),),
)
async def history(call: Call) -> PoolHistoryAnswer:
    hours = max(1, query.whole_number(call.request, "hours", default=1, most=MOST_HOURS))
    step = FINE if hours <= FINE_HOURS else COARSE
    pools: dict[str, list[PoolPoint]] = {}
    for sample in await call.services.queue.pool_history.read(timedelta(hours=hours), step):
        pools.setdefault(sample.pool, []).append(
            {
                "at": sample.at.isoformat(),
                "queued": sample.queued,
                "running": sample.running,
                "replicas": sample.replicas,
                "wait_s": sample.wait_s,
            }
        )
    return {"step_s": int(step.total_seconds()), "pools": pools}

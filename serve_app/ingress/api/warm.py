"""``/v1/warm``: warm targets. All calls require the scope ``operator``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import InvalidInput, NotFound
from serve_app.domain.executors.hosted import PROVIDERS, RUN_CODE
from serve_app.domain.operations import WarmTarget, WeightsLevel
from serve_app.ingress.http.auth import actor_of, authenticate
from serve_app.ingress.http.body import read_model
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import Answer, DocumentedRoute, Operation, answer, in_path
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.services.warm_pools import TargetState

MAX_BODY_BYTES = 16 * 1024
MAX_S = 366 * 86400


class NewWarmTarget(BaseModel):
    """Warm target to be set."""

    model_config = ConfigDict(extra="forbid")

    endpoint_id: str
    replicas: int = Field(default=1, ge=1, le=10_000)
    level: Literal["hot", "host", "disk"] = "hot"
    for_s: float | None = Field(
        default=None, ge=1, le=MAX_S, description="Seconds until it ends. Default: until `until`."
    )
    until: AwareDatetime | None = Field(
        default=None, description="Time at which it ends. Default: until it is ended."
    )


class WarmTargetStatus(TypedDict):
    """Warm target that is in force."""

    endpoint_id: Annotated[str, Field(description="Empty: only replicas.")]
    pool: Annotated[str, Field(description="Empty: it has no effect; `problems` says why.")]
    replicas: int
    level: Literal["hot", "host", "disk"]
    source: Literal["operator", "configuration"]
    until: Time | None
    ready_replicas: Annotated[
        int, Field(description="Ready replicas that hold the weights at this level.")
    ]
    problems: list[str]


class WarmTargets(TypedDict):
    targets: list[WarmTargetStatus]


async def listed(request: HttpRequest) -> Response:
    """List the warm targets that are in force."""
    services = await _admin(request)
    await services.warm.look()
    body: WarmTargets = {"targets": [warm_target(each) for each in services.warm.states]}
    return json_reply(body)


async def create(request: HttpRequest) -> Response:
    """Set the warm target of an endpoint, in place of an earlier one."""
    services = await _admin(request)
    new = await read_model(request, NewWarmTarget, MAX_BODY_BYTES)
    target = _target(services, new)
    await services.queue.operations.set_warm(target, actor_of(request))
    await services.warm.look()
    state = services.warm.of_operator(target.endpoint)
    if state is None:
        raise NotFound(f"The warm target of {target.endpoint} was ended at the same time.")
    return json_reply(warm_target(state))


async def ended(request: HttpRequest) -> Response:
    """End the warm target of an endpoint. Those of the configuration stay."""
    services = await _admin(request)
    endpoint = request.path_params["endpoint_id"]
    if not await services.queue.operations.end_warm(endpoint, actor_of(request)):
        raise NotFound(f"No operator has set a warm target for {endpoint}.")
    await services.warm.look()
    return Response(status_code=204)


def warm_target(state: TargetState) -> WarmTargetStatus:
    return {
        "endpoint_id": state.endpoint,
        "pool": state.pool,
        "replicas": state.replicas,
        "level": state.level.value,
        "source": state.source,
        "until": None if state.until is None else state.until.isoformat(),
        "ready_replicas": state.ready,
        "problems": list(state.problems),
    }


def _target(services: Services, new: NewWarmTarget) -> WarmTarget:
    """The target in the catalogue's terms. Raises errors that name the field."""
    catalog, id_ = services.catalog, new.endpoint_id
    entry = catalog.find_any(id_) or catalog.listed(id_)  # also private ones of tenants
    endpoint, pool = entry.endpoint, services.pool_of(entry)
    if endpoint.family in (*RUN_CODE, *PROVIDERS):
        raise InvalidInput.of_field(
            "endpoint_id",
            f"{endpoint.id} has no weights that a replica could hold: what runs it starts with its "
            f"first request, and stays. `min_replicas` of the pool {pool} keeps replicas ready",
            "feature_not_supported",
        )
    config = services.pools.configured.get(pool)
    if config is not None and new.replicas > config.max_replicas:
        message = (
            f"should be at most {config.max_replicas}, the max_replicas of the pool {pool}; raise "
            "that for more"
        )
        raise InvalidInput.of_field("replicas", message, "less_than_equal")
    now = services.clock.now()
    if new.for_s is not None and new.until is not None:
        raise InvalidInput.of_field("until", "should not be set beside for_s")
    until = new.until if new.for_s is None else now + timedelta(seconds=new.for_s)
    if until is not None and not now < until <= now + timedelta(seconds=MAX_S):
        message = "should be in the future, and at most 366 days from now"
        raise InvalidInput.of_field("until", message)
    return WarmTarget(endpoint.id, new.replicas, WeightsLevel(new.level), until)


async def _admin(request: HttpRequest) -> Services:
    context_of(request).route = "v1.warm"
    await authenticate(request)
    return services_of(request)


LIST = Operation(
    "listWarmTargets",
    "List the warm targets in force. Needs the scope `operator`",
    {200: answer("The targets, of operators and of the configuration.", WarmTargets)},
    errors=(403,),
)
CREATE = Operation(
    "setWarmTarget",
    "Set the warm target of an endpoint. Needs the scope `operator`",
    {200: answer("The target.", WarmTargetStatus)},
    errors=(403, 404, 413, 422, 503),
    body=NewWarmTarget,
)
END = Operation(
    "endWarmTarget",
    "End the warm target of an endpoint. Needs the scope `operator`",
    {204: Answer("It is ended.")},
    errors=(403, 404),
    parameters=(in_path("endpoint_id", "Its slashes are not escaped."),),
)

ROUTES = [
    DocumentedRoute("/v1/warm", listed, {"GET": LIST}),
    DocumentedRoute("/v1/warm", create, {"POST": CREATE}),
    DocumentedRoute("/v1/warm/{endpoint_id:path}", ended, {"DELETE": END}),
]

"""``/v1/warm``: warm targets. All calls require the scope ``operator``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from serve_app.domain.errors import InvalidInput, NotFound
from serve_app.domain.operations import WarmTarget, WeightsLevel
from serve_app.ingress.resources.calls import Call, Calls, Special
from serve_app.ingress.services.services import Services
from serve_app.ingress.services.warm_pools import TargetState
from serve_app.resources.warm_targets import WARM_TARGETS, WarmTargetStatus

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


calls = Calls(WARM_TARGETS)
ROUTES = calls.routes


@calls.list("List the warm targets in force, of operators and of the configuration")
async def list_targets(call: Call) -> Sequence[WarmTargetStatus]:
    await call.services.warm.look()
    return [target_status(state) for state in call.services.warm.states]


@calls.create(
    "Set the warm target of an endpoint, in place of an earlier one",
    NewWarmTarget,
    Special(errors=(503,)),
)
async def set_target(call: Call, new: NewWarmTarget) -> WarmTargetStatus:
    services = call.services
    target = _target(services, new)
    await services.queue.operations.set_warm(target, call.actor)
    await services.warm.look()
    state = services.warm.of_operator(target.endpoint)
    if state is None:
        raise NotFound(f"The warm target of {target.endpoint} was ended at the same time.")
    return target_status(state)


@calls.delete()
async def end_target(call: Call, endpoint_id: str) -> bool:
    ended = await call.services.queue.operations.end_warm(endpoint_id, call.actor)
    await call.services.warm.look()
    return ended


def target_status(state: TargetState) -> WarmTargetStatus:
    return WarmTargetStatus(
        state.endpoint,
        state.pool,
        state.replicas,
        state.level,
        state.source,
        state.until,
        state.ready,
        state.problems,
    )


def _target(services: Services, new: NewWarmTarget) -> WarmTarget:
    """The target in the catalogue's terms. Raises errors that name the field."""
    catalog, id_ = services.catalog, new.endpoint_id
    entry = catalog.find_any(id_) or catalog.get_listed(id_)  # also private ones of tenants
    endpoint, pool = entry.endpoint, services.pool_of(entry)
    if endpoint.runs_in_executor:
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

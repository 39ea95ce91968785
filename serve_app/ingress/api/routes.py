"""Routes of Darkroom's own API, and its status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal, cast

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import NotFound, Unsupported
from serve_app.domain.lease import Demand, ReplicaStage
from serve_app.ingress.api import (
    changes,
    drafts,
    estimates,
    keys,
    loras,
    model_entries,
    models,
    operations,
    previews,
    request_history,
    requests,
    sign_in,
    tenants,
    usage,
    warm,
    webhooks,
    workflows,
)
from serve_app.ingress.api.administration import (
    audit,
    doctor,
    jobs,
    pool_history,
    shadows,
    tenant_deletion,
    tenant_export,
)
from serve_app.ingress.api.billing import account, pricing, report, sums
from serve_app.ingress.api.files import content, links, stored, verification
from serve_app.ingress.api.gallery import items, shares, zip_files
from serve_app.ingress.api.health import (
    CHECK_ALIVE,
    CHECK_READY,
    CHECK_READY_FOR_READS,
    alive,
    ready,
    ready_for_reads,
)
from serve_app.ingress.api.registered import secrets, weights
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer
from serve_app.ingress.http.route_scopes import NO_KEY, ScopedRoute
from serve_app.ingress.resources.calls import Call, JsonCalls
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.resources.declaration import plain
from serve_app.resources.warm_targets import WarmTargetStatus
from serve_app.settings import PoolConfig
from serve_app.tenants.scopes import OPERATOR


class PoolStatus(TypedDict):
    """Demand of a pool, and its scaling. Settings are null for a pool that is no longer configured,
    and the target before the policy has run."""

    queued: int
    running: int
    slots: int
    oldest_wait_s: float
    idle_s: float
    queued_s: float
    min_replicas: int | None
    max_replicas: int | None
    spare_replicas: int | None
    keep_alive_s: float | None
    families: list[str]
    accelerator: str | None
    overflow_of: Annotated[
        str | None, Field(description="Pool whose requests it takes; it has no queue of its own.")
    ]
    canary_of: Annotated[
        str | None, Field(description="Pool that it takes requests beside, to be compared with it.")
    ]
    canary: Annotated[
        str, Field(description="How a canary does beside that pool; empty: nothing has ended yet.")
    ]
    returned: Annotated[
        bool, Field(description="The canary did worse, and gets nothing until it is changed.")
    ]
    overflow_queued: Annotated[
        int, Field(description="Requests queued in that pool that it may run.")
    ]
    overflow_queued_s: Annotated[float, Field(description="Seconds of its slots that they take.")]
    quarantined: Annotated[
        int, Field(description="Replicas on quarantined nodes, beside which the pool grows.")
    ]
    target_replicas: int | None
    warm_replicas: int


Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class ReplicaStatus(TypedDict):
    """Replica, and the endpoints whose weights it holds and should hold."""

    replica_id: str
    pool: str
    stage: ReplicaStage
    detail: str
    loading: list[Any]
    slots: int
    hot: list[str]
    warm: list[str]
    on_disk: list[str]
    keep: Annotated[
        list[Pair],
        Field(description="Endpoints that it should hold by warm targets, with their levels."),
    ]
    not_kept: Annotated[
        list[Pair], Field(description="Those that it cannot hold, with the reason.")
    ]
    node: Annotated[str, Field(description="Address of its machine.")]
    device: Annotated[str, Field(description="Name of its GPU; empty on a CPU.")]
    memory_used: Annotated[
        int | None,
        Field(
            description="Used bytes of its GPU, or on a CPU those of its process. Null: it has not "
            "reported them."
        ),
    ]
    memory_total: Annotated[
        int | None, Field(description="Bytes of its GPU, or on a CPU of its machine or container.")
    ]
    seen_s: float
    quarantine: Annotated[
        str, Field(description="Why it gets one request at a time; empty: it gets all it can run.")
    ]


class ProcessEvent(TypedDict):
    """Start or end of an ingress process or a replica, or of a node's quarantine."""

    at: Time
    kind: Literal["ingress", "replica", "node"]
    name: str
    pool: Annotated[str, Field(description="Of a replica.")]
    node: Annotated[str, Field(description="Address of its machine.")]
    version: Annotated[str, Field(description="Darkroom's, of an ingress.")]
    event: Literal["started", "ended", "quarantined", "released"]
    reason: str


class InstallationStatus(TypedDict):
    """Pools with their queues, replicas, and what happened to processes and nodes."""

    pools: dict[str, PoolStatus]
    replicas: list[ReplicaStatus]
    warm: list[WarmTargetStatus]
    unplaceable: dict[str, str]
    endpoints: int
    demo: bool
    checks: dict[str, str]
    events: Annotated[
        list[ProcessEvent],
        Field(description="Starts and ends of the last seven days, newest first; 50 at most."),
    ]


calls = JsonCalls()


@calls.call("/v1/status", "getStatus", "Show pools, replicas and checks", OPERATOR)
async def status(call: Call) -> InstallationStatus:
    services = call.services
    demand, configured = await services.queue.demand(), services.pools.configured
    targets = await services.health.targets(configured.keys())
    replicas = cast("list[ReplicaStatus]", list(await services.health.replicas()))
    kept_warm = services.warm.replicas()
    return {
        "pools": {
            name: _pool(
                demand.get(name, Demand()),
                configured.get(name),
                targets.get(name),
                kept_warm.get(name, 0),
            )
            for name in sorted(demand.keys() | configured.keys())
        },
        "replicas": replicas,
        "warm": plain([warm.target_status(state) for state in services.warm.states]),
        "unplaceable": dict(
            await services.health.placement_problems({replica["pool"] for replica in replicas})
        ),
        "endpoints": len(list(services.catalog)),
        "demo": any(entry.demo for entry in services.catalog),
        "checks": await services.health.readiness.report(),
        "events": cast("list[ProcessEvent]", list(await services.health.events())),
    }


def _pool(now: Demand, pool: PoolConfig | None, desired: int | None, warm: int) -> PoolStatus:
    settings = {
        "min_replicas": None if pool is None else pool.min_replicas,
        "max_replicas": None if pool is None else pool.max_replicas,
        "spare_replicas": None if pool is None else pool.spare_replicas,
        "keep_alive_s": None if pool is None else pool.keep_alive_s,
        "families": [] if pool is None else list(pool.families),
        "accelerator": None if pool is None else pool.accelerator,
        "overflow_of": (pool.overflow_of or None) if pool is not None else None,
        "canary_of": (pool.canary_of or None) if pool is not None else None,
    }
    target = {"target_replicas": desired, "warm_replicas": warm}
    return cast("PoolStatus", asdict(now) | settings | target)


async def metrics(request: HttpRequest) -> Response:
    """Write the metrics of the ingress replica that answers, in Prometheus' text format. They name
    endpoints and pools, and need the scope ``operator``."""
    context_of(request).route = "metrics"
    await authenticate(request)
    registry = services_of(request).metrics.registry
    # Milliseconds for thousands of series, and a look at the disk.
    text = await in_cpu_thread(generate_latest, registry)
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


REFUSED: Mapping[str, str] = {
    "meta": "Darkroom does not know from which addresses its webhooks reach you, because that "
    "follows from its network. Verify their signature in its place.",
    "account/focus": "There are no FOCUS reports. `GET /v1/usage.csv` has the sums of a bill.",
    "account/model-access-controls": "Each API key has the endpoints that it may use: see "
    "`GET /v1/keys`.",
    "serverless": "Apps are served and shown by `darkroom deploy` and `darkroom models`, and their "
    "replicas by `GET /v1/status`.",
    "compute": "Darkroom rents no machines.",
}
"""Calls of fal's platform that make no sense here, by the beginning of their path below ``/v1``,
with what to use instead."""


async def unknown(request: HttpRequest) -> Response:
    rest: str = request.path_params["rest"]
    for path, sentence in REFUSED.items():
        if f"{rest}/".startswith(f"{path}/"):
            raise Unsupported(sentence)
    raise NotFound(f"There is nothing at {request.url.path}.")


METRICS = Operation(
    "getMetrics",
    "Show the metrics of the ingress replica that answers. Needs the scope `operator`",
    {200: answer("Metrics in Prometheus' text format.", str, CONTENT_TYPE_LATEST)},
    errors=(403,),
)


ROUTES = [
    *content.ROUTES,
    *links.ROUTES,
    *stored.ROUTES,
    *verification.ROUTES,
    *pool_history.ROUTES,
    *items.ROUTES,  # before the routes of one request
    *zip_files.ROUTES,
    *loras.ROUTES,
    *weights.ROUTES,
    *workflows.ROUTES,
    *shares.ROUTES,
    *drafts.ROUTES,
    *requests.ROUTES,
    *operations.ROUTES,
    *audit.ROUTES,
    *doctor.ROUTES,
    *jobs.ROUTES,
    *shadows.ROUTES,
    *changes.ROUTES,
    *previews.ROUTES,
    *webhooks.ROUTES,
    *model_entries.ROUTES,
    *models.ROUTES,
    *pricing.ROUTES,
    *account.ROUTES,
    *report.ROUTES,
    *sums.ROUTES,
    *estimates.ROUTES,
    *usage.ROUTES,
    *warm.ROUTES,
    *request_history.ROUTES,
    *keys.ROUTES,
    *tenants.ROUTES,
    *tenant_deletion.ROUTES,
    *secrets.ROUTES,
    *tenant_export.ROUTES,
    *sign_in.ROUTES,
    DocumentedRoute(
        "/healthz",
        alive,
        {"GET": CHECK_ALIVE, "HEAD": replace(CHECK_ALIVE, name="aliveHead")},
        NO_KEY,
    ),
    DocumentedRoute(
        "/readyz",
        ready,
        {"GET": CHECK_READY, "HEAD": replace(CHECK_READY, name="readyHead")},
        NO_KEY,
    ),
    DocumentedRoute(
        "/readyz/reads",
        ready_for_reads,
        {
            "GET": CHECK_READY_FOR_READS,
            "HEAD": replace(CHECK_READY_FOR_READS, name="readyForReadsHead"),
        },
        NO_KEY,
    ),
    *calls.routes,
    DocumentedRoute("/metrics", metrics, {"GET": METRICS}, OPERATOR),
    ScopedRoute("/v1/{rest:path}", unknown, methods=["GET"], scope=NO_KEY),
]

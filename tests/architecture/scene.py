"""One process with everything that a request passes: HTTP server, PostgreSQL, replica, engine.

Only Ray is missing. Serve would start the same objects in separate processes, where one trace
could not see all of them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psycopg
import torch
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.engine.engine import Engine
from deployments.families.base import load_families
from deployments.families.registry import FAMILIES
from deployments.ingress_client.local import LocalLeasePort
from deployments.replica.config import (
    IngressCalls,
    IngressLink,
    LoraConfig,
    ReplicaConfig,
    ReplicaIdentity,
)
from deployments.replica.deployment import make_resources
from deployments.replica.engine_replica import EngineReplica
from deployments.transfer.uploader import Backoff
from serve_app.catalog.catalog import load
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.rest import Rest
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.embedded_postgres.files import ClusterFiles
from serve_app.ingress.deployment import Ingress
from serve_app.ingress.fal.webhooks import Composer
from serve_app.ingress.local_rpc import LocalRpcServer
from serve_app.ingress.services.lease_terms import CatalogLeaseTerms
from serve_app.ingress.services.webhooks import ComposeByMark, Webhooks
from serve_app.postgres.database import Database
from serve_app.queue.queue import PostgresQueue, assemble
from serve_app.queue.store.config import QueueLimits
from serve_app.queue.store.migrations import migrate
from serve_app.queue.transactions.signing_keys import PostgresSigningSeeds
from serve_app.queue.transactions.webhook_outbox import PostgresOutbox
from serve_app.storage.directory import DirectoryStorage
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.metrics import Metrics
from serve_app.tenants.key_ring import KeyRing
from serve_app.tenants.scopes import ADMIN, API
from tests.architecture.trace import ORIGIN, UPLOAD
from tests.fakes.lease_port import FakeLeasePort
from tests.fakes.liveness import FakeLiveness
from tests.ingress.house import build_house
from tests.queue.database import until_stopped
from training import shelf

DEMO = Path(__file__).parents[2] / "deployments" / "demo"
CATALOG = load(None, demo=True, demo_dir=DEMO, families=FAMILIES)
ENDPOINT = "fal-ai/flux/schnell"
STEPS = 2
LIMITS = QueueLimits(lease_s=300.0, first_lease_s=300.0)
BODY = {"prompt": "a red circle", "image_size": "square", "num_inference_steps": STEPS}


class Front(Ingress):
    """The methods that replicas call, without the constructor that Serve awaits."""

    def __init__(self, queue: PostgresQueue, tracing: Any = None) -> None:
        self._queue = queue
        self._rest = Rest()
        self._tracing = tracing
        self._metrics = Metrics(CollectorRegistry())

    def __del__(self) -> None:
        """Do nothing. The scene closes what it made."""


class Scene:
    """A running installation of one process. One slot: requests run one after another."""

    def __init__(
        self, client: httpx.AsyncClient, conninfo: str, start_replica: Callable[[], Any]
    ) -> None:
        self._client = client
        self._conninfo = conninfo
        self.start_replica = start_replica

    async def post(self) -> str:
        """Submit a request by fal's queue. Return its id."""
        return (await self.submit()).json()["request_id"]

    async def submit(self, webhook: str | None = None, **headers: str) -> httpx.Response:
        """Submit a request by fal's queue. Return the answer."""
        params = {} if webhook is None else {"fal_webhook": webhook}
        reply = await self._client.post(
            f"/queue/{ENDPOINT}", json=BODY, params=params, headers=headers
        )
        return reply.raise_for_status()

    async def count_successes(self) -> int:
        """Number of requests that succeeded. It is read without any function of ours."""
        async with await psycopg.AsyncConnection.connect(self._conninfo) as connection:
            rows = await connection.execute(
                "SELECT count(*) FROM requests WHERE state = 'succeeded'"
            )
            row = await rows.fetchone()
            return 0 if row is None else row[0]


@asynccontextmanager
async def scene(
    folder: Path, *, tracing: Any = None, report_interval_s: float = 60.0
) -> AsyncGenerator[Scene]:
    """``tracing``: of the ingress; then it also sends webhooks, to any address."""
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        postgres = EmbeddedPostgres(folder / "data", grace_s=0.5)
        # The server ends a while after its last user, and writes to the folder until then.
        stack.callback(until_stopped, ClusterFiles(folder / "data"))
        stack.push_async_callback(postgres.aclose)
        conninfo = await postgres.start()
        await migrate(conninfo)
        database = Database(conninfo)
        await database.start()
        stack.push_async_callback(database.aclose)
        listening = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        storage = DirectoryStorage(folder / "artifacts", b"k" * 32, url, clock)
        await storage.start()
        terms = CatalogLeaseTerms(CATALOG, storage, 10**8, files_url=url, names_secret=b"n" * 32)
        queue = assemble(database, clock, terms, LIMITS, FakeLiveness(), "ingress-1")
        queue.record_spans(tracing)
        await queue.start()
        stack.push_async_callback(queue.aclose)
        house = await stack.enter_async_context(
            build_house(
                catalog=CATALOG, storage=storage, replica=False, allow_private_webhooks=True
            )
        )
        own = Database(conninfo, connections=2)
        await own.start()
        stack.push_async_callback(own.aclose)
        keys = KeyRing(own, clock)
        key = await keys.create("default", scopes=frozenset({API, ADMIN}))
        services = house.services
        identity = replace(services.identity, keys=keys)
        services = replace(services, queue=queue, identity=identity, tracing=tracing)
        if tracing is not None:
            outbox = PostgresOutbox(database)
            files = services.files
            compose = ComposeByMark(Composer(queue, files), {}, files.access.signed_again)
            services.webhooks = Webhooks(
                *(queue, outbox, PostgresSigningSeeds(database), compose),
                *(services.config, clock, services.metrics, NameResolver()),
            )
            services.webhooks.record_spans(tracing)
            await services.webhooks.start()
            stack.push_async_callback(services.webhooks.aclose)
        house.app.state.services = services
        await stack.enter_async_context(_served(house.app, listening))
        rpc = LocalRpcServer(Front(queue, tracing), folder / "lines")
        await rpc.start()
        stack.push_async_callback(rpc.aclose)

        async def start_replica() -> None:
            await _start_replica(stack, folder, rpc.path, report_interval_s)

        headers = {"Authorization": f"Key {key}"}
        client = httpx.AsyncClient(base_url=url, headers=headers, timeout=60)
        stack.push_async_callback(client.aclose)
        yield Scene(client, conninfo, start_replica)


async def _start_replica(
    stack: AsyncExitStack, folder: Path, socket_path: str, report_interval_s: float
) -> None:
    config = ReplicaConfig(
        slots=1,
        threads=1,
        device="cpu",
        loras=LoraConfig(cache_dir=folder / "loras"),
        # What runs next is decided once a second, for requests that have waited a second. On a slow
        # machine a decision would reach every request.
        prefetch=False,
        # Reports are periodic and therefore not on the way. Leases are long enough without them.
        calls=IngressCalls(report_interval_s=report_interval_s, confirm_after_s=60.0),
    )
    clock, backoff = SystemClock(), Backoff(Random(1))  # noqa: S311

    async def where() -> str:
        return socket_path

    # The handle is used until the local connection is open; it has no work.
    port = LocalLeasePort(FakeLeasePort(ask_wait_s=0.1), where)
    identity = ReplicaIdentity("replica-1", "ab" * 16, "studio")
    replica = EngineReplica(
        IngressLink(port, identity, config.calls, clock, backoff),
        load_families(FAMILIES),
        lambda: make_resources(config, FAMILIES, clock, backoff),
        config,
        end_process=lambda: None,
    )
    stack.push_async_callback(port.aclose)
    stack.push_async_callback(replica.aclose)
    await replica.start()


def _marked(app: ASGIApp) -> ASGIApp:
    """``app``, with the origin ``UPLOAD`` for its PUT requests: only uploads use that method."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "PUT":
            ORIGIN.set(UPLOAD)
        await app(scope, receive, send)

    return call


@asynccontextmanager
async def _served(app: ASGIApp, listening: socket.socket) -> AsyncGenerator[None]:
    server = uvicorn.Server(uvicorn.Config(_marked(app), log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield
    server.should_exit = True
    await serving


def two_generations() -> None:
    """Two generations of the demo Flux in one engine, which merges their steps."""
    with Engine(shelf.take(DEMO / "flux"), threads=1) as engine:
        running = [
            engine.submit(
                prompt=prompt,
                width=64,
                height=64,
                num_inference_steps=12,
                generator=torch.Generator().manual_seed(number),
                output_type="pt",
            )
            for number, prompt in enumerate(["a red circle", "a blue star"])
        ]
        for generation in running:
            generation.result(120)
        if not engine.counts()["merged_calls"]:
            raise RuntimeError("The engine merged no step.")

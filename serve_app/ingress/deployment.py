"""The ingress as Serve creates it: everything that it stands on, started in order and closed in
reverse."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from psycopg_pool import AsyncConnectionPool
from ray import serve
from starlette.applications import Starlette

from serve_app.catalog.catalog import Catalog
from serve_app.catalog.catalog import load as load_catalog
from serve_app.domain.addresses import resolve
from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.domain.lease import (
    Ask,
    Demand,
    Finish,
    Held,
    Presence,
    Report,
    ReportReply,
    Verdict,
    Work,
)
from serve_app.domain.ports import Storage
from serve_app.domain.snapshot import StoredSnapshot
from serve_app.ingress import announcement, carrier
from serve_app.ingress.app import create_app
from serve_app.ingress.core import Core
from serve_app.ingress.disposal import Disposal
from serve_app.ingress.host_names import trusted_names
from serve_app.ingress.ids import RequestIds
from serve_app.ingress.internal import internal_origin
from serve_app.ingress.lines import Lines
from serve_app.ingress.one_node import OneNode
from serve_app.ingress.placement import Placement
from serve_app.ingress.pools import PoolMap
from serve_app.ingress.readiness import Readiness
from serve_app.ingress.replicate.webhook import Bodies
from serve_app.ingress.seats import HandleSessions
from serve_app.ingress.terms import CatalogTerms
from serve_app.ingress.uploads import Uploads
from serve_app.ingress.webhooks import Webhooks
from serve_app.loopback import keep_to_loopback
from serve_app.queue.database import CONNECT, Database
from serve_app.queue.embedded import EmbeddedPostgres
from serve_app.queue.leadership import Leadership
from serve_app.queue.lifecycles import PostgresLifecycles
from serve_app.queue.limits import QueueLimits
from serve_app.queue.migrations import check_applied, migrate
from serve_app.queue.outbox import PostgresOutbox
from serve_app.queue.postgres import PostgresQueue
from serve_app.queue.retention import Retention
from serve_app.queue.roster import roster
from serve_app.queue.shared_secret import shared_secret
from serve_app.queue.signing_seeds import PostgresSigningSeeds
from serve_app.queue.unwanted import Unwanted
from serve_app.queue.uploads import PostgresUploads
from serve_app.scaling.demand import DemandWriter
from serve_app.scaling.liveness import RayLiveness
from serve_app.settings import Config, Secrets
from serve_app.storage.choice import chosen as chosen_storage
from serve_app.storage.choice import s3_location
from serve_app.storage.disk import DiskGuard
from serve_app.storage.tickets import TicketSigner
from serve_app.telemetry import logs
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.metrics import Metrics, MetricsServer
from serve_app.tenants.first_key import ensure_first_key
from serve_app.tenants.keyring import KeyRing
from serve_app.tenants.tokens import Tokens
from serve_app.tenants.upload_tokens import UploadTokens

log = logging.getLogger(__name__)


class Ingress:
    """HTTP in, and the lease port of replicas. Serve's constructor is async, so it starts what it
    makes."""

    _closing: AsyncExitStack | None = None

    async def __init__(  # pyright: ignore[reportGeneralTypeIssues]  # Serve awaits it
        self, config: Config, pools: Sequence[Any]
    ) -> None:
        """``pools`` are their handles: binding them is what makes Serve deploy them."""
        self._sessions = HandleSessions({pool.deployment_name: pool for pool in pools})
        keep_to_loopback()
        logs.configure(config.log_level, logs.stream(config.log_file))
        logs.quiet_serve()
        carrier.tell_of_the_slow_one()
        self._config = config
        self._clock = SystemClock()
        self._metrics = Metrics(CollectorRegistry())
        await self.start()

    def __serve_build_asgi_app__(self) -> Starlette:
        app = create_app()
        app.state.core = self._core
        return app

    async def start(self) -> None:
        """Raises ``Misconfigured`` or ``Unavailable``, with everything closed that was started."""
        if self._closing is not None:
            return
        async with AsyncExitStack() as starting:
            try:
                await self._start(starting)
            except DarkroomError as error:
                log.error("The ingress cannot start. %s", error.message)
                raise
            except Exception:
                log.exception("The ingress cannot start.")
                raise
            self._closing = starting.pop_all()

    async def aclose(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            log.info("The ingress closes.")
            await closing.aclose()

    async def __del__(self) -> None:
        await self.aclose()

    # What replicas call. Serve gives the methods of a deployment no other form.

    async def line(self) -> str:
        """The socket at which this process takes the same calls, cheaper; empty: at none."""
        return self._lines.path

    async def announce(self, presence: Presence) -> None:
        await self._queue.announce(presence)

    async def ask(self, ask: Ask) -> Work:
        return await self._queue.ask(ask)

    async def report(self, report: Report) -> ReportReply:
        self._metrics.computed(report.pool, report.computed)
        return await self._queue.report(report)

    async def finish(self, finish: Finish) -> Verdict:
        return await self._queue.finish(finish)

    async def finish_all(self, finishes: Sequence[Finish]) -> Sequence[Verdict | BaseException]:
        """Each as if it had come alone; an error is the answer to its own."""
        calls = (self._queue.finish(each) for each in finishes)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [_portable(answer) for answer in answers]

    async def hand_back(
        self, held: Held, replica_id: str, reason: str, snapshot: StoredSnapshot | None = None
    ) -> Verdict:
        return await self._queue.hand_back(held, replica_id, reason, snapshot)

    async def _start(self, stack: AsyncExitStack) -> None:
        config, secrets = self._config, Secrets()
        catalog = load_catalog(
            config.models,
            demo=config.serves_demo,
            demo_dir=_demo_dir(),
            families=_hosted(config),
        )
        embedded = secrets.database_url is None
        one_node = OneNode(database=embedded, storage=s3_location(config, secrets) is None)
        await one_node.check()
        conninfo = await self._database_server(stack, secrets)
        await migrate(conninfo)
        database = Database(conninfo)
        await database.start()
        stack.push_async_callback(database.aclose)
        leadership = Leadership(conninfo)
        stack.push_async_callback(leadership.aclose)
        keys = await self._keys(stack, database, leadership, secrets)
        tokens = Tokens(await shared_secret(database, "tokens"), self._clock)
        origin = config.internal_url or internal_origin()
        storage = chosen_storage(
            config,
            secrets,
            await shared_secret(database, "upload_tickets"),
            origin,
            self._clock,
        )
        await storage.start()
        stack.push_async_callback(storage.aclose)
        retention = Retention.of(config)
        queue = self._queue = PostgresQueue(
            database,
            self._clock,
            CatalogTerms(
                catalog,
                storage,
                config.max_artifact_bytes,
                files_url=origin,
                names_secret=await shared_secret(database, "file_names"),
            ),
            QueueLimits.of(config),
            RayLiveness(sole_cluster=embedded),
            serve.get_replica_context().replica_id.unique_id,
            self._metrics,
            retention,
        )
        await queue.start()
        self._lines = Lines(self, config.data_dir / "lines")
        stack.push_async_callback(self._lines.aclose)
        stack.push_async_callback(queue.aclose)  # it answers the asks that wait at lines
        stack.push_async_callback(self._lines.leave)
        await self._lines.start()
        book = PostgresUploads(database, retention)
        lifecycles = PostgresLifecycles(database)
        disposal = Disposal(Unwanted(database), book, storage, lifecycles.expire)
        disposal.start()
        stack.push_async_callback(disposal.aclose)
        uploads = Uploads(book, storage, config.max_upload_bytes)
        upload_tokens = UploadTokens(await shared_secret(database, "upload_tokens"), self._clock)
        self._core = self._make_core(
            catalog,
            storage,
            storage.tickets,
            keys,
            tokens,
            database,
            one_node,
            lifecycles,
            uploads,
            upload_tokens,
        )
        stack.push_async_callback(self._core.background.join)
        await self._tell_demand(stack, leadership)
        await self._core.webhooks.start()
        stack.push_async_callback(self._core.webhooks.aclose)
        self._serve_metrics(stack)
        for line in announcement.lines(catalog):
            log.info("%s", line)

    async def _database_server(self, stack: AsyncExitStack, secrets: Secrets) -> str:
        if secrets.database_url is not None:
            return secrets.database_url.get_secret_value()
        postgres = EmbeddedPostgres(self._config.data_dir)
        stack.push_async_callback(postgres.aclose)
        return await postgres.start()

    async def _keys(
        self, stack: AsyncExitStack, database: Database, leadership: Leadership, secrets: Secrets
    ) -> KeyRing:
        # Keys are checked on every call: a pool of their own, so that a slow statement of the queue
        # keeps nobody out.
        pool = AsyncConnectionPool[Any](
            database.conninfo, kwargs=dict(CONNECT), min_size=1, max_size=2, open=False, name="keys"
        )
        await pool.open()
        stack.push_async_callback(pool.close)
        keys = KeyRing(pool, self._clock)
        given = secrets.api_key.get_secret_value() if secrets.api_key else None
        path = self._config.data_dir / "api_key"
        async with leadership.alone("first key"):
            if await ensure_first_key(keys, given, path) is not None:
                log.info("The first API key is in %s.", path)
        return keys

    def _make_core(
        self,
        catalog: Catalog,
        storage: Storage,
        tickets: TicketSigner | None,
        keys: KeyRing,
        tokens: Tokens,
        database: Database,
        one_node: OneNode,
        lifecycles: PostgresLifecycles,
        uploads: Uploads,
        upload_tokens: UploadTokens,
    ) -> Core:
        config, clock = self._config, self._clock

        async def reachable() -> None:
            await database.rows("SELECT 1 FROM requests LIMIT 1")

        checks = {
            "database": reachable,
            "migrations": partial(check_applied, database),
            "storage": storage.check,
            "nodes": one_node.check,
        }
        config.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Core(
            config=config,
            catalog=catalog,
            queue=self._queue,
            storage=storage,
            sessions=self._sessions,
            keys=keys,
            tokens=tokens,
            clock=clock,
            new_id=RequestIds(clock),
            pools=PoolMap(config.pools),
            readiness=Readiness(checks, clock),
            host_names=trusted_names(config.host, config.trusted_hosts),
            metrics=self._metrics,
            lifecycles=lifecycles,
            uploads=uploads,
            upload_tokens=upload_tokens,
            webhooks=Webhooks(
                self._queue,
                PostgresOutbox(database),
                PostgresSigningSeeds(database),
                Bodies(self._queue, storage, catalog),
                config,
                clock,
                self._metrics,
                resolve,
            ),
            tickets=tickets,
            room=DiskGuard(config.data_dir, config.min_free_disk_bytes, clock).check,
            replicas=lambda: roster(database),
            unplaceable=Placement(config.pools or {}).problems,
        )

    async def _tell_demand(self, stack: AsyncExitStack, leadership: Leadership) -> None:
        async def demand() -> Mapping[str, Demand]:
            now = await self._queue.demand()
            self._metrics.depth(now)
            return now

        pools = tuple(self._config.pools or {})
        writer = DemandWriter(str(self._config.data_dir), pools, demand, leadership)
        await writer.start()
        stack.push_async_callback(writer.aclose)

    def _serve_metrics(self, stack: AsyncExitStack) -> None:
        server = MetricsServer(self._metrics.registry, self._config.metrics_port)
        server.start()
        stack.callback(server.close)
        log.info("Prometheus metrics are at http://127.0.0.1:%d/metrics.", server.port)


def _hosted(config: Config) -> frozenset[str] | None:
    """The families that some pool hosts; None: every one."""
    if config.pools is None:
        return None
    return frozenset(family for pool in config.pools.values() for family in pool.families)


def _demo_dir() -> Path:
    """Where the demo models lie: in the data plane's package, which is found, not imported."""
    found = find_spec("deployments")
    if found is None or not found.submodule_search_locations:
        raise Misconfigured("The package `deployments` is not installed beside `serve_app`.")
    return Path(next(iter(found.submodule_search_locations))) / "demo"


def _portable(answer: Verdict | BaseException) -> Verdict | BaseException:
    """One answer that cannot be pickled would take the others with it."""
    if isinstance(answer, (Verdict, DarkroomError)):
        return answer
    return DarkroomError(f"Unexpected {type(answer).__name__}: {answer}")

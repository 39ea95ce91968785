"""Ingress deployment: starts all parts in order and closes them in reverse."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from ray import serve
from starlette.applications import Starlette

from serve_app import preflight
from serve_app.catalog.catalog import Catalog
from serve_app.diagnosis.checks import ingress_checks
from serve_app.domain.errors import DarkroomError
from serve_app.domain.executors.comfyui import ComfyUiNodes
from serve_app.domain.lease import Demand, Liveness
from serve_app.domain.name_resolution import NameResolver
from serve_app.domain.ports import Storage
from serve_app.domain.rest import Rest
from serve_app.domain.sharing.admission import AdmissionControl
from serve_app.ingress import connections, direct_calls
from serve_app.ingress.app import create_app
from serve_app.ingress.fal.webhooks import Composer
from serve_app.ingress.http.hosts import trusted_names
from serve_app.ingress.http.origin import internal_origin
from serve_app.ingress.local_rpc import LocalRpcServer
from serve_app.ingress.realtime.replicas import HandleSessions
from serve_app.ingress.replica_calls import ExecutorCalls, ReplicaCalls, start_tracing
from serve_app.ingress.replicate.prediction import PredictionRenderer
from serve_app.ingress.replicate.webhooks import MARK, PredictionComposer
from serve_app.ingress.services.audit import AuditTrail
from serve_app.ingress.services.file_access import FileDefaults
from serve_app.ingress.services.file_collector import (
    COLLECT_INTERVAL_S,
    FileCollector,
    FileDeletion,
)
from serve_app.ingress.services.files import Files, UploadLimits, Uploads
from serve_app.ingress.services.followed import share_changes
from serve_app.ingress.services.health import (
    Examination,
    Health,
    PlacementCheck,
    Readiness,
    SingleNodeCheck,
    alive_node_ids,
)
from serve_app.ingress.services.hosted_jobs import HostedJobEnding
from serve_app.ingress.services.lease_terms import CatalogLeaseTerms, FilePolicy, Places
from serve_app.ingress.services.live_catalog import LiveCatalog
from serve_app.ingress.services.live_settings import LiveSettings, bounds_of
from serve_app.ingress.services.pool_map import PoolMap
from serve_app.ingress.services.preflights import HUB_S, Preflights
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.ingress.services.served_catalog import startup_lines
from serve_app.ingress.services.services import Identity, Services
from serve_app.ingress.services.sign_in import provider_of
from serve_app.ingress.services.warm_pools import WarmPools
from serve_app.ingress.services.webhooks import ComposeByMark, Webhooks
from serve_app.ingress.submission.shadows import CopyDeletion
from serve_app.jobs.jobs import JobHandler
from serve_app.jobs.postgres import PostgresJobs
from serve_app.postgres.comfyui import PostgresComfyUiBook
from serve_app.postgres.database import Database
from serve_app.postgres.hosted_calls import PostgresHostedCalls
from serve_app.postgres.installation import shared_secret
from serve_app.postgres.leader_election import LeaderElection
from serve_app.postgres.live_settings import PostgresLiveSettings
from serve_app.postgres.weight_peers import PostgresWeightPeers
from serve_app.queue.queue import assemble
from serve_app.queue.state.demand import of_queues
from serve_app.queue.state.replicas import roster
from serve_app.queue.store.config import QueueLimits, Retention
from serve_app.queue.store.migrations import check_applied
from serve_app.queue.transactions.catalog_entries import PostgresAppBundles, PostgresCatalogEntries
from serve_app.queue.transactions.deletion import PostgresLifecycles
from serve_app.queue.transactions.lease import ExecutorLeases
from serve_app.queue.transactions.signing_keys import PostgresSigningSeeds
from serve_app.queue.transactions.unwanted_files import UnwantedFiles
from serve_app.queue.transactions.uploads import PostgresUploads
from serve_app.queue.transactions.webhook_outbox import PostgresOutbox
from serve_app.queue.workflows.book import PostgresWorkflowDefinitions
from serve_app.registry.postgres import PostgresWeightBook
from serve_app.resources.postgres_table import PostgresTables
from serve_app.scaling.clusters import ClusterShare
from serve_app.scaling.demand import DemandWriter, cluster_id, publish_bounds, read_targets
from serve_app.scaling.liveness import RayActorTable, RayLiveness
from serve_app.serve_grpc import prepare_calls, reachable_address
from serve_app.settings import Config, Secrets
from serve_app.storage.disk_guard import DiskGuard
from serve_app.storage.measured import MeasuredStorage
from serve_app.storage.selection import s3_location
from serve_app.telemetry import logs
from serve_app.telemetry.clock import SystemClock
from serve_app.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serve_app.storage.tickets import TicketSigner

log = logging.getLogger(__name__)

BODIES = 16
"""Bodies of the largest size that the memory for bodies has space for."""
YOUNG_OBJECTS = 10_000
"""Objects that are made, and not freed, before Python looks for reference cycles among them.

Calls leave hardly any cycles. With Python's 700, the looks took 0.13 ms of CPU for each run.
"""


class Ingress(ReplicaCalls):
    """HTTP server, and lease port of the replicas. Serve awaits the constructor, so it also starts
    what it creates."""

    _closing: AsyncExitStack | None = None

    async def __init__(  # Serve awaits it
        self, config: Config, pools: Sequence[Any], config_file: Path | None = None
    ) -> None:
        """``pools``: handles of the worker pools in the same application. Binding them makes Serve
        deploy them. ``config_file``: file with the live settings; None: they are in ``config``."""
        self._sessions = HandleSessions({pool.deployment_name: pool for pool in pools})
        prepare_calls()
        told = config.telemetry
        logs.configure(told.log_level, logs.stream(told.log_file), told.log_format)
        logs.quiet_serve()
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
        connections.log_slow_proxy()
        self._config = config
        self._settings = LiveSettings(config, config_file)
        self._clock = SystemClock()
        self._rest = Rest(self._clock.monotonic)
        self._metrics = Metrics(CollectorRegistry())
        self._metrics.watch_configuration(lambda: self._settings.has_problem)
        self._loop = asyncio.get_running_loop()
        await self.start()

    def __serve_build_asgi_app__(self) -> Starlette:
        app = create_app()
        app.state.services = self._services
        direct_calls.register(app, self._loop)
        return app

    async def start(self) -> None:
        """Start everything. On ``Misconfigured`` or ``Unavailable``, close what was started."""
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

    async def _start(self, stack: AsyncExitStack) -> None:
        self._tracing = await start_tracing(
            stack,
            self._clock,
            self._metrics,
            names_tenants=self._config.telemetry.trace_tenants,
        )
        secrets = Secrets()
        embedded = secrets.database_url is None
        self._internal_url = self._config.server.internal_url or await asyncio.to_thread(
            internal_origin
        )
        one_node = SingleNodeCheck(
            database=embedded, storage=s3_location(self._config, secrets) is None
        )
        await one_node.check()
        database = await connections.open_database(stack, self._config, secrets, self._metrics)
        self._weight_peers = PostgresWeightPeers(database)
        actors = RayActorTable()
        liveness = RayLiveness(
            actors, self._clock, sole_cluster=embedded, cluster=await cluster_id()
        )
        self._processes = await connections.open_process_log(
            database, liveness, actors.alive, embedded=embedded
        )
        kept = PostgresLiveSettings(database)
        self._file_config = await self._settings.first(kept)
        self._tenants = await connections.open_tenants(database, self._clock, self._config)
        config = self._config = self._tenants.merge_limits(self._file_config)
        await publish_bounds(str(config.server.data_dir), bounds_of(config))
        catalog = Catalog({})
        self._weights = PostgresWeightBook(database)
        self._tables = PostgresTables(database)
        self._secrets = await connections.open_secrets(database, self._tables)
        self._catalog = LiveCatalog(
            PostgresCatalogEntries(database),
            config,
            catalog,
            self._weights,
            PostgresWorkflowDefinitions(database),
        )
        await self._catalog.use(config)
        election = LeaderElection(
            database, self._clock, serve.get_replica_context().replica_id.unique_id
        )
        stack.push_async_callback(election.aclose)
        identity = await connections.open_identity(
            stack,
            database,
            election,
            config,
            secrets,
            self._clock,
            self._metrics,
            self._tenants,
        )
        stored = await connections.open_storage(
            stack, database, self._config, secrets, self._internal_url, self._clock
        )
        storage = MeasuredStorage(stored, self._metrics)
        self._safety = await asyncio.to_thread(config.safety.policy)
        self._signer = await connections.open_signer(
            database, self._config, secrets, self._clock, self._metrics
        )
        self._access = await connections.open_file_access(
            stack, database, election, config, self._clock, self._metrics, self._rest
        )
        await self._start_queue(stack, database, catalog, storage, liveness)
        files = self._start_files(stack, database, election, storage, stored.tickets)
        self._placement = PlacementCheck(config.models.pools or {})
        warm = self._warm_pools(catalog, election)
        self._services = self._make_services(
            catalog, database, files, identity, one_node, warm, secrets
        )
        warm.start(self._rest)
        stack.push_async_callback(warm.aclose)
        for service in (self._services.audit, self._services.open_access):
            service.start()
            stack.push_async_callback(service.aclose)
        stack.push_async_callback(self._services.background.join)
        await self._publish_demand(stack, database, election)
        self._start_helpers(stack)
        await self._start_workers(stack, database, election)
        await connections.follow_pools(stack, self._services, election, database)
        await connections.follow_processes(stack, self._processes, self._services, election)
        self._show_bounds(self._config)
        connections.serve_metrics(stack, self._config, self._metrics)
        config.address_file.write_text(json.dumps({"url": self._internal_url}))
        self._follow_settings(stack, kept)
        for line in startup_lines(catalog):
            log.info("%s", line)

    def _start_helpers(self, stack: AsyncExitStack) -> None:
        stats, meter = self._queue.parts.state.stats, self._metrics.queue
        connections.explain_waits(stack, stats, self._placement, meter, self._rest)
        self._services.webhooks.record_spans(self._tracing)

    async def _start_workers(
        self, stack: AsyncExitStack, database: Database, election: LeaderElection
    ) -> None:
        await connections.start_workers(stack, self._services, election)
        handlers: list[JobHandler] = [
            FileDeletion(UnwantedFiles(database), self._services.files.storage),
            connections.weight_jobs(stack, self._services),
            self._queue.parts.deletions,
            CopyDeletion(self._services),
            self._hosted,
            self._services.webhooks.notices,
        ]
        jobs, meter = self._services.jobs, self._metrics.queue
        connections.start_jobs(stack, jobs, handlers, meter, self._rest)

    def _follow_settings(self, stack: AsyncExitStack, kept: PostgresLiveSettings) -> None:
        """Follow what changes while it serves: tenants, live settings and entries."""
        self._tenants.start(self._apply_limits, self._rest)
        self._settings.start(kept, self._apply)
        self._catalog.on_change = self._apply_limits
        self._catalog.follow(self._rest)
        followed = (self._tenants, self._access, self._catalog)
        share_changes(self._queue.parts.state.notifier, followed)
        for follower in (self._tenants, self._settings, self._catalog):
            stack.push_async_callback(follower.aclose)

    async def _apply(self, config: Config) -> None:
        """Put changed live settings in force. ``Misconfigured``: none are."""
        await self._catalog.use(config)
        pools = config.models.pools or {}
        self._file_config = config
        self._apply_limits()
        self._services.pools = PoolMap(pools)
        self._disk.limits = config.limits
        self._placement.pools = pools
        self._demand.pools = tuple(pools)
        self._show_bounds(config)
        await publish_bounds(str(config.server.data_dir), bounds_of(config))

    def _apply_limits(self) -> None:
        """Put the limits of the settings in force, with those that operators have set."""
        config = self._config = self._tenants.merge_limits(self._file_config)
        self._services.config, self._services.file_config = config, self._file_config
        bases = self._services.catalog.bases
        self._limits.become(QueueLimits.of(config, self._tenants.disabled, bases))
        self._retention.become(Retention.of(config))
        self._upload_limits.become(UploadLimits.of(config))
        self._access.defaults.become(FileDefaults.of(config))

    async def _start_queue(
        self,
        stack: AsyncExitStack,
        database: Database,
        catalog: Catalog,
        storage: Storage,
        liveness: Liveness,
    ) -> None:
        config = self._config
        self._limits = QueueLimits.of(config, self._tenants.disabled, catalog.bases)
        self._retention = Retention.of(config)
        self._upload_limits = UploadLimits.of(config)
        terms = CatalogLeaseTerms(
            catalog,
            storage,
            config.limits.max_artifact_bytes,
            files_url=self._internal_url,
            files=FilePolicy.of(config, self._safety, self._signer.chain, self._access.signer),
            names_secret=await shared_secret(database, "file_names"),
            places=Places(self._upload_limits.location_of, self._tenants.locations),
            refresh=self._catalog.refresh,
        )
        queue = self._queue = assemble(
            database,
            self._clock,
            terms,
            self._limits,
            liveness,
            serve.get_replica_context().replica_id.unique_id,
            self._metrics.queue,
            self._retention,
            await connections.open_reads(stack, database, self._metrics),
            self._rest,
        )
        bundles = self._bundles = PostgresAppBundles(database)
        self._comfyui = PostgresComfyUiBook(database)
        self._jobs = PostgresJobs(database)
        hosted = PostgresHostedCalls(database)
        self._executor_calls = ExecutorCalls(
            terms,
            bundles,
            queue,
            queue.partials,
            ExecutorLeases(database),
            self._secrets,
            hosted,
            self._comfyui,
        )
        self._hosted = HostedJobEnding(hosted, terms.endpoint, self._secrets)
        queue.record_spans(self._tracing)
        self._sessions.ran_in = queue.parts.state.stats.ran_in
        await queue.start()
        host = await asyncio.to_thread(reachable_address)
        self._lines = LocalRpcServer(self, config.server.data_dir / "lines", host)
        stack.push_async_callback(self._lines.aclose)
        stack.push_async_callback(queue.aclose)  # it answers the lease polls that wait at lines
        stack.push_async_callback(self._lines.stop_accepting)
        await self._lines.start()

    def _start_files(
        self,
        stack: AsyncExitStack,
        database: Database,
        election: LeaderElection,
        storage: Storage,
        tickets: TicketSigner | None,
    ) -> Files:
        config = self._config
        book = PostgresUploads(database, self._retention)
        lifecycles = PostgresLifecycles(database)
        expire = election.on_leader("file lifetimes", COLLECT_INTERVAL_S, lifecycles.expire)
        collector = FileCollector(book, storage, expire, self._metrics.queue)
        collector.start()
        stack.push_async_callback(collector.aclose)
        config.server.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        guard = self._disk = DiskGuard(config.server.data_dir, config.limits, self._clock)
        if tickets is not None:
            tickets.least_free = lambda: guard.least_for_artifacts
        return Files(
            storage=storage,
            uploads=Uploads(
                book, storage, self._upload_limits, self._access, metrics=self._metrics
            ),
            access=self._access,
            lifecycles=lifecycles,
            tickets=tickets,
            check_disk_space=guard.check,
            check_disk_for_upload=guard.check_for_upload,
            check_disk_for_artifact=guard.check_for_artifact,
        )

    def _make_services(
        self,
        catalog: Catalog,
        database: Database,
        files: Files,
        identity: Identity,
        one_node: SingleNodeCheck,
        warm: WarmPools,
        secrets: Secrets,
    ) -> Services:
        config, clock = self._config, self._clock
        compose = ComposeByMark(
            Composer(self._queue, files),
            {MARK: PredictionComposer(self._queue, PredictionRenderer(files))},
            files.access.signed_again,
        )
        preflights = Preflights(
            partial(preflight.downloads, config, within_s=HUB_S),
            partial(preflight.this_machine, config),
            lambda: len(alive_node_ids()),
            clock,
        )
        return Services(
            config=config,
            file_config=self._file_config,
            host_names=trusted_names(
                config.server.host, (*config.server.trusted_hosts, config.models.comfyui_host)
            ),
            catalog=catalog,
            entries=self._catalog,
            bundles=self._bundles,
            comfyui=ComfyUiNodes(self._comfyui, clock),
            partials=self._queue.partials,
            pools=PoolMap(config.models.pools),
            queue=self._queue,
            files=files,
            identity=identity,
            sessions=self._sessions,
            webhooks=Webhooks(
                self._queue,
                PostgresOutbox(database),
                PostgresSigningSeeds(database),
                compose,
                config,
                clock,
                self._metrics,
                NameResolver(),
            ),
            tracing=self._tracing,
            health=self._health(database, files.storage, one_node, preflights, secrets),
            preflights=preflights,
            clock=clock,
            admission=AdmissionControl(clock, BODIES * config.limits.max_body_bytes),
            new_id=RequestIds(clock),
            metrics=self._metrics,
            rest=self._rest,
            audit=AuditTrail(
                self._queue.operations, clock, self._metrics.queue, config.audit_anchor_file
            ),
            warm=warm,
            weights=self._weights,
            tables=self._tables,
            jobs=self._jobs,
            secrets=self._secrets,
            safety=self._safety,
            proxy_secret=connections.text_of(secrets.proxy_secret),
        )

    def _warm_pools(self, catalog: Catalog, election: LeaderElection) -> WarmPools:
        return WarmPools(
            self._queue.operations,
            self._queue.parts.state.kept_weights,
            lambda: self._services.pools,  # replaced when live settings change
            catalog,
            self._clock,
            election,
            self._metrics.queue,
        )

    def _health(
        self,
        database: Database,
        storage: Storage,
        one_node: SingleNodeCheck,
        preflights: Preflights,
        secrets: Secrets,
    ) -> Health:
        checks = {
            "database": database.check,
            "migrations": partial(check_applied, database),
            "storage": storage.check,
            "nodes": one_node.check,
        }
        return Health(
            readiness=Readiness(
                checks,
                self._clock,
                submits={"disk": self._disk.check},
                notices={"configuration": self._settings.check},
            ),
            replicas=lambda: roster(database),
            events=self._processes.events,
            placement_problems=self._placement.problems,
            targets=partial(read_targets, str(self._config.server.data_dir)),
            examination=Examination(
                lambda: [
                    ("configuration file", self._settings.examine),
                    ("real models", lambda: preflights.summary(self._services.catalog)),
                    *ingress_checks(
                        self._config,
                        secrets,
                        lambda: provider_of(self._config, secrets, self._clock),
                    ),
                ]
            ),
        )

    async def _publish_demand(
        self, stack: AsyncExitStack, database: Database, election: LeaderElection
    ) -> None:
        async def demand() -> Mapping[str, Demand]:
            now = await self._queue.demand()
            self._metrics.queue.depth(now)
            warm, pools = self._services.warm.replicas(), self._demand.pools
            targets = await read_targets(scope, pools)
            self._metrics.queue.scaling(targets, {pool: warm.get(pool, 0) for pool in pools})
            return of_queues(now, self._limits.overflow)

        scope = str(self._config.server.data_dir)
        pools = tuple(self._config.models.pools or {})
        share = ClusterShare(database, election, await cluster_id(), self._queue.running_on)
        writer = self._demand = DemandWriter(
            scope, pools, demand, share, self._services.warm.replicas
        )
        await writer.start(self._rest)
        stack.push_async_callback(writer.aclose)

    def _show_bounds(self, config: Config) -> None:
        pools = bounds_of(config)
        self._metrics.queue.pools(
            {name: (bounds.least, bounds.most) for name, bounds in pools.items()}
        )

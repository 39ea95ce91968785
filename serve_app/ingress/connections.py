"""Connections that an ingress process opens before it serves, and closes at its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import shutil
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec

import ray
from pydantic import SecretStr
from ray import serve
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.domain.executors.secrets import HUB_TOKEN
from serve_app.domain.lease import Liveness
from serve_app.domain.ports import Clock
from serve_app.domain.rest import Rest
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.openai.batches.worker import EVERY_S, LEADS_EVERY_S, BatchWorker
from serve_app.ingress.services.file_access import FileAccessControl, FileDefaults
from serve_app.ingress.services.health import PlacementCheck
from serve_app.ingress.services.live_tenants import LiveTenants
from serve_app.ingress.services.pool_changes import PoolChanges
from serve_app.ingress.services.services import Identity, Services
from serve_app.ingress.services.sign_in import sign_in_of
from serve_app.ingress.services.weight_jobs import WeightJobs
from serve_app.ingress.submission import shadows
from serve_app.ingress.submission.shadows import ShadowWorker
from serve_app.ingress.workflows import worker as workflows
from serve_app.ingress.workflows.worker import WorkflowWorker
from serve_app.jobs.jobs import JobHandler, Jobs
from serve_app.jobs.worker import JobWorker
from serve_app.periodic_task import PeriodicTask
from serve_app.postgres import fair_reads
from serve_app.postgres.database import Database, wait_until_reachable
from serve_app.postgres.file_access import PostgresFileAccess
from serve_app.postgres.file_places import difference, record_places
from serve_app.postgres.installation import shared_secret
from serve_app.postgres.leader_election import LeaderElection
from serve_app.provenance.certificates import (
    CERTIFICATES_FILE,
    local_identity,
    operators_identity,
    problems,
)
from serve_app.provenance.signer import ClaimSigner
from serve_app.queue.processes import IngressProcess, ProcessLog
from serve_app.queue.state.stats import QueueStats
from serve_app.queue.store.diagnostics import check_durability
from serve_app.queue.store.migrations import migrate
from serve_app.queue.transactions.lease import is_held
from serve_app.resources.secrets import SECRETS, SecretBook
from serve_app.resources.table import Tables
from serve_app.scaling.clusters import led_pools
from serve_app.scaling.demand import cluster_id
from serve_app.settings import Config, Secrets
from serve_app.storage.selection import AnyStorage, create_storage, file_places, location_ids
from serve_app.storage.signed_urls import FileUrlSigner
from serve_app.telemetry.metrics import Metrics, MetricsServer
from serve_app.telemetry.queue_metrics import QueueMeter
from serve_app.telemetry.version import package_version
from serve_app.tenants.deletions import PostgresTenantDeletions
from serve_app.tenants.first_key import ensure_first_key
from serve_app.tenants.key_ring import KeyRing
from serve_app.tenants.tenants import PostgresTenants
from serve_app.tenants.tokens import StreamTokens, Tokens, UploadTokens

log = logging.getLogger(__name__)

KEYS_LIMIT_S = 5.0
"""Limit of a statement about keys, which every call waits for."""
USES_EVERY_S = 60.0
"""How often the keys that were used are written."""
FORGET_REVOKED_EVERY_S = 120.0
"""Well below the ten minutes after which the alert PeriodicTaskStands takes a task for dead."""
FOLLOWER_WAITS_S = 1.0
POOLS_EVERY_S = 10.0
"""How often requests are looked for whose pool is gone."""


PROCESSES_EVERY_S = 2.0
"""How often new starts and ends of processes are looked for."""


async def open_database(
    stack: AsyncExitStack, config: Config, secrets: Secrets, metrics: Metrics
) -> Database:
    """Connections of the queue, with migrated tables."""
    conninfo = await _open_server(stack, config, secrets)
    await wait_until_reachable(conninfo)
    await migrate(conninfo)
    database = Database(conninfo, metrics=metrics.database.of("queue"))
    await database.start()
    stack.push_async_callback(database.aclose)
    if secrets.database_url is not None:
        await check_durability(database)
    return database


async def _open_server(stack: AsyncExitStack, config: Config, secrets: Secrets) -> str:
    """Connection string of the operator's database, or of the embedded one, which is started."""
    if secrets.database_url is not None:
        return secrets.database_url.get_secret_value()
    postgres = EmbeddedPostgres(config.server.data_dir)
    stack.push_async_callback(postgres.aclose)
    return await postgres.start()


async def open_reads(stack: AsyncExitStack, database: Database, metrics: Metrics) -> Database:
    """Connections for what may take seconds, so that it does not keep the queue waiting."""
    reads = Database(
        database.conninfo,
        fair_reads.CONNECTIONS,
        fair_reads.READ_LIMIT_S,
        metrics.database.of("reads"),
    )
    await reads.start()
    stack.push_async_callback(reads.aclose)
    return reads


async def open_tenants(database: Database, clock: Clock, config: Config) -> LiveTenants:
    """Limits of tenants that operators have set. Their owner starts and closes them."""
    locations = await asyncio.to_thread(location_ids, config, Secrets())
    stored, deletions = PostgresTenants(database, clock), PostgresTenantDeletions(database, clock)
    tenants = LiveTenants(stored, deletions, locations)
    await tenants.refresh()
    return tenants


async def start_workers(
    stack: AsyncExitStack, services: Services, election: LeaderElection
) -> None:
    """Send webhooks, and run batches, workflows and copies while this process leads."""
    await services.webhooks.start(services.rest)
    stack.push_async_callback(services.webhooks.aclose)
    worker, every_s = BatchWorker(services), LEADS_EVERY_S
    for name, work in (
        ("validate_batches", worker.validate),
        ("run_batches", worker.advance_often),
    ):
        led = election.on_leader(name, every_s, work)
        task = PeriodicTask(EVERY_S, {name: led}, services.metrics.queue)
        task.start(services.rest)
        stack.push_async_callback(task.aclose)
    copies = election.on_leader(
        "copy_requests", shadows.LEADS_EVERY_S, ShadowWorker(services).advance
    )
    task = PeriodicTask(shadows.EVERY_S, {"copy_requests": copies}, services.metrics.queue)
    task.start(services.rest)
    stack.push_async_callback(task.aclose)
    flows = WorkflowWorker(services)
    for name, period_s, work in (
        ("run_workflows", workflows.EVERY_S, flows.advance),
        ("tidy_workflows", workflows.TIDY_EVERY_S, flows.tidy),
    ):
        led = election.on_leader(name, workflows.LEADS_EVERY_S, work)
        task = PeriodicTask(period_s, {name: _patient(led)}, services.metrics.queue)
        task.start(services.rest)
        stack.push_async_callback(task.aclose)


async def follow_pools(
    stack: AsyncExitStack, services: Services, election: LeaderElection, database: Database
) -> None:
    """Move what is queued in pools that are gone, while this process leads its cluster: another
    cluster has other pools."""
    cluster = await cluster_id()
    changes = PoolChanges(services, cluster, partial(led_pools, database))
    led = election.on_leader(f"pools/{cluster}", POOLS_EVERY_S, changes.look)
    task = PeriodicTask(POOLS_EVERY_S, {"follow_pools": led}, services.metrics.queue)
    task.start()
    stack.push_async_callback(task.aclose)


async def open_process_log(
    database: Database, liveness: Liveness, alive: Callable[[], frozenset[str]], *, embedded: bool
) -> ProcessLog:
    """Log of the starts and ends of processes. ``alive``: ids of this cluster's living actors.
    ``embedded``: the database has one Ray cluster at a time."""
    return ProcessLog(database, liveness, alive, "" if embedded else await cluster_id())


async def follow_processes(
    stack: AsyncExitStack, processes: ProcessLog, services: Services, election: LeaderElection
) -> None:
    """Write the start of this ingress and its end, and what else starts and ends while this process
    leads its cluster."""
    context = ray.get_runtime_context()
    own = IngressProcess(
        context.get_actor_id() or "",
        serve.get_replica_context().replica_id.unique_id,
        await asyncio.to_thread(ray.util.get_node_ip_address),
        package_version(),
    )
    await processes.record_start(own)
    stack.push_async_callback(processes.record_stop, own)
    led = election.on_leader(f"processes/{await cluster_id()}", PROCESSES_EVERY_S, processes.look)
    task = PeriodicTask(PROCESSES_EVERY_S, {"follow_processes": led}, services.metrics.queue)
    task.start(services.rest)
    stack.push_async_callback(task.aclose)


def _patient(led: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
    """``led`` for short periods: a process that does not lead asks once a second, not each time."""

    async def work() -> bool:
        done = await led()
        if not done:
            await asyncio.sleep(FOLLOWER_WAITS_S)
        return done

    return work


async def open_identity(
    stack: AsyncExitStack,
    database: Database,
    election: LeaderElection,
    config: Config,
    secrets: Secrets,
    clock: Clock,
    metrics: Metrics,
    tenants: LiveTenants,
) -> Identity:
    """Credentials of callers. Makes the first API key if there is none.

    Keys are checked on every call. They have connections of their own, so that a slow statement of
    the queue delays no call.
    """
    own = Database(database.conninfo, 2, KEYS_LIMIT_S, metrics.database.of("keys"))
    await own.start()
    stack.push_async_callback(own.aclose)
    keys = KeyRing(own, clock)
    path = config.server.data_dir / "api_key"
    async with election.exclusive("first key"):
        api_key = text_of(secrets.api_key) or None
        if await ensure_first_key(keys, api_key, path, clock.now()) is not None:
            log.info("The first API key was written to %s.", path)
    uses = PeriodicTask(USES_EVERY_S, {"key uses": keys.write_uses}, metrics.queue)
    uses.start()
    stack.push_async_callback(_last_uses, keys)
    stack.push_async_callback(uses.aclose)
    secret = await shared_secret(database, "tokens")
    return Identity(
        keys,
        Tokens(secret, clock),
        UploadTokens(await shared_secret(database, "upload_tokens"), clock),
        StreamTokens(secret, clock),
        tenants,
        sign_in_of(config, secrets, await shared_secret(database, "sign_ins"), clock),
    )


async def _last_uses(keys: KeyRing) -> None:
    with contextlib.suppress(DarkroomError):
        await keys.write_uses()


async def open_storage(
    stack: AsyncExitStack,
    database: Database,
    config: Config,
    secrets: Secrets,
    internal_url: str,
    clock: Clock,
) -> AnyStorage:
    """Storage of artifacts. ``internal_url``: at which replicas reach this process."""
    secret = await shared_secret(database, "upload_tickets")
    storage = create_storage(config, secrets, secret, internal_url, clock)
    await storage.start()
    stack.push_async_callback(storage.aclose)
    places = await asyncio.to_thread(file_places, config, secrets)
    if moved := difference(await record_places(database, places), places):
        log.warning("%s The settings are used now. Move the files, if you have not.", moved)
    return storage


async def open_file_access(
    stack: AsyncExitStack,
    database: Database,
    election: LeaderElection,
    config: Config,
    clock: Clock,
    metrics: Metrics,
    rest: Rest,
) -> FileAccessControl:
    """Access to private files. Reads what is revoked, and follows it."""
    signer = FileUrlSigner(await shared_secret(database, "file_urls"), clock)
    book = PostgresFileAccess(database)
    access = FileAccessControl(book, signer, FileDefaults.of(config), clock)
    await access.start(rest)
    stack.push_async_callback(access.aclose)
    forget = election.on_leader("revoked URLs", FORGET_REVOKED_EVERY_S, book.forget)
    rounds = PeriodicTask(FORGET_REVOKED_EVERY_S, {"forget_revoked_urls": forget}, metrics.queue)
    rounds.start()
    stack.push_async_callback(rounds.aclose)
    return access


def text_of(secret: SecretStr | None) -> str:
    """Value of a secret; empty if it is not set."""
    return "" if secret is None else secret.get_secret_value()


async def open_signer(
    database: Database, config: Config, secrets: Secrets, clock: Clock, metrics: Metrics
) -> ClaimSigner:
    """Signer of files. Writes its certificates to the data directory, for ``darkroom verify``.

    ``Misconfigured``: files are to be signed, and cannot be.
    """
    identity = None
    if config.provenance.sign_files != "off":
        if find_spec("c2pa") is None:
            raise Misconfigured(
                "DARKROOM_SIGN_FILES needs the package c2pa-python, which is not installed. "
                "Install Darkroom with its extra `c2pa`, on every node."
            )
        if config.provenance.sign_files == "local":
            identity = local_identity(await shared_secret(database, "file_signing"))
        else:
            identity = await asyncio.to_thread(
                operators_identity,
                config.provenance.signing_certificate,
                text_of(secrets.signing_key),
            )
        for problem in problems(identity, clock.now()):
            log.warning("%s", problem)
        path = config.server.data_dir / CERTIFICATES_FILE
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(path.write_text, identity.chain)
    return ClaimSigner(identity, partial(is_held, database), metrics.file_signed, clock.now)


METRICS_RETRY_S = 5.0


def serve_metrics(
    stack: AsyncExitStack, config: Config, metrics: Metrics, retry_s: float = METRICS_RETRY_S
) -> None:
    """Serve the process's metrics on their own port.

    While it is taken, the ingress serves without: at a redeployment, the replica before has the
    port until its last calls have ended, and Serve gives up an ingress that fails to start a few
    times. The port is tried again every ``retry_s``.
    """
    telemetry, directory = config.telemetry, config.server.data_dir
    metrics.set_build_info(package_version(), platform.python_version())
    metrics.watch_disk(lambda: shutil.disk_usage(directory).free)
    server = MetricsServer(
        metrics.registry,
        telemetry.metrics_port,
        telemetry.metrics_host,
        config.server.ingress_replicas,
    )
    stack.callback(server.close)

    async def open_port() -> None:
        if not server.port and server.start():
            _log_metrics(server, telemetry.metrics_host)

    if server.start():
        _log_metrics(server, telemetry.metrics_host)
        return
    log.warning(
        "The metrics %s is taken, so Prometheus does not see this process yet. It is tried again "
        "until it is free. If no earlier ingress is ending there, set DARKROOM_METRICS_PORT to a "
        "free port, or to 0 for any free port.",
        server.address_text,
    )
    task = PeriodicTask(retry_s, {"metrics port": open_port})
    task.start()
    stack.push_async_callback(task.aclose)


def _log_metrics(server: MetricsServer, host: str) -> None:
    log.info("Prometheus metrics are at http://%s:%d/metrics.", host, server.port)


def log_slow_proxy() -> None:
    """Log a hint if Ray was started with its slow Python proxy, as a bare `serve run` does."""
    if not RAY_SERVE_ENABLE_HA_PROXY:
        log.info(
            "Ray's Python proxy carries the HTTP traffic. HAProxy carries about five times as "
            "much: set RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_THROUGHPUT_OPTIMIZED=1 before "
            "Ray starts (`darkroom serve` does)."
        )


async def open_secrets(database: Database, tables: Tables) -> SecretBook:
    return SecretBook(tables.of(SECRETS), await shared_secret(database, "secrets"))


def weight_jobs(stack: AsyncExitStack, services: Services) -> WeightJobs:
    """Handler of the jobs about weights that tenants register."""

    async def token_of(tenant: str) -> str | None:
        for secret in await services.secrets.read(tenant, [HUB_TOKEN]):
            if secret.owner == tenant:
                return secret.value
        return None if services.config.weights.share_hub_token else ""

    storage, config = services.files.storage, lambda: services.config
    accepted = services.entries.put_in_force
    jobs = WeightJobs(services.weights, storage, services.catalog, config, token_of, accepted)
    jobs.start()
    stack.push_async_callback(jobs.aclose)
    return jobs


def start_jobs(
    stack: AsyncExitStack,
    jobs: Jobs,
    handlers: Sequence[JobHandler],
    metrics: QueueMeter,
    rest: Rest,
) -> None:
    """Start to run background jobs."""
    worker = JobWorker(jobs, handlers, metrics)
    worker.start(rest)
    stack.push_async_callback(worker.aclose)


PLACEMENT_EVERY_S = 5.0


def explain_waits(
    stack: AsyncExitStack,
    stats: QueueStats,
    placement: PlacementCheck,
    metrics: QueueMeter,
    rest: Rest,
) -> None:
    """Tell clients whose requests wait for a pool that fits on no node, and for which others a
    replica will start."""

    async def look() -> None:
        stats.unplaceable = await placement.unplaceable({pool for pool, _ in stats.stages()})
        stats.startable = frozenset(placement.pools).difference(stats.unplaceable)

    task = PeriodicTask(PLACEMENT_EVERY_S, {"placement": look}, metrics)
    task.start(rest)
    stack.push_async_callback(task.aclose)

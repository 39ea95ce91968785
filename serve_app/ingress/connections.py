"""Connections that an ingress process opens before it serves, and closes at its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import shutil
from contextlib import AsyncExitStack
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pydantic import SecretStr
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

from serve_app.domain.errors import DarkroomError, Misconfigured
from serve_app.domain.ports import Clock
from serve_app.embedded_postgres.embedded import EmbeddedPostgres
from serve_app.ingress.openai.batches.worker import EVERY_S, LEADS_EVERY_S, BatchWorker
from serve_app.ingress.services.live_tenants import LiveTenants
from serve_app.ingress.services.services import Identity, Services
from serve_app.ingress.services.sign_in import sign_in_of
from serve_app.postgres import fair_reads
from serve_app.postgres.database import Database, shared_secret
from serve_app.postgres.leader_election import LeaderElection
from serve_app.provenance.certificates import (
    CERTIFICATES_FILE,
    local_identity,
    operators_identity,
    problems,
)
from serve_app.provenance.signer import ClaimSigner
from serve_app.queue.reaper import PeriodicTask
from serve_app.queue.transactions.lease import is_held
from serve_app.settings import Config, Secrets
from serve_app.storage.directory import DirectoryStorage
from serve_app.storage.selection import create_storage
from serve_app.telemetry.metrics import Metrics, MetricsServer
from serve_app.telemetry.version import package_version
from serve_app.tenants.first_key import ensure_first_key
from serve_app.tenants.key_ring import KeyRing
from serve_app.tenants.tenants import PostgresTenants
from serve_app.tenants.tokens import Tokens, UploadTokens

if TYPE_CHECKING:
    from serve_app.storage.s3.storage import S3Storage

log = logging.getLogger(__name__)

KEYS_LIMIT_S = 5.0
"""Limit of a statement about keys, which every call waits for."""
USES_EVERY_S = 60.0
"""How often the keys that were used are written."""


async def open_server(stack: AsyncExitStack, config: Config, secrets: Secrets) -> str:
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


async def open_tenants(database: Database, clock: Clock) -> LiveTenants:
    """Limits of tenants that operators have set. Their owner starts and closes them."""
    tenants = LiveTenants(PostgresTenants(database, clock))
    await tenants.refresh()
    return tenants


async def start_workers(
    stack: AsyncExitStack, services: Services, election: LeaderElection
) -> None:
    """Send webhooks, and validate and run batches while this process leads."""
    await services.webhooks.start()
    stack.push_async_callback(services.webhooks.aclose)
    worker, every_s = BatchWorker(services), LEADS_EVERY_S
    for name, work in (
        ("validate_batches", worker.validate),
        ("run_batches", worker.advance_often),
    ):
        led = election.on_leader(name, every_s, work)
        task = PeriodicTask(EVERY_S, {name: led}, services.metrics.queue)
        task.start()
        stack.push_async_callback(task.aclose)


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
        if await ensure_first_key(keys, text_of(secrets.api_key) or None, path) is not None:
            log.info("The first API key was written to %s.", path)
    uses = PeriodicTask(USES_EVERY_S, {"key uses": keys.write_uses}, metrics.queue)
    uses.start()
    stack.push_async_callback(_last_uses, keys)
    stack.push_async_callback(uses.aclose)
    return Identity(
        keys,
        Tokens(await shared_secret(database, "tokens"), clock),
        UploadTokens(await shared_secret(database, "upload_tokens"), clock),
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
) -> DirectoryStorage | S3Storage:
    """Storage of artifacts. ``internal_url``: at which replicas reach this process."""
    secret = await shared_secret(database, "upload_tickets")
    storage = create_storage(config, secrets, secret, internal_url, clock)
    await storage.start()
    stack.push_async_callback(storage.aclose)
    return storage


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
            given = config.provenance.signing_certificate, text_of(secrets.signing_key)
            identity = await asyncio.to_thread(operators_identity, *given)
        for problem in problems(identity, clock.now()):
            log.warning("%s", problem)
        path = config.server.data_dir / CERTIFICATES_FILE
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(path.write_text, identity.chain)
    return ClaimSigner(identity, partial(is_held, database), metrics.file_signed, clock.now)


def serve_metrics(stack: AsyncExitStack, config: Config, metrics: Metrics) -> None:
    """Serve the process's metrics on their own port."""
    telemetry, directory = config.telemetry, config.server.data_dir
    metrics.built(package_version(), platform.python_version())
    metrics.watch_disk(lambda: shutil.disk_usage(directory).free)
    server = MetricsServer(
        metrics.registry,
        telemetry.metrics_port,
        telemetry.metrics_host,
        config.server.ingress_replicas,
    )
    server.start()
    stack.callback(server.close)
    log.info("Prometheus metrics are at http://%s:%d/metrics.", telemetry.metrics_host, server.port)


def log_slow_proxy() -> None:
    """Log a hint if Ray was started with its slow Python proxy, as a bare `serve run` does."""
    if not RAY_SERVE_ENABLE_HA_PROXY:
        log.info(
            "Ray's Python proxy carries the HTTP traffic. HAProxy carries about five times as "
            "much: set RAY_SERVE_ENABLE_HA_PROXY=1 and RAY_SERVE_THROUGHPUT_OPTIMIZED=1 before "
            "Ray starts (`darkroom serve` does)."
        )

"""Ray Serve deployment class of a pool of executors. It needs neither torch nor an engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import SystemRandom
from tempfile import gettempdir

import ray
from ray import serve

from deployments.executors.base import AppExecutor
from deployments.executors.code import AppCode
from deployments.executors.environment import Environments
from deployments.executors.hosts import AppHost
from deployments.executors.python_app import AppSpec, PythonAppExecutor
from deployments.executors.replica import ExecutorReplica, ExecutorResources
from deployments.ingress_client.handle import HandleLeasePort
from deployments.ingress_client.local import LocalLeasePort
from deployments.replica.config import IngressLink, ReplicaConfig, ReplicaIdentity
from deployments.transfer.fetcher import Fetcher, MinRate, fetcher_client
from deployments.transfer.uploader import Backoff, Uploader, http_client
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.name_resolution import MAX_THREADS, NameResolver
from serve_app.loopback import keep_to_loopback
from serve_app.telemetry import logs
from serve_app.telemetry.clock import SystemClock


class ExecutorDeployment:
    """Deployment of a pool of executors. Serve awaits the constructor, so that also starts what it
    creates."""

    _replica: ExecutorReplica | None = None
    _port: LocalLeasePort | None = None

    async def __init__(  # pyright: ignore[reportGeneralTypeIssues]  # Serve awaits it
        self, pool: str, config: ReplicaConfig, ingress_name: str, app_name: str | None = None
    ) -> None:
        """``app_name``: application of the ingress. None: the same application as this replica."""
        keep_to_loopback()
        logs.configure(config.log_level, logs.stream(config.log_file), config.log_format)
        logs.quiet_serve()
        context = serve.get_replica_context()
        identity = ReplicaIdentity(
            replica_id=context.replica_id.unique_id,
            actor_id=ray.get_runtime_context().get_actor_id() or "",
            pool=pool,
            node=ray.util.get_node_ip_address(),
        )
        handle = serve.get_deployment_handle(
            ingress_name, app_name or context.app_name, _check_exists=False
        )
        handle_port = HandleLeasePort(handle)
        self._port = LocalLeasePort(
            handle_port, handle_port.socket_path, find_remote=handle_port.remote_line
        )
        clock, backoff = SystemClock(), Backoff(SystemRandom())
        link = IngressLink(self._port, identity, config.calls, clock, backoff)
        self._scratch = Path(gettempdir()) / f"darkroom-apps-{identity.replica_id}"
        transfers = config.transfers
        code = AppCode(config.apps_dir / "code", handle_port.app_bundle)
        resources = ExecutorResources(
            host=AppHost(
                executor_maker(config.apps_dir, code, self._scratch),
                max_apps=1 if config.needs_gpu else config.max_apps,
            ),
            fetcher=Fetcher(
                fetcher_client(),
                NameResolver(per_tenant=MAX_THREADS),
                max_bytes=transfers.max_input_bytes,
                timeout_s=transfers.fetch_timeout_s,
                allow_private=transfers.allow_private_urls,
                min_rate=MinRate(transfers.min_bytes_per_s),
            ),
            uploader=Uploader(http_client(), clock, backoff, transfers.upload_give_up_s),
            tickets=handle_port,
            scratch=self._scratch,
        )
        self._replica = ExecutorReplica(link, resources, config.slots, config.close_within_s)
        await self._replica.start()

    async def check_health(self) -> None:
        """Health check of Serve. If it raises, Serve replaces the replica."""
        if self._replica is not None:
            self._replica.check_health()

    async def __del__(self) -> None:
        if self._replica is not None:
            await self._replica.aclose()
        if self._port is not None:
            await self._port.aclose()
        shutil.rmtree(self._scratch, ignore_errors=True)


def executor_maker(
    directory: Path, code: AppCode, scratch: Path
) -> Callable[[Endpoint], tuple[str, Callable[[], AppExecutor]]]:
    """Function that makes the executor of an endpoint. ``directory``: of environments, on this
    node. ``scratch``: for the files of its processes."""
    environments = Environments(directory / "environments")

    def make(endpoint: Endpoint) -> tuple[str, Callable[[], AppExecutor]]:
        spec = AppSpec.of(endpoint)
        home = scratch / "homes" / spec.bundle[:12]
        return spec.key, partial(PythonAppExecutor, spec, code.folder, environments, home)

    return make

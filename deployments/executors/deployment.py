"""Ray Serve deployment class of a pool of executors. It needs neither torch nor an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from deployments.engine.media.scratch import new_folder, remove_abandoned
from deployments.executors.code import AppCode
from deployments.executors.environment import Environments
from deployments.executors.hosts import AppHost
from deployments.executors.kind import AppPlan, ExecutorContext
from deployments.executors.registry import EXECUTORS, find_kinds
from deployments.executors.replica import ExecutorReplica, ExecutorResources, repeat_calls
from deployments.replica.config import ReplicaConfig, connect, make_fetcher, make_uploader
from deployments.replica.serving import ReplicaDeployment, end_process
from deployments.safety.checkers import Checkers
from deployments.transfer.uploader import StorageCalls
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.held_folder import HeldFolder
from serve_app.domain.lease import LeaseKey
from serve_app.domain.realtime import AppMessages
from weights.store import Store


class ExecutorDeployment(ReplicaDeployment[ExecutorReplica]):
    """Deployment of a pool of executors."""

    _scratch: HeldFolder | None = None

    async def __init__(  # Serve awaits it
        self, pool: str, config: ReplicaConfig, ingress_name: str, app_name: str | None = None
    ) -> None:
        """``app_name``: application of the ingress. None: the same application as this replica."""
        await asyncio.to_thread(remove_abandoned)
        self._scratch = new_folder()
        scratch = self._scratch.path
        connection = connect(pool, config, ingress_name, app_name)
        handle_port, link, self._port = connection.handle, connection.link, connection.port
        transfers, calls = config.transfers, StorageCalls()
        context = ExecutorContext(
            config,
            AppCode(config.apps_dir / "code", repeat_calls(handle_port, link).app_bundle).folder,
            Environments(config.apps_dir / "environments"),
            handle_port,
        )
        resources = ExecutorResources(
            host=AppHost(
                partial(plan, context),
                max_apps=1 if config.needs_gpu else config.max_apps,
                homes=scratch / "homes",
            ),
            fetcher=make_fetcher(transfers, transfers.max_input_bytes, calls=calls),
            uploader=make_uploader(transfers, link.clock, link.backoff, calls),
            storage_calls=calls,
            ingress=handle_port,
            scratch=scratch / "requests",  # apart from homes, whose files an app may deliver
            checkers=Checkers(Store(config.weights)),
            signer=handle_port,
        )
        self._replica = ExecutorReplica(
            link,
            resources,
            config.slots,
            config.close_within_s,
            end_process=end_process,
        )
        await self._replica.start()
        for kind in find_kinds():
            if (first := kind.at_start(context)) is not None:
                resources.host.begin(first)

    # Called by the ingress for sessions. ``replica_id`` routed the call to this replica.

    async def send_message(
        self, replica_id: str, lease_key: LeaseKey, message: bytes | str
    ) -> None:
        del replica_id
        await self._started.sessions.send_message(lease_key, message)

    async def next_messages(
        self, replica_id: str, lease_key: LeaseKey, within_s: float
    ) -> AppMessages:
        del replica_id
        return await self._started.sessions.next_messages(lease_key, within_s)

    async def end_session(self, replica_id: str, lease_key: LeaseKey) -> None:
        del replica_id
        self._started.sessions.end(lease_key)

    async def _aclose(self) -> None:
        if self._scratch is not None:
            self._scratch.remove()


def plan(context: ExecutorContext, endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
    """The app of an endpoint, by the kind of its executor."""
    return EXECUTORS[endpoint.family].plan(context, endpoint, secrets)

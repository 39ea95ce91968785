"""Ray Serve deployment class of a pool of executors. It needs neither torch nor an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from deployments.engine.media.scratch import HeldFolder, remove_abandoned
from deployments.executors.base import AppExecutor
from deployments.executors.code import AppCode
from deployments.executors.cog.executor import CogExecutor, CogServerExecutor, CogSpec
from deployments.executors.comfyui.executor import ComfyUiExecutor, Describe
from deployments.executors.comfyui.server import comfyui_server
from deployments.executors.comfyui.workflow import ComfyUiWorkflow
from deployments.executors.environment import Environments
from deployments.executors.hosted.calls import ProviderClient
from deployments.executors.hosted.executor import HostedExecutor
from deployments.executors.hosts import AppHost, AppPlan, MakeExecutor, secrets_version, variables
from deployments.executors.python_app import AppSpec, PythonAppExecutor
from deployments.executors.registry import COG, COMFYUI, PYTHON
from deployments.executors.replica import ExecutorReplica, ExecutorResources, repeated
from deployments.replica.config import (
    ReplicaConfig,
    TransferConfig,
    connect,
    make_fetcher,
    make_uploader,
)
from deployments.replica.serving import ReplicaDeployment, end_process
from deployments.safety.checkers import Checkers
from deployments.transfer.uploader import StorageCalls
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.hosted import PROVIDERS
from serve_app.domain.executors.secrets import Secret
from serve_app.domain.lease import LeaseKey
from serve_app.domain.ports import AppSource
from serve_app.domain.realtime import AppMessages
from weights.store import Store

MAX_OUTPUT_BYTES = 2 * 2**30  # of a file that a hosted provider made
OUTPUT_WITHIN_S = 900.0


class ExecutorDeployment(ReplicaDeployment[ExecutorReplica]):
    """Deployment of a pool of executors."""

    _scratch: HeldFolder | None = None

    async def __init__(  # pyright: ignore[reportGeneralTypeIssues]  # Serve awaits it
        self, pool: str, config: ReplicaConfig, ingress_name: str, app_name: str | None = None
    ) -> None:
        """``app_name``: application of the ingress. None: the same application as this replica."""
        await asyncio.to_thread(remove_abandoned)
        self._scratch = HeldFolder()
        scratch = self._scratch.path
        made = connect(pool, config, ingress_name, app_name)
        handle_port, link, self._port = made.handle, made.link, made.port
        transfers, calls = config.transfers, StorageCalls()
        code = AppCode(config.apps_dir / "code", repeated(handle_port, link).app_bundle)
        hosted = hosted_maker(handle_port, transfers)
        comfyui = comfyui_plan(config, handle_port.describe_comfyui)
        resources = ExecutorResources(
            host=AppHost(
                executor_maker(config, code, hosted, comfyui),
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
        if config.comfyui is not None:
            # Its clients want to know its nodes before they send anything.
            resources.host.begin(comfyui)

    # Called by the ingress for sessions. ``replica_id`` routed the call to this replica.

    async def send_message(self, replica_id: str, held: LeaseKey, message: bytes | str) -> None:
        del replica_id
        await self._started.sessions.send_message(held, message)

    async def next_messages(self, replica_id: str, held: LeaseKey, within_s: float) -> AppMessages:
        del replica_id
        return await self._started.sessions.next_messages(held, within_s)

    async def end_session(self, replica_id: str, held: LeaseKey) -> None:
        del replica_id
        self._started.sessions.end(held)

    async def _aclose(self) -> None:
        if self._scratch is not None:
            self._scratch.remove()


def comfyui_plan(config: ReplicaConfig, describe: Describe | None = None) -> AppPlan:
    """App that runs all workflows of ComfyUI. ``describe`` gets its nodes and models."""

    def made(home: Path) -> ComfyUiExecutor:
        weights = config.weights.directory
        server = comfyui_server(config.comfyui, home, weights, gpu=config.needs_gpu)
        return ComfyUiExecutor(server, describe)

    return AppPlan(COMFYUI, made)


def executor_maker(
    config: ReplicaConfig,
    code: AppCode,
    hosted: Callable[[], AppExecutor],
    workflows: AppPlan,
) -> MakeExecutor:
    """Function that makes the executor of an endpoint. ``hosted`` makes the executor of a provider;
    ``workflows``: the app of ComfyUI."""
    directory = config.apps_dir
    environments = Environments(directory / "environments")

    def python(endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
        spec = AppSpec.of(endpoint)
        given = variables(endpoint, secrets)
        data = directory / "data"

        def made(home: Path) -> PythonAppExecutor:
            return PythonAppExecutor(spec, code.folder, environments, home, data, given)

        return AppPlan(spec.key, made, secrets_version(given))

    def cog(endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
        del secrets  # a project of Cog's names none
        spec = CogSpec.of(endpoint)
        if spec.url:
            return AppPlan(spec.key, lambda _: CogServerExecutor(spec))
        return AppPlan(spec.key, partial(CogExecutor, spec, code.folder, environments))

    def comfyui(endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
        del secrets  # ComfyUI has one process for all workflows, so none may have its own
        ComfyUiWorkflow.of(endpoint)  # Misconfigured before a process is started for it
        return workflows

    def provider(endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
        del secrets  # they are those of a request's tenant, and go with its call
        return AppPlan(endpoint.family, lambda _: hosted())

    makers = {PYTHON: python, COG: cog, COMFYUI: comfyui, **dict.fromkeys(PROVIDERS, provider)}
    return lambda endpoint, secrets: makers[endpoint.family](endpoint, secrets)


def hosted_maker(source: AppSource, transfers: TransferConfig) -> Callable[[], AppExecutor]:
    """Function that makes the executor of a hosted provider."""
    fetcher = partial(make_fetcher, transfers, MAX_OUTPUT_BYTES, OUTPUT_WITHIN_S)
    return partial(HostedExecutor, ProviderClient, source, fetcher)

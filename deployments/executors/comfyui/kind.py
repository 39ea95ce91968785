"""Executor of ComfyUI workflows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from deployments.executors.comfyui.deploying import deploy
from deployments.executors.comfyui.executor import ComfyUiExecutor
from deployments.executors.comfyui.server import comfyui_server
from deployments.executors.comfyui.workflow import COMFYUI, ComfyUiWorkflow
from deployments.executors.kind import AppPlan, ExecutorContext, ExecutorKind
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.secrets import Secret


def plan(context: ExecutorContext, endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
    del secrets  # ComfyUI has one process for all workflows, so none may have its own
    ComfyUiWorkflow.of(endpoint)  # Misconfigured before a process is started for it
    return server_plan(context)


def server_plan(context: ExecutorContext) -> AppPlan:
    """App that runs all workflows."""
    config = context.config

    def make(home: Path) -> ComfyUiExecutor:
        weights = config.weights.directory
        settings = config.executors.get(COMFYUI)
        server = comfyui_server(settings, home, weights, gpu=config.needs_gpu)
        return ComfyUiExecutor(server, partial(context.ingress.for_executor, "describe_comfyui"))

    return AppPlan(COMFYUI, make)


def at_start(context: ExecutorContext) -> AppPlan | None:
    """Its clients want to know its nodes before they send anything."""
    return server_plan(context) if COMFYUI in context.config.executors else None


KIND = ExecutorKind((COMFYUI,), plan, deploy, at_start)

"""Executor of ComfyUI workflows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deployments.executors.comfyui.deploying import deploy
from deployments.executors.comfyui.executor import ComfyUiExecutor
from deployments.executors.comfyui.server import comfyui_server
from deployments.executors.comfyui.workflow import COMFYUI, ComfyUiWorkflow
from deployments.executors.kind import AppPlan, ExecutorKind, Node
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.secrets import Secret


def plan(node: Node, endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
    del secrets  # ComfyUI has one process for all workflows, so none may have its own
    ComfyUiWorkflow.of(endpoint)  # Misconfigured before a process is started for it
    return server_plan(node)


def server_plan(node: Node) -> AppPlan:
    """App that runs all workflows."""
    config = node.config

    def made(home: Path) -> ComfyUiExecutor:
        weights = config.weights.directory
        server = comfyui_server(config.comfyui, home, weights, gpu=config.needs_gpu)
        return ComfyUiExecutor(server, node.ingress.describe_comfyui)

    return AppPlan(COMFYUI, made)


def at_start(node: Node) -> AppPlan | None:
    """Its clients want to know its nodes before they send anything."""
    return None if node.config.comfyui is None else server_plan(node)


KIND = ExecutorKind((COMFYUI,), plan, deploy, at_start)

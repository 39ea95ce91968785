"""Executor of code: classes written with ``darkroom`` or for fal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deployments.executors.hosts import secrets_version, variables
from deployments.executors.kind import AppPlan, ExecutorKind, Node
from deployments.executors.python.deploying import deploy
from deployments.executors.python.executor import AppSpec, PythonAppExecutor
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.secrets import Secret


def plan(node: Node, endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
    spec = AppSpec.of(endpoint)
    given = variables(endpoint, secrets)
    data = node.config.apps_dir / "data"

    def made(home: Path) -> PythonAppExecutor:
        return PythonAppExecutor(spec, node.code, node.environments, home, data, given)

    return AppPlan(spec.key, made, secrets_version(given))


KIND = ExecutorKind(("python",), plan, deploy)

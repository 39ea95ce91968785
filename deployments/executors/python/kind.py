"""Executor of code: classes written with ``darkroom`` or for fal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deployments.executors.hosts import secrets_version, variables
from deployments.executors.kind import AppPlan, ExecutorContext, ExecutorKind
from deployments.executors.python.deploying import deploy
from deployments.executors.python.executor import AppSpec, PythonAppExecutor
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.secrets import Secret


def plan(context: ExecutorContext, endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
    spec = AppSpec.of(endpoint)
    environment = variables(endpoint, secrets)
    data = context.config.apps_dir / "data"

    def make(home: Path) -> PythonAppExecutor:
        return PythonAppExecutor(spec, context.code, context.environments, home, data, environment)

    return AppPlan(spec.key, make, secrets_version(environment))


KIND = ExecutorKind(("python",), plan, deploy)

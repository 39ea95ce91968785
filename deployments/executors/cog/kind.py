"""Executor of Cog models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from deployments.executors.cog.deploying import deploy
from deployments.executors.cog.executor import COG, CogExecutor, CogServerExecutor, CogSpec
from deployments.executors.kind import AppPlan, ExecutorContext, ExecutorKind
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.secrets import Secret


def plan(context: ExecutorContext, endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
    del secrets  # a project of Cog's names none
    spec = CogSpec.of(endpoint)
    if spec.url:
        return AppPlan(spec.key, lambda _: CogServerExecutor(spec))
    return AppPlan(spec.key, partial(CogExecutor, spec, context.code, context.environments))


KIND = ExecutorKind((COG,), plan, deploy)

"""Executor of hosted providers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from deployments.executors.hosted.calls import ProviderClient
from deployments.executors.hosted.executor import HostedExecutor
from deployments.executors.kind import AppPlan, ExecutorContext, ExecutorKind
from deployments.replica.config import make_fetcher
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.executors.kinds import PROVIDERS
from serve_app.domain.executors.secrets import Secret

MAX_OUTPUT_BYTES = 2 * 2**30  # of a file that a provider made
OUTPUT_WITHIN_S = 900.0


def plan(context: ExecutorContext, endpoint: Endpoint, secrets: Sequence[Secret]) -> AppPlan:
    del secrets  # they are those of a request's tenant, and go with its call
    fetcher = partial(make_fetcher, context.config.transfers, MAX_OUTPUT_BYTES, OUTPUT_WITHIN_S)
    executor = partial(HostedExecutor, ProviderClient, context.ingress, fetcher)
    return AppPlan(endpoint.family, lambda _: executor())


KIND = ExecutorKind(PROVIDERS, plan)

"""Deployments and hardware: each served endpoint is a deployment of its name, in its pool."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.catalog.catalog import CatalogEntry
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Time
from serve_app.ingress.http.openapi import Operation, answer
from serve_app.ingress.replicate import predictions
from serve_app.ingress.replicate.errors import ERRORS, TAG
from serve_app.ingress.replicate.models import (
    LONG_AGO,
    ReplicateAccount,
    named_model,
    page_of_served,
)
from serve_app.ingress.replicate.prediction import CURSOR, ReplicatePage, model_id
from serve_app.ingress.services.services import Services, services_of
from serve_app.ingress.submission.model_lookup import served_models


class ReplicateHardware(TypedDict):
    """Pool of replicas."""

    sku: str
    name: str


class DeploymentConfiguration(TypedDict):
    hardware: str
    min_instances: int
    max_instances: int


class DeploymentRelease(TypedDict):
    number: int
    model: str
    version: str
    created_at: Time
    created_by: ReplicateAccount | None
    configuration: DeploymentConfiguration


class ReplicateDeployment(TypedDict):
    """Endpoint as a deployment. ``min_instances`` is its warm target, ``max_instances`` the limit
    of its pool."""

    owner: str
    name: str
    current_release: DeploymentRelease


class ReplicateDeploymentPage(ReplicatePage):
    results: list[ReplicateDeployment]


async def list_deployments(request: HttpRequest) -> Response:
    """List the served endpoints in the catalog's order, page by page."""
    caller, services = await authenticate(request), services_of(request)
    page, following = page_of_served(request, caller, "deployments")
    results = [_deployment(services, entry) for entry in page]
    body: ReplicateDeploymentPage = {"previous": None, "next": following, "results": results}
    return json_reply(body)


async def show(request: HttpRequest) -> Response:
    entry = named_model(request, await authenticate(request))
    return json_reply(_deployment(services_of(request), entry))


async def hardware(request: HttpRequest) -> Response:
    """List the pools that run the served endpoints."""
    services = services_of(request)
    served = served_models(services, await authenticate(request))
    pools = dict.fromkeys(pool for entry in served if (pool := services.pool_if_any(entry)))
    body: list[ReplicateHardware] = [
        {"sku": name, "name": _name_of_pool(services, name)} for name in pools
    ]
    return json_reply(body)


LIST = Operation(
    "replicateListDeployments",
    "List the endpoints that are served, each as a deployment",
    {200: answer("A page.", ReplicateDeploymentPage)},
    errors=(422,),
    parameters=(CURSOR,),
    tag=TAG,
    error_format=ERRORS,
)
SHOW = replace(
    LIST,
    name="replicateGetDeployment",
    summary="Show an endpoint as a deployment",
    responses={200: answer("The deployment.", ReplicateDeployment)},
    errors=(404, 422),
    parameters=(predictions.OWNER, predictions.NAME),
)
PREDICT = replace(
    predictions.CREATE_OF_MODEL,
    name="replicateCreateDeploymentPrediction",
    summary="Submit a request to a deployment's endpoint",
)
HARDWARE = replace(
    LIST,
    name="replicateListHardware",
    summary="List the pools that run the served endpoints",
    responses={200: answer("The pools.", list[ReplicateHardware])},
    errors=(),
    parameters=(),
)


def _deployment(services: Services, entry: CatalogEntry) -> ReplicateDeployment:
    endpoint, pool = entry.endpoint, services.pool_if_any(entry)
    model = model_id(endpoint.id)
    owner, _, name = model.partition("/")
    targets = [
        state for state in services.warm.states if state.endpoint == endpoint.id and state.pool
    ]
    least = max((target.replicas for target in targets), default=0)
    config = services.pools.configured.get(pool)
    return {
        "owner": owner,
        "name": name,
        "current_release": {
            "number": 1,
            "model": model,
            "version": endpoint.digest,
            "created_at": LONG_AGO,
            "created_by": None,
            "configuration": {
                "hardware": pool,
                "min_instances": least,
                "max_instances": max(1, least) if config is None else config.max_replicas,
            },
        },
    }


def _name_of_pool(services: Services, pool: str) -> str:
    memory = services.pools.device_bytes(pool)
    return f"Pool {pool}" if memory is None else f"Pool {pool} ({memory / 1e9:.0f} GB GPUs)"

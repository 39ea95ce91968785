"""Workflows: chains of endpoints that tenants register, each of which is an endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from serve_app.resources.declaration import Owner, Resource
from serve_app.tenants.scopes import SUBMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownWorkflow:
    """A registered workflow."""

    endpoint_id: Annotated[str, Field(description="Call it like any endpoint.")]
    name: str
    tenant: str
    title: str
    description: str
    public: bool
    served: bool
    reason: Annotated[str | None, Field(description="Why it is not served.")]
    steps: Annotated[Mapping[str, str], Field(description="Endpoint of each step.")]
    input_schema: Annotated[Mapping[str, Any], Field(description="JSON Schema of the input.")]
    source: Annotated[
        Mapping[str, Any] | None,
        Field(description="As it was sent; null for a workflow of another tenant."),
    ]
    created_at: datetime | None
    changed_at: datetime | None


WORKFLOWS = Resource(
    name="workflow",
    path="/v1/workflows",
    model=ShownWorkflow,
    key="name",
    key_description="Name of the workflow.",
    cursor="endpoint_id",
    change_scope=SUBMIT,
    owner=Owner.TENANT,
    about="chains of endpoints, called as one",
    has_show=True,
    deletion="Requests that have started continue; those that have not fail.",
    other_tables=("workflows", "workflow_runs"),
    columns=("endpoint_id", "title", "public", "served", "reason"),
)

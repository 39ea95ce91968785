"""Tenants, with the limits and the budget that are in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from serve_app.resources.declaration import Column, Owner, Resource
from serve_app.tenants.scopes import OPERATOR


@dataclass(frozen=True, slots=True)
class TenantLimit:
    """Limit in force, and where it comes from."""

    value: Annotated[float | str | None, Field(description="Null: no limit.")]
    source: Annotated[
        Literal["api", "file", "default"],
        Field(
            description="`api`: set by an operator. `file`: the settings for this tenant. "
            "`default`: the settings for all tenants."
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantBudget:
    """Budget in force, and where it comes from."""

    amount: Annotated[str, Field(description="Text, because it is exact.")]
    currency: str
    period: Literal["day", "month"]
    warn_at: tuple[float, ...]
    stop: bool
    webhook: str | None
    source: Annotated[Literal["api", "file"], Field(description="As of limits.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStatus:
    """Tenant, with the limits in force: its own, or those of all tenants."""

    tenant: str
    name: str
    created_at: datetime
    disabled_at: Annotated[datetime | None, Field(description="Null: it is enabled.")]
    valid_keys: Annotated[int, Field(description="Neither revoked nor expired.")]
    weight: Annotated[float, Field(description="Share relative to other tenants.")]
    max_running: Annotated[int | None, Field(description="Null: no limit.")]
    max_waiting: int
    max_waiting_bytes: int
    uploads_bytes: Annotated[int, Field(description="Of its uploaded files.")]
    max_uploads_bytes: int
    retention_days: Annotated[float | None, Field(description="Null: kept for ever.")]
    storage: Annotated[
        str | None,
        Field(description="Storage location of its new files. Null: the installation's own."),
    ]
    limits: Annotated[
        Mapping[str, TenantLimit], Field(description="Every limit, with where it comes from.")
    ]
    budget: Annotated[TenantBudget | None, Field(description="Null: it may spend any amount.")]


TENANTS = Resource(
    name="tenant",
    path="/v1/tenants",
    model=TenantStatus,
    key="tenant",
    key_description="Id of the tenant.",
    scope=OPERATOR,
    owner=Owner.INSTALLATION,
    has_show=True,
    columns=(
        *("tenant", Column("name", under="tenant")),
        *(Column("disabled_at", "Disabled", under="tenant"), "valid_keys", "weight"),
        Column("max_running", "Most running", "any"),
        Column("max_waiting", "Most queued"),
        Column("uploads_bytes", "Uploaded files"),
        Column("max_uploads_bytes", "Limit", under="uploads_bytes"),
        Column("retention_days", "Days kept", "for ever"),
    ),
)

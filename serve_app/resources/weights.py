"""Registered weights: LoRAs and fine-tunes of tenants, fetched and checked in the background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from serve_app.resources.declaration import Column, Owner, Resource
from serve_app.tenants.scopes import FILES


@dataclass(frozen=True, slots=True)
class RegisteredWeightFile:
    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredWeights:
    """Registered weights."""

    name: str
    tenant: str
    path: Annotated[str, Field(description="The `path` of a LoRA in a request.")]
    kind: Annotated[
        Literal["lora", "finetune", ""], Field(description="Empty: not known before the check.")
    ]
    base: str
    state: Literal["waiting", "fetching", "checking", "ready", "refused"]
    problem: Annotated[str | None, Field(description="Why they were refused.")]
    size: Annotated[int, Field(description="Bytes that count towards the quota.")]
    fetched_bytes: int
    files: Sequence[RegisteredWeightFile]
    source: Annotated[str | None, Field(description="Null for those of another tenant.")]
    endpoint: Annotated[str | None, Field(description="Private endpoint that serves them.")]
    scale: float
    public: Annotated[bool, Field(description="An operator lets all tenants use them.")]
    created_at: datetime
    changed_at: datetime


WEIGHTS = Resource(
    name="set of weights",
    plural="weights",
    parameter="weights",
    path="/v1/weights",
    model=RegisteredWeights,
    key="name",
    key_description="Name of the weights.",
    cursor="path",
    scope=FILES,
    owner=Owner.TENANT,
    has_show=True,
    deletion="Requests that name them are refused from then on. Their private endpoint ends.",
    force="Also while their endpoint has queued or running requests. Queued ones then fail.",
    below="{used_bytes} of {max_bytes} are used.",
    other_tables=("tenant_weights",),
    columns=(
        *(Column("path", "Weights"), "state", Column("kind", absent="not known yet")),
        *(
            Column("base", "For"),
            "size",
            Column("fetched_bytes", "Fetched", under="size"),
            "endpoint",
        ),
        *(Column("public", "For all tenants"), "problem"),
    ),
)

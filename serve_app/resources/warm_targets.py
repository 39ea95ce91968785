"""Warm targets: endpoints whose weights replicas keep loaded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from serve_app.domain.operations import WeightsLevel
from serve_app.resources.declaration import Column, Owner, Resource
from serve_app.tenants.scopes import OPERATOR


@dataclass(frozen=True, slots=True)
class WarmTargetStatus:
    """Warm target that is in force."""

    endpoint_id: Annotated[str, Field(description="Empty: only replicas.")]
    pool: Annotated[str, Field(description="Empty: it has no effect; `problems` says why.")]
    replicas: int
    level: WeightsLevel
    source: Literal["operator", "configuration"]
    until: datetime | None
    ready_replicas: Annotated[
        int, Field(description="Ready replicas that hold the weights at this level.")
    ]
    problems: tuple[str, ...]


WARM_TARGETS = Resource(
    name="warm target",
    path="/v1/warm",
    model=WarmTargetStatus,
    key="endpoint_id",
    key_description="Its slashes are not escaped.",
    key_has_slashes=True,
    scope=OPERATOR,
    owner=Owner.INSTALLATION,
    deletion="Others may take the place of its weights. Targets of the configuration stay.",
    empty="No model is kept warm.",
    columns=(
        Column("endpoint_id", "Model", "any"),
        *("pool", "level", Column("ready_replicas", "Ready"), "replicas"),
        Column("until", absent="deleted"),
        Column("source", "Set by"),
        "problems",
    ),
)

"""Entries of the catalogue that operators add while Darkroom runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from serve_app.resources.declaration import Owner, Resource
from serve_app.tenants.scopes import OPERATOR


@dataclass(frozen=True, slots=True)
class StoredModel:
    """Entry of the database."""

    endpoint_id: str
    entry: Annotated[Mapping[str, Any], Field(description="As it was written.")]
    changed_at: datetime
    changed_by: Annotated[str, Field(description="Id of an API key.")]
    problem: Annotated[
        str | None, Field(description="Why it is not valid in this version, and not in force.")
    ]


ENTRIES = Resource(
    name="entry",
    plural="entries",
    path="/v1/models/entries",
    model=StoredModel,
    key="endpoint_id",
    key_description="Id of the endpoint. Its slashes are not escaped.",
    key_has_slashes=True,
    scope=OPERATOR,
    owner=Owner.INSTALLATION,
    has_show=True,
    columns=("endpoint_id", "changed_at", "changed_by", "problem"),
)
